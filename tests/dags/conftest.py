"""A home and a migrated database for Airflow in this session."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Set before Airflow is imported, which reads them then.
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
