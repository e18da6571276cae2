"""`benchmarks/day.py`: its arithmetic, and CPU seconds of processes that have ended."""

import subprocess
import sys

import psutil
import pytest
from day import summary
from day_run_worker import cpu_seconds, tree

BURN = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"


def day(seconds: float, cpu_s: float, train: dict) -> dict:
    return {"day": "2026-01-01", "seconds": seconds, "cpu_s": cpu_s, "stages": {"train": train}}


def test_the_first_day_of_each_way_is_cold_and_left_out():
    airflow = {
        "days": [
            day(100, 90, {"seconds": 30}),
            day(40, 50, {"seconds": 5}),
            day(60, 70, {"seconds": 7}),
        ]
    }
    train = {"seconds": 4.0, "cpu_s": 3.0}
    run = {"days": [day(50, 60, {"seconds": 9.0, "cpu_s": 9.0}), day(20, 25, train)]}
    assert summary({"airflow": airflow, "run": run}) == {
        "airflow_day_s": 50,
        "airflow_day_cpu_s": 60,
        "run_day_s": 20,
        "run_day_cpu_s": 25,
        "stages": {"train": {"airflow_s": 6, "run_s": 4, "run_cpu_s": 3}},
    }


@pytest.mark.process
def test_what_a_child_used_counts_while_it_runs_and_after_it_ended():
    own = psutil.Process()
    before = cpu_seconds(tree(own))
    with subprocess.Popen(
        [sys.executable, "-c", BURN + "\nprint(flush=True); input()"], stdin=-1, stdout=-1
    ) as child:
        child.stdout.readline()
        running = cpu_seconds(tree(own)) - before
        child.communicate(b"\n")
    ended = cpu_seconds(tree(own)) - before
    assert 0.35 < running <= ended + 0.02
    assert ended < 5
