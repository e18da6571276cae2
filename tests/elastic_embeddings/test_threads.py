"""How many threads a process may use: affinity, quotas of its control groups, the environment."""

import os
import subprocess
import sys

import pytest

from elastic_embeddings.core.threads import VARIABLE, available_cpus, available_threads
from features.errors import InputError


def groups(tmp_path, files, own):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    return tmp_path / "cgroup", tmp_path / "own"


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 3),
        ({"cpu.max": "400000 100000\n"}, "0::/of/the/host\n", 4),
        (
            {"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            "3:cpu,cpuacct:/a\n0::/\n",
            2,
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "3:cpu:/\n9:memory:/x\n",
            8,
        ),
        ({"cpu.max": "nonsense\n"}, "0::/\n", 8),
    ],
)
def test_quotas_by_hand(tmp_path, monkeypatch, files, own, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert available_cpus(*groups(tmp_path, files, own)) == expected


@pytest.mark.process
def test_affinity_counts_not_the_machine_s_cpus(tmp_path):
    """In a process of its own that may run on one CPU."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += (
        "from elastic_embeddings.core.threads import available_threads\nprint(available_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]


def test_where_there_are_no_control_groups_the_affinity_counts(tmp_path):
    assert available_cpus(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))


def test_the_environment_wins(monkeypatch):
    monkeypatch.setenv(VARIABLE, "3")
    assert available_threads() == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5"])
def test_no_number_of_threads_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match=VARIABLE):
        available_threads()
