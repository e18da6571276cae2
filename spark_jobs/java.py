"""The Java that runs Spark: in JAVA_HOME, on PATH or in the Python environment, else downloaded.

`python -m spark_jobs.java` finds or downloads one and prints it; it exits with code 2 and a hint if
that fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from features.errors import InputError, RetryableError

SUPPORTED = (17, 21)
"""Major versions that this Spark runs on."""

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_PROBE_TIMEOUT_S = 60
_HINT = (
    "Install Java 17 or 21 and run again:\n"
    "  Debian, Ubuntu:  apt-get install openjdk-17-jre-headless\n"
    "  macOS:           brew install openjdk@17\n"
    "  Conda:           conda install -c conda-forge openjdk=17\n"
    "or set JAVA_HOME to a folder that holds bin/java of one of these versions."
)


@dataclass(frozen=True)
class Java:
    """A Java that Spark can run on: the folder of `bin/java`, and the major version."""

    home: Path
    version: int


def find_java(environment: Mapping[str, str], prefix: Path) -> Java | None:
    """Return the first supported Java of JAVA_HOME, PATH and `<prefix>/java/*`, or None.

    Args:
        environment: has JAVA_HOME and PATH.
        prefix: the Python environment's folder.
    """
    for home in _homes(environment, prefix):
        version = java_version(home / "bin" / "java")
        if version in SUPPORTED:
            return Java(home, version)
    return None


def _homes(environment: Mapping[str, str], prefix: Path) -> list[Path]:
    homes = [Path(environment["JAVA_HOME"])] if environment.get("JAVA_HOME") else []
    for folder in filter(None, environment.get("PATH", "").split(os.pathsep)):
        executable = Path(folder) / "java"
        if executable.is_file():
            # On PATH there is often a link to the executable, outside its home.
            homes.append(executable.resolve().parent.parent)
    downloaded = sorted((prefix / "java").glob("**/bin/java"))
    return homes + [executable.parent.parent for executable in downloaded]


def _why_not(environment: Mapping[str, str]) -> str:
    """Return what the first Java that cannot start says, `""` if each starts or there is none."""
    for home in _homes(environment, Path(sys.prefix)):
        command = [str(home / "bin" / "java"), "-version"]
        try:
            probe = subprocess.run(
                command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
            )
        except FileNotFoundError:
            continue
        except (OSError, subprocess.SubprocessError) as error:
            return f"{command[0]}: {error}"
        if probe.returncode:
            said = " ".join((probe.stderr + probe.stdout).split())[:200]
            return f"{command[0]}: {said or f'exit code {probe.returncode}'}"
    return ""


def require_java() -> Java:
    """Return the Java of this process' environment.

    Raises:
        InputError: there is none; the message says what to install.
        RetryableError: there is one, but it does not start, for instance for want of memory.
    """
    java = find_java(os.environ, Path(sys.prefix))
    if java is None:
        if said := _why_not(os.environ):
            raise RetryableError(
                f"Java is installed but does not start ({said}): free memory, or raise the limit "
                "of this process' memory (`ulimit -v`)"
            )
        folder = Path(sys.prefix) / "java"
        raise InputError(f"no Java 17 or 21 in JAVA_HOME, on PATH or in {folder}. {_HINT}")
    return java


def ensure_java() -> Java:
    """Return the Java found, else download one; raises InputError if that fails."""
    prefix = Path(sys.prefix)
    if java := find_java(os.environ, prefix):
        return java
    # Of the set-up group: only `make env` needs it.
    import jdk

    folder = prefix / "java"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        jdk.install("17", jre=True, path=str(folder))
    except (jdk.JdkError, OSError) as error:
        raise InputError(
            f"no Java 17 or 21 in JAVA_HOME or on PATH, and downloading one failed ({error})."
            f" {_HINT}"
        ) from error
    java = find_java({}, prefix)
    if java is None:
        raise InputError(f"the Java downloaded into {folder} does not run here. {_HINT}")
    return java


def java_version(executable: Path) -> int | None:
    """Return the major version that `java -version` prints (`1.8.0` is 8), None if it fails."""
    command, timeout = [str(executable), "-version"], _PROBE_TIMEOUT_S
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(probe.stderr + probe.stdout)
    return int(found.group(1)) if found else None


def main() -> int:
    """Find or download a Java and print it; return the exit code."""
    try:
        java = ensure_java()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"Java {java.version} in {java.home}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
