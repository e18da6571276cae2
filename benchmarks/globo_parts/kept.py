"""One learned arm a file: an interrupted benchmark goes on where it stopped, and arms may run in processes of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from globo_parts.fixed import Size
from globo_parts.learning import Run


def kept(folder: Path, name: str, told: object, make: Callable[[], Run]) -> Run:
    """Return an arm's run, read from a file where it was made before.

    Args:
        folder: of the files, made if missing.
        name: of the arm.
        told: everything that the run depends on, as JSON.
        make: makes it.
    """
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = folder / f"{name}-{digest}.npz"
    if path.exists():
        return _read(path)
    run = make()
    folder.mkdir(parents=True, exist_ok=True)
    _write(run, path)
    return run


def _write(run: Run, path: Path) -> None:
    facts: dict[str, Any] = asdict(run)
    days = {f"day_{number}": values for number, values in enumerate(facts.pop("probability"))}
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, facts=np.array(json.dumps(facts)), **days)
    unfinished.replace(path)


def _read(path: Path) -> Run:
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        days = [file[f"day_{number}"] for number in range(len(file.files) - 1)]
    return Run(**(facts | {"probability": days, "size": Size(**facts["size"])}))
