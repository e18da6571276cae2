"""The tags that tie a run to its cause."""

import subprocess
from pathlib import Path

import pytest

from pipelines.store.source_digest import source_revision
from pipelines.tracking.sync import run_tags

AIRFLOW = ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "ELASTIC_CTR_AIRFLOW_URL")


def revision():
    """The tag of the checkout's commit; none where git does not answer (an unpacked archive)."""
    if not source_revision():
        return {}
    commit = source_revision().removesuffix("-dirty")
    dirty = str(commit != source_revision()).lower()
    return {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": dirty}


@pytest.fixture(autouse=True)
def outside_airflow(monkeypatch):
    for name in AIRFLOW:
        monkeypatch.delenv(name, raising=False)


def test_configuration_and_data_are_named():
    assert run_tags({"name": "p", "seed": 3}, {"checkpoint": "ab"}) == {
        "config.name": "p",
        "config.seed": "3",
        **revision(),
        "digest.checkpoint": "ab",
    }


def test_inside_airflow_the_run_is_named(monkeypatch):
    for name in AIRFLOW:
        monkeypatch.setenv(name, f"{name} here")
    assert run_tags({}, {}) == {**revision(), **{name.lower(): f"{name} here" for name in AIRFLOW}}


def test_an_empty_variable_is_no_tag(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "")
    assert run_tags({}, {}) == revision()


@pytest.mark.process
def test_the_revision_is_the_checkouts_commit():
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    found = source_revision().removesuffix("-dirty")
    assert found == (asked.stdout.strip() if asked.returncode == 0 else "")
