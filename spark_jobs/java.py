"""Which Java runs Spark: found in JAVA_HOME, on PATH or in the environment, else fetched into the environment.

`python -m spark_jobs.java` makes sure that there is one and prints it; it ends with code 2 and a cure where there is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from features.errors import InputError

SUPPORTED = (17, 21)
"""Major versions that this Spark runs on."""

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_PROBE_TIMEOUT_S = 60
_CURE = (
    "Install Java 17 or 21 and run again:\n"
    "  Debian, Ubuntu:  apt-get install openjdk-17-jre-headless\n"
    "  macOS:           brew install openjdk@17\n"
    "  Conda:           conda install -c conda-forge openjdk=17\n"
    "or set JAVA_HOME to a folder that holds bin/java of one of these versions."
)


@dataclass(frozen=True)
class Java:
    """A Java that Spark can run on: the folder that holds `bin/java`, and its major version."""

    home: Path
    version: int


def find_java(environment: Mapping[str, str], prefix: Path) -> Java | None:
    """Return the first supported Java of JAVA_HOME, PATH and `<prefix>/java/*`, or None.

    Args:
        environment: where JAVA_HOME and PATH are looked up.
        prefix: the Python environment's folder.
    """
    for home in _homes(environment, prefix):
        version = java_version(home / "bin" / "java")
        if version in SUPPORTED:
            return Java(home, version)
    return None


def require_java() -> Java:
    """Return the Java of this process' environment; raises InputError with the cure when there is none."""
    java = find_java(os.environ, Path(sys.prefix))
    if java is None:
        raise InputError(
            f"no Java 17 or 21 in JAVA_HOME, on PATH or in {Path(sys.prefix) / 'java'}. {_CURE}"
        )
    return java


def ensure_java() -> Java:
    """Return the Java found, after fetching one into the environment if needed; raises InputError where that fails."""
    return find_java(os.environ, Path(sys.prefix)) or _fetch(Path(sys.prefix))


def java_version(executable: Path) -> int | None:
    """Return the major version that `java -version` prints (`1.8.0` is 8), or None when it cannot be run or read."""
    try:
        probe = subprocess.run(
            [executable, "-version"],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(probe.stderr + probe.stdout)
    return int(found.group(1)) if found else None


def main() -> int:
    """Make sure that there is a Java, print which; return the exit code."""
    try:
        java = ensure_java()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"Java {java.version} in {java.home}")
    return 0


def _homes(environment: Mapping[str, str], prefix: Path) -> Iterator[Path]:
    if environment.get("JAVA_HOME"):
        yield Path(environment["JAVA_HOME"])
    for folder in filter(None, environment.get("PATH", "").split(os.pathsep)):
        executable = Path(folder) / "java"
        if executable.is_file():
            yield executable.resolve().parent.parent
    for executable in sorted((prefix / "java").glob("**/bin/java")):
        yield executable.parent.parent


def _fetch(prefix: Path) -> Java:
    import jdk  # of the set-up group: only `make env` needs it

    folder = prefix / "java"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        jdk.install("17", jre=True, path=str(folder))
    except (jdk.JdkError, OSError) as error:
        raise InputError(
            f"no Java 17 or 21 in JAVA_HOME or on PATH, and fetching one failed ({error}). {_CURE}"
        ) from error
    java = find_java({}, prefix)
    if java is None:
        raise InputError(f"the Java fetched into {folder} does not run here. {_CURE}")
    return java


if __name__ == "__main__":
    sys.exit(main())
