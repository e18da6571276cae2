"""Equal records from a server and a local session, and from plans for small and large days."""

import subprocess
import sys
from pathlib import Path

import pytest
from spark_chain import contents, work, write_logs

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    source = write_logs(root)
    (root / "source.json").write_text(source.model_dump_json())
    return root, source


@pytest.fixture(scope="module")
def small(spark, days):
    root, source = days
    return work(spark, source, root / "small")


def test_the_days_hold_what_the_plans_must_agree_on(small):
    assert len(small) > 20
    graph = small["graph/2022-05-03/graph.json"]
    assert graph["relations"]["site__tags"]["edges"] > 10
    assert graph["relations"]["site_age__hour"]["edges_capped"] > 0


def test_plans_for_large_days_give_the_same_records(spark, days, small, monkeypatch):
    monkeypatch.setattr("spark_jobs.files.SMALL_BYTES", -1)
    root, source = days
    large = work(spark, source, root / "large")
    assert {name for name in small if large.get(name) != small[name]} == set()


def test_a_local_session_gives_the_same_records(pytestconfig, days, small):
    if pytestconfig.getoption("--spark") == "local":
        pytest.skip("all tests are in a local session")
    root, _ = days
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("spark_chain.py")), str(root)], check=True
    )
    local = contents(root / "local")
    assert {name for name in small if local.get(name) != small[name]} == set()
