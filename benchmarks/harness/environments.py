"""Environments of peers that do not go into ours: made once below a folder, from pinned
requirements, and used again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_PINS = Path(__file__).parent / "requirements"
_TAIL = 600
_LONGEST_S = 1200


class NoEnvironment(Exception):
    """An environment could not be made; the message says what pip said."""


def interpreter(name: str, root: Path) -> Path:
    """Return the interpreter of the environment `name`, made if it is not there or its pins have
    changed.

    `requirements` holds `NAME.txt` and, for what is installed without its dependencies,
    `NAME-without-dependencies.txt`.

    Raises:
        NoEnvironment: there is no network, no such wheel, or no room.
    """
    names = (f"{name}.txt", f"{name}-without-dependencies.txt")
    pins = [path for file in names if (path := _PINS / file).is_file()]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in pins)).hexdigest()[:12]
    folder = root / f"{name}-{digest}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        for path in pins:
            alone = ["--no-deps"] if "without" in path.name else []
            _run(
                [str(python), "-m", "pip", "install", "--quiet", *alone, "--requirement", str(path)]
            )
        complete.touch()
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoEnvironment(f"{' '.join(command)}: not done after {_LONGEST_S} s") from error
    if done.returncode:
        raise NoEnvironment(f"{' '.join(command)}: …{done.stderr[-_TAIL:].strip()}")
