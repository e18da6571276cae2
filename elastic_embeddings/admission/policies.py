"""Admission policies: which keys get a row. A policy sees counts and knows nothing of the table.

CountAdmission(2)                               # at the second occurrence, counted exactly
SketchAdmission(10, capacity=5_000_000)         # at the tenth, counted in bounded memory
PoissonAdmission(10, horizon=20_000_000)        # once ten occurrences in the horizon are likely
ByField({"user": PoissonAdmission(20, horizon=10**7)}, otherwise=CountAdmission(2))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.rate_models import GammaPrior, RateModel
from elastic_embeddings.admission.sketch import SketchSpec
from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.errors import InputError

# Initial vectors use another salt, so a key's first vector says nothing about its admission.
_SALT = 0xAD317_7ED
_PRIOR_SHAPE, _PRIOR_SHARE = 0.3, 0.3


@dataclass(frozen=True)
class Candidates:
    """The keys of a batch that have no row yet.

    Attributes:
        keys: int64 [k], distinct.
        counts: int64 [k], at least 1: occurrences so far, this batch included; exact, or from a
            sketch.
        events: int64 [k], occurrences of all keys of the key's field so far, this batch included.
        fields: int16 [k], code of the key's field.
        seed: of the table.
        coverage: share of the events that `counts` covers, `CountingSketch.coverage`; 1 for exact
            counts.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    events: NDArray[np.int64]
    fields: NDArray[np.int16]
    seed: int = 0
    coverage: float = 1.0


class Admission(Protocol):
    """Decides which keys of a batch get a row. The table keeps admitted keys admitted."""

    @property
    def sketch(self) -> SketchSpec | None:
        """The sketch that counts keys without a row; None counts them exactly in the index."""
        ...

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: which of the candidates get a row now."""
        ...


@dataclass(frozen=True)
class AlwaysAdmit:
    """Every key gets a row at its first occurrence."""

    @property
    def sketch(self) -> None:
        """None: no key waits for a row."""

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return all true, bool [k]."""
        return np.ones(len(candidates.keys), np.bool_)


@dataclass(frozen=True)
class CountAdmission:
    """A key gets a row in the batch in which it reaches `min_count` occurrences, counted exactly.

    >>> from elastic_embeddings import ElasticTable, SlabSpec
    >>> table = ElasticTable(SlabSpec(4), CountAdmission(2))
    >>> batch = table.prepare(np.array([7, 8, 7]))
    >>> batch.new_keys
    array([7])

    Raises:
        InputError: `min_count` is below 1.
    """

    min_count: int

    def __post_init__(self) -> None:
        _check_min_count(self)

    @property
    def sketch(self) -> None:
        """None: exact counts, which need memory for every key ever seen."""

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: `counts >= min_count`."""
        return candidates.counts >= self.min_count


@dataclass(frozen=True)
class SketchAdmission:
    """`CountAdmission` with a counting Bloom filter: fixed memory, old occurrences are forgotten.

    A key may be admitted too early if all its counters are shared with other keys. It is admitted
    late only after a generation of the sketch was dropped.

    Attributes:
        min_count: occurrences needed.
        capacity, false_positive_rate, decay_every: see `SketchSpec`.

    Raises:
        InputError: a number out of range.
    """

    min_count: int
    capacity: int = 1 << 20
    false_positive_rate: float = 0.01
    decay_every: int | None = None

    def __post_init__(self) -> None:
        _check_min_count(self)
        _check_counters(self, self.sketch)

    @property
    def sketch(self) -> SketchSpec:
        """The filter's size; its counters hold `min_count`."""
        max_count = max(self.min_count, 255)
        return SketchSpec(self.capacity, self.false_positive_rate, self.decay_every, max_count)

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: `counts >= min_count`."""
        return candidates.counts >= self.min_count


@dataclass(frozen=True)
class PoissonAdmission:
    """A key gets a row as soon as `min_count` occurrences by the horizon are likely enough.

    With n occurrences in t events, p(n, t) is the probability of `min_count` or more occurrences
    by event T, from the predictive distribution of `prior`; it is 1 once n reaches `min_count`.
    Each key has one number u, uniform on [0, 1), a hash of (key, seed). It is admitted at the first
    occurrence with u < p. Rows are kept and p only falls between occurrences, so the rule is
    u < max of p so far: it needs no state and gives the same result after a restart and on every
    shard. A new draw at each occurrence would compound to 1 - ∏(1 - pᵢ) and admit nearly every key.

    Attributes:
        min_count: k, occurrences that make a key worth a row.
        horizon: T = t + horizon: events of the key's field ahead, each key of a list being one.
            Give this or `until`.
        until: T = until: the end of a pass, in events of the key's field from its first one; after
            it p is 0 or 1.
        prior: the rate model; None is GammaPrior(0.3, 0.3 · horizon or until), which is close to
            the offline filter on Zipf traffic.
        threshold_only: admit where p > ½ instead of u < p: fewer rows, deterministic.
        sketch: how keys without a row are counted; None counts them exactly.

    Raises:
        InputError: a number out of range, neither or both of `horizon` and `until`, or counters
            that cannot hold `min_count`.
    """

    min_count: int
    horizon: int | None = None
    prior: RateModel | None = None
    until: int | None = field(default=None, kw_only=True)
    threshold_only: bool = field(default=False, kw_only=True)
    sketch: SketchSpec | None = field(default=SketchSpec(), kw_only=True)

    def __post_init__(self) -> None:
        _check_min_count(self)
        if (self.horizon is None) == (self.until is None) or self._span < 1:
            raise InputError(
                f"{self}: give either `horizon` (events ahead) or `until` (events in all), "
                "at least 1"
            )
        _check_counters(self, self.sketch)

    @property
    def _span(self) -> int:
        return self.horizon if self.until is None and self.horizon is not None else self.until or 0

    @property
    def rate_model(self) -> RateModel:
        """The prior in use."""
        if self.prior is None:
            return GammaPrior(_PRIOR_SHAPE, _PRIOR_SHARE * self._span)
        return self.prior

    def probability(
        self, counts: NDArray[np.int64], events: NDArray[np.int64], coverage: float = 1.0
    ) -> NDArray[np.float64]:
        """Return p(n, t), float64 [k]: the chance of `min_count` occurrences by the horizon.

        Args:
            counts: n, int64 [k], at least 1.
            events: t, int64 [k], at least 1.
            coverage: share of the t events over which n was counted.
        """
        missing = np.maximum(self.min_count - counts, 1).astype(np.float64)
        if self.until is None:
            ahead = np.full(len(events), self.horizon)
        else:
            ahead = np.maximum(self.until - events, 0)
        counted_over = np.maximum(events * coverage, counts)
        chance = self.rate_model.chance(
            missing, counts.astype(np.float64), counted_over, ahead.astype(np.float64)
        )
        return np.where(counts >= self.min_count, 1.0, chance)

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: u < p(n, t), or p(n, t) > ½ with `threshold_only`."""
        if not len(candidates.keys):
            return np.zeros(0, np.bool_)
        # All keys of a field have the same t, so p is computed once for each (field, count). Counts
        # above `min_count` are equivalent, which keeps the number of combinations small.
        counts = np.minimum(candidates.counts, self.min_count)
        codes = candidates.fields.astype(np.int64) * (self.min_count + 1) + counts
        example = np.full(int(codes.max()) + 1, -1, np.int64)
        example[codes] = np.arange(len(codes))
        present = example[example >= 0]
        by_code = np.zeros(len(example))
        by_code[codes[present]] = self.probability(
            counts[present], candidates.events[present], candidates.coverage
        )
        chance = by_code[codes]
        if self.threshold_only:
            return chance > 0.5
        return draws(candidates.keys, candidates.seed) < chance


@dataclass(frozen=True)
class ByField:
    """A policy for each field. `resolve` gives the table one policy for each of its fields.

    Attributes:
        policies: field name → policy.
        otherwise: the policy of all other fields.
    """

    policies: Mapping[str, Admission] = field(hash=False)
    otherwise: Admission

    def resolve(self, field_names: Sequence[str]) -> tuple[Admission, ...]:
        """Return the policy of each field, in the order of `field_names`.

        Raises:
            InputError: a policy is for a field that is not among them.
        """
        unknown = sorted(set(self.policies) - set(field_names))
        if unknown:
            raise InputError(
                f"ByField names {unknown}, the table has fields {sorted(field_names)}: "
                "correct the names"
            )
        return tuple(self.policies.get(name, self.otherwise) for name in field_names)


def resolve(admission: Admission | ByField, field_names: Sequence[str]) -> tuple[Admission, ...]:
    """Return the policy of each field; a policy that is not `ByField` is that of all fields."""
    if isinstance(admission, ByField):
        return admission.resolve(field_names)
    return (admission,) * len(field_names)


def draws(keys: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return one number per key, float64 [k], uniform on [0, 1), a function of (key, seed)."""
    salt = mix64(np.full(1, (seed ^ _SALT) & (2**64 - 1), np.uint64))
    # A float64 has 53 bits of precision, so the lowest 11 bits of the hash are dropped.
    return (mix64(keys.view(np.uint64) ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_min_count(policy: CountAdmission | SketchAdmission | PoissonAdmission) -> None:
    if policy.min_count < 1:
        raise InputError(
            f"{type(policy).__name__}: min_count is {policy.min_count}, "
            "give at least 1 (1 admits every key)"
        )


def _check_counters(policy: SketchAdmission | PoissonAdmission, sketch: SketchSpec | None) -> None:
    if sketch is not None and sketch.max_count < policy.min_count:
        raise InputError(
            f"{policy}: counts stop at {sketch.max_count}: "
            f"give SketchSpec(..., max_count={policy.min_count})"
        )
