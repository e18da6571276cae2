"""Small tables as plain arrays, and a table modelled by a dictionary."""

import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from elastic_embeddings.storage.checkpoint import COUNTERS
from elastic_embeddings.storage.delta import tombstone_arrays
from elastic_embeddings.storage.files import ArrayStream
from elastic_embeddings.storage.header import SlabHeader, TableHeader

IN_MEMORY = Path("/dev/shm")
FIELDS = ("user", "item")
ADAM = {"learning_rate": 0.1, "beta_1": 0.9, "l21": 0.02}
SLABS = {
    "wide": SlabHeader(
        dim=1,
        init_scale=0.0,
        optimizer="GroupAdam",
        parameters=ADAM,
        slots={"z": 1, "m": 1, "v": 1},
    ),
    "deep": SlabHeader(
        dim=3,
        init_scale=0.1,
        optimizer="RowwiseGroupAdagrad",
        parameters={"l21": 0.5},
        slots={"accumulator": 1},
    ),
}
WIDTHS = {
    "wide.weights": 1,
    "wide.z": 1,
    "wide.m": 1,
    "wide.v": 1,
    "deep.weights": 3,
    "deep.accumulator": 1,
}


def header(**changes):
    return TableHeader(**{"step": 7, "seed": 5, "fields": FIELDS, "slabs": SLABS, **changes})


@dataclass
class Entry:
    count: int
    last_seen: int
    field: int
    row: np.ndarray | None  # float32 [8]: all row arrays side by side; None: waiting


@dataclass
class Model:
    """The content of a table as a dictionary; `entries` keeps the order of first occurrence."""

    step: int = 0
    entries: dict = field(default_factory=dict)
    tombstones: list = field(default_factory=list)  # (step, key)
    counters: np.ndarray = field(
        default_factory=lambda: np.zeros((len(COUNTERS), len(FIELDS)), np.int64)
    )
    sketch: np.ndarray = field(default_factory=lambda: np.zeros(5, np.uint8))

    def learn(self, keys, min_count=2):
        """One step: count, admit from `min_count` on, and change every row that was met."""
        self.step += 1
        for key in keys:
            entry = self.entries.setdefault(key, Entry(0, 0, key % 2, None))
            entry.count, entry.last_seen = entry.count + 1, self.step
            if entry.count >= min_count:
                entry.row = np.arange(8, dtype=np.float32) + 100 * (key % 97) + self.step / 64
            self.counters[0, entry.field] += 1
        self.sketch[self.step % 5] += 1

    def delete(self, keys):
        """Before the next step."""
        for key in keys:
            if self.entries.pop(key, None) is not None:
                self.tombstones.append((self.step + 1, key))
                self.counters[3, key % 2] += 1

    def arrays(self, since=None):
        """The arrays of a full table, or of the delta since a step."""
        after = -1 if since is None else since
        kept = {key: entry for key, entry in self.entries.items() if entry.last_seen > after}
        rows = np.array([e.row for e in kept.values() if e.row is not None], np.float32).reshape(
            -1, 8
        )
        columns = np.split(rows, np.cumsum(list(WIDTHS.values()))[:-1], axis=1)
        entry_arrays = {
            "keys": np.array(list(kept), np.int64),
            "counts": np.array([e.count for e in kept.values()], np.int64),
            "last_seen": np.array([e.last_seen for e in kept.values()], np.int32),
            "admitted": np.array([e.row is not None for e in kept.values()], np.bool_),
            "fields": np.array([e.field for e in kept.values()], np.int16),
            "sketch.0.current": self.sketch,
        }
        counters = {
            f"counters.{name}": values for name, values in zip(COUNTERS, self.counters, strict=True)
        }
        streams = streams_of(entry_arrays | dict(zip(WIDTHS, columns, strict=True)) | counters)
        steps, keys = (np.array([t[i] for t in self.tombstones], np.int64) for i in (0, 1))
        return streams | tombstone_arrays((keys, steps.astype(np.int32)), after)

    def header(self, since=None):
        return header(step=self.step, since=since, kind="full" if since is None else "delta")


def some_table(seed=1, entries=200):
    """A model after a few steps, with waiting keys and tombstones."""
    rng, model = np.random.default_rng(seed), Model()
    for _ in range(6):
        model.learn(rng.integers(-entries, entries, entries).tolist())
    model.delete(rng.choice(list(model.entries), 20, replace=False).tolist())
    return model


def streams_of(arrays):
    return {name: ArrayStream.of(array) for name, array in arrays.items()}


def materialised(streams):
    """The arrays of streams."""
    return {
        name: np.concatenate([np.zeros((0, *s.shape[1:]), s.dtype), *s.chunks])
        for name, s in streams.items()
    }


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


@contextmanager
def scratch():
    """A folder in memory if possible: a save syncs its files, and properties save often."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)
