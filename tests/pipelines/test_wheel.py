"""The wheel holds all that the command line needs, and works from an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel, which was built from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "installed")
    return out / "installed"


def run(installed, folder, *arguments):
    """Run the command line of the unpacked wheel. `-P`: the current folder is not on the path."""
    code = "from pipelines.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.process
def test_the_wheel_holds_configurations_dags_and_the_typed_library(installed):
    for name in (
        "conf/simulated.yaml",
        "dags/daily_retrain.py",
        "elastic_embeddings/py.typed",
        "elastic_embeddings/__init__.pyi",
        "pipelines/served/elastic_ctr_model.py",
    ):
        assert (installed / name).is_file(), name
    assert not (installed / "tests").exists()
    assert not (installed / "benchmarks").exists()


@pytest.mark.slow
@pytest.mark.process
def test_an_installed_command_line_works_in_an_empty_folder(installed, tmp_path):
    text = (installed / "conf" / "simulated.yaml").read_text(encoding="utf-8")
    config = tmp_path / "small.yaml"
    config.write_text(text.replace("impressions_per_day: 100000", "impressions_per_day: 2000"))
    days = ("--from", "2026-01-01", "--to", "2026-01-01")
    run(installed, tmp_path, "simulate", "--config", config, *days)
    assert list((tmp_path / "workspace" / "logs").rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.process
def test_an_installed_pipeline_keeps_its_run_folder_in_the_current_folder(installed, tmp_path):
    code = "from pipelines.services.control import default_folder; print(default_folder())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / ".run")
