"""A table inside a Keras weights file: the files of its checkpoint, as arrays of bytes."""

from __future__ import annotations

import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from elastic_embeddings.errors import InputError
from elastic_embeddings.storage.checkpoint import HEADER
from elastic_embeddings.table import ElasticTable

_FOLDER = "table"


def store_table(table: ElasticTable, store: MutableMapping[str, Any]) -> None:
    """Put the table, as it was learned, into `store`: one uint8 array by file name of `ElasticTable.save`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / _FOLDER
        table.save(folder)
        for file in sorted(folder.iterdir()):
            store[file.name] = np.fromfile(file, np.uint8)


def load_table(table: ElasticTable, store: MutableMapping[str, Any]) -> None:
    """Replace the table's content by what `store_table` put into `store`; files are checked against their checksums.

    Raises:
        InputError: there is no table in it, or it is damaged or of other slabs.
    """
    names = list(store.keys())
    if HEADER not in names:
        raise InputError(
            "this Keras file holds no elastic table where the model has one: it was saved by another model"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / _FOLDER
        folder.mkdir()
        for name in names:
            np.asarray(store[name], np.uint8).tofile(folder / Path(name).name)
        table.restore(folder)
