"""A home and a migrated database of Airflow's own for this session; Airflow reads the home when it is first imported."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HOME = Path(tempfile.mkdtemp(prefix="elastic-ctr-airflow-"))
REPOSITORY = Path(__file__).resolve().parents[2]

os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(REPOSITORY / "dags"),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
)


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """The path of a migrated database (ten seconds, once)."""
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        check=True,
        capture_output=True,
        cwd=REPOSITORY,
    )
    return HOME / "airflow.db"


def pytest_sessionfinish() -> None:
    """Remove the home."""
    import shutil

    shutil.rmtree(HOME, ignore_errors=True)
