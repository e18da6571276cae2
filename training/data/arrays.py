"""Named NumPy arrays in one `.npz` file, without pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError

Arrays = dict[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays under their names."""
    # Sorted, so that the same arrays always give the same bytes.
    np.savez(path, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})


def read_arrays(path: Path) -> Arrays:
    """Read what `write_arrays` wrote; raises InputError if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot read the arrays ({error}); train this day again"
        ) from error
