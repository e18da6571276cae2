"""The work that every system does: the same batches of keys, labels and first weights, written once
as plain arrays.

The law. A batch has `fields` columns. The ids of a field of cardinality c have the bounded Zipf law
P(rank = r) ∝ r^-a, r = 1 … c. Cardinalities grow geometrically from `smallest` to whatever makes
them add up to `rows`. With the defaults (26 fields, 1,000 … 961,709, 4 M in all, a = 1.1) a batch
of 4,096 has about 33,600 distinct rows among 106,496 keys. Ranks are scattered over 0 … rows - 1,
so that frequent ids are not neighbours in memory; the id is the row for systems of fixed size, and
a 64-bit mix of it the key for those that hash. A label is drawn from a planted logistic model.

NumPy only: this file runs in every peer's environment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]

_SCATTER = 2_654_435_761  # prime and larger than any table here, so that rank → id is one to one
_EFFECT, _CLICK_LOGIT = 0.6, -1.0


@dataclass(frozen=True)
class Workload:
    """The size of the work.

    Attributes:
        rows: ids in all fields together; every one of them has a row before the first step.
        exponent: a of the Zipf law.
        smallest: cardinality of the smallest field.
        batches: distinct batches; systems go round and round them.
        hidden: the MLPs to measure, by name.

    Raises:
        ValueError: the fields, each of `smallest` ids or more, do not fit into `rows`.
    """

    rows: int = 4_000_000
    fields: int = 26
    dim: int = 16
    batch: int = 4096
    exponent: float = 1.1
    smallest: int = 1000
    batches: int = 32
    seed: int = 17
    hidden: tuple[str, ...] = ("400x400", "128x64")

    def __post_init__(self) -> None:
        if self.rows < self.fields * self.smallest:
            raise ValueError(
                f"{self.rows} rows for {self.fields} fields: give at least {self.fields * self.smallest}"
            )

    @property
    def keys_per_batch(self) -> int:
        """How many keys a batch has, repeated ones included."""
        return self.batch * self.fields


@dataclass(frozen=True)
class Traffic:
    """The batches: ids int64 [batches, batch · fields], example by example, and labels float32
    [batches, batch].
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.float32]

    @property
    def keys(self) -> NDArray[np.int64]:
        """The ids as 64-bit keys, shaped as the ids."""
        return keys_of(self.ids)

    def distinct(self) -> float:
        """Return the mean number of distinct ids in a batch."""
        return float(np.mean([len(np.unique(ids)) for ids in self.ids]))


def cardinalities(work: Workload) -> NDArray[np.int64]:
    """Return the ids of each field, int64 [fields], ascending; they add up to `rows`."""
    low, high = 1.0, float(work.rows)
    while high - low > 1e-9 * high:
        ratio = (low + high) / 2
        fits = np.floor(work.smallest * ratio ** np.linspace(0, 1, work.fields)).sum() <= work.rows
        low, high = (ratio, high) if fits else (low, ratio)
    sizes = np.floor(work.smallest * low ** np.linspace(0, 1, work.fields)).astype(np.int64)
    sizes[-1] += work.rows - sizes.sum()
    return sizes


def traffic(work: Workload) -> Traffic:
    """Draw the batches; the same work gives the same bytes."""
    generator = np.random.default_rng(work.seed)
    sizes = cardinalities(work)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    shape = (work.batches, work.batch)
    ranks = (
        np.stack([_zipf(generator, int(size), work.exponent, shape) for size in sizes], axis=-1)
        + first
    )
    ids = ranks * _SCATTER % work.rows
    effects = (keys_of(ids).view(np.uint64) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    logit = _CLICK_LOGIT + _EFFECT * effects.sum(axis=-1)
    labels = (generator.random(shape) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return Traffic(ids.reshape(work.batches, -1), labels)


def keys_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one to one 64-bit keys of ids (Stafford's variant 13 of the MurmurHash3 finaliser)."""
    bits = ids.astype(np.uint64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))).view(np.int64)


def initial_layers(work: Workload, hidden: str) -> Layers:
    """Return the first weights [inputs, outputs] and biases [outputs] of an MLP such as `128x64`,
    the logit's included.
    """
    generator = np.random.default_rng([work.seed, *(ord(letter) for letter in hidden)])
    widths = [work.fields * work.dim, *(int(width) for width in hidden.split("x")), 1]
    return [
        (
            (generator.standard_normal((i, o)) * np.sqrt(2 / i)).astype(np.float32),
            np.zeros(o, np.float32),
        )
        for i, o in pairwise(widths)
    ]


def initial_vectors(work: Workload, rows: int) -> NDArray[np.float32]:
    """Return float32 [rows, dim], uniform on [-0.01, 0.01)."""
    generator = np.random.default_rng([work.seed, 1])
    return (generator.random((rows, work.dim), np.float32) * 2 - 1) * np.float32(0.01)


def write(work: Workload, folder: Path) -> Traffic:
    """Write the work and its batches for the systems' processes to read, and return the batches."""
    drawn = traffic(work)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.json").write_text(json.dumps(asdict(work)), encoding="utf-8")
    np.savez(folder / "traffic.npz", ids=drawn.ids, labels=drawn.labels)
    return drawn


def read(folder: Path) -> tuple[Workload, Traffic]:
    """Return what `write` wrote."""
    described = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    with np.load(folder / "traffic.npz", allow_pickle=False) as arrays:
        return Workload(**{**described, "hidden": tuple(described["hidden"])}), Traffic(
            arrays["ids"], arrays["labels"]
        )


def _zipf(
    generator: np.random.Generator, size: int, exponent: float, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    cumulative = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -exponent)
    return np.searchsorted(
        cumulative, generator.random(shape) * cumulative[-1], side="right"
    ).astype(np.int64)
