"""Finding Java: fake `java` scripts on a temporary PATH, and a download that is refused."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from features.errors import InputError, RetryableError
from spark_jobs import java
from spark_jobs.java import find_java, java_version, require_java

REPOSITORY = Path(__file__).resolve().parents[2]


def fake_java(home: Path, banner: str) -> Path:
    """Make `<home>/bin/java`, which prints `banner` as `java -version` does."""
    executable = home / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho '{banner}' >&2\n")
    executable.chmod(0o755)
    return executable


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "11.0.2" 2019-01-15 LTS', 11),
        ('openjdk version "1.8.0_402"', 8),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ("command not understood", None),
    ],
)
def test_version_is_read_from_the_banner(tmp_path, banner, version):
    assert java_version(fake_java(tmp_path, banner)) == version


def test_no_executable_and_a_failing_one_have_no_version(tmp_path):
    broken = fake_java(tmp_path, 'version "17.0.1"')
    broken.write_text("#!/bin/sh\necho 'version \"17.0.1\"' >&2\nexit 1\n")
    assert java_version(broken) is None
    assert java_version(tmp_path / "nowhere") is None


def test_java_home_wins_over_path(tmp_path):
    fake_java(tmp_path / "on_path", 'version "17.0.1"')
    fake_java(tmp_path / "home", 'version "21.0.1"')
    environment = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "on_path" / "bin")}
    assert find_java(environment, tmp_path) == java.Java(tmp_path / "home", 21)


def test_an_unsupported_java_home_gives_way_to_a_supported_one_on_path(tmp_path):
    fake_java(tmp_path / "eleven", 'version "11.0.1"')
    fake_java(tmp_path / "garbage", "no version here")
    fake_java(tmp_path / "seventeen", 'version "17.0.1"')
    path = os.pathsep.join(
        str(tmp_path / name / "bin") for name in ("missing", "garbage", "seventeen")
    )
    found = find_java({"JAVA_HOME": str(tmp_path / "eleven"), "PATH": path}, tmp_path)
    assert found == java.Java(tmp_path / "seventeen", 17)


def test_the_environment_folder_comes_last_and_is_found_at_any_depth(tmp_path):
    fake_java(tmp_path / "prefix" / "java" / "jdk-17" / "Contents" / "Home", 'version "17.0.9"')
    found = find_java({"PATH": ""}, tmp_path / "prefix")
    assert found == java.Java(tmp_path / "prefix" / "java" / "jdk-17" / "Contents" / "Home", 17)


def test_a_link_on_path_leads_to_the_home_behind_it(tmp_path):
    executable = fake_java(tmp_path / "jvm", 'version "17.0.9"')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(executable)
    assert find_java({"PATH": str(tmp_path / "bin")}, tmp_path) == java.Java(tmp_path / "jvm", 17)


def test_without_any_java_there_is_none_and_requiring_it_gives_a_hint(tmp_path, monkeypatch):
    assert find_java({}, tmp_path) is None
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install openjdk-17-jre-headless"):
        require_java()


def run_module(tmp_path: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m spark_jobs.java` in an empty environment whose every download is refused."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True
    )
    refused = "http://127.0.0.1:9"
    environment = {
        "PATH": path,
        "HTTPS_PROXY": refused,
        "HTTP_PROXY": refused,
        "https_proxy": refused,
        "http_proxy": refused,
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), sysconfig.get_paths()["purelib"]]),
    }
    command = [str(tmp_path / "venv" / "bin" / "python"), "-m", "spark_jobs.java"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, cwd=REPOSITORY
    )


@pytest.mark.process
def test_a_refused_download_ends_with_code_2_and_a_hint(tmp_path):
    done = run_module(tmp_path, "")
    assert done.returncode == 2, done.stderr
    assert "downloading one failed" in done.stderr
    for hint in (
        "apt-get install openjdk-17-jre-headless",
        "brew install openjdk@17",
        "conda install",
        "JAVA_HOME",
    ):
        assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_the_module_prints_the_java_it_uses(tmp_path):
    fake_java(tmp_path / "jvm", 'version "21.0.4"')
    done = run_module(tmp_path, str(tmp_path / "jvm" / "bin"))
    assert (done.returncode, done.stdout) == (0, f"Java 21 in {tmp_path / 'jvm'}\n")


@pytest.mark.covers("H13")
def test_a_java_that_cannot_start_is_not_called_missing(tmp_path, monkeypatch):
    """Fault H13: under `ulimit -v` the message was "no Java 17 or 21"."""
    executable = tmp_path / "bin" / "java"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\necho 'Could not reserve enough space' >&2\nexit 1\n")
    executable.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "none"))
    with pytest.raises(RetryableError, match=r"does not start.*Could not reserve.*ulimit -v"):
        require_java()
