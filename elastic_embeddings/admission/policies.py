"""Which keys get a row. A policy is a small frozen object over counts; it knows nothing of the table.

CountAdmission(2)                               # at the second occurrence, counted exactly
SketchAdmission(10, capacity=5_000_000)         # at the tenth, counted in bounded memory
PoissonAdmission(10, horizon=20_000_000)        # as soon as ten occurrences within the horizon are likely
ByField({"user": PoissonAdmission(20, horizon=10**7)}, otherwise=CountAdmission(2))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.admission.arrivals import GammaPrior, RateModel
from elastic_embeddings.admission.sketch import SketchSpec
from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.errors import InputError

_SALT = 0xAD317_7ED
_PRIOR_SHAPE, _PRIOR_SHARE = 0.3, 0.3


@dataclass(frozen=True)
class Candidates:
    """The keys of a batch that have no row yet.

    Attributes:
        keys: int64 [k], distinct.
        counts: int64 [k], at least 1: occurrences so far, this batch included; exact, or from a sketch.
        events: int64 [k], occurrences of all keys of the key's field so far, this batch included: one number per field.
        fields: int16 [k], code of the key's field.
        seed: of the table.
        coverage: share of the events that `counts` were taken over, `CountingSketch.coverage`; 1 for exact counts.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    events: NDArray[np.int64]
    fields: NDArray[np.int16]
    seed: int = 0
    coverage: float = 1.0


class Admission(Protocol):
    """Decides which of the keys in a batch deserve a row. Once admitted, a key stays admitted: the table sees to it."""

    @property
    def sketch(self) -> SketchSpec | None:
        """How keys without a row are counted: in a sketch of this size, or, if None, exactly and for ever."""
        ...

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: which of the candidates get a row now."""
        ...


@dataclass(frozen=True)
class AlwaysAdmit:
    """Every key gets a row at its first occurrence."""

    @property
    def sketch(self) -> None:
        """None: nobody waits."""

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return all true, bool [k]."""
        return np.ones(len(candidates.keys), np.bool_)


@dataclass(frozen=True)
class CountAdmission:
    """A key gets a row in the batch in which it reaches `min_count` occurrences, counted exactly.

    Raises:
        InputError: `min_count` is below 1.
    """

    min_count: int

    def __post_init__(self) -> None:
        _refuse_count(self)

    @property
    def sketch(self) -> None:
        """None: exact counts, which take memory for every key ever seen."""

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: `counts >= min_count`."""
        return candidates.counts >= self.min_count


@dataclass(frozen=True)
class SketchAdmission:
    """`CountAdmission` with a counting Bloom filter: memory is fixed, and what is not seen again is forgotten.

    A key may be admitted too early when all its counters are shared; it is late only after a generation was forgotten.

    Attributes:
        min_count: occurrences wanted.
        capacity, false_positive_rate, decay_every: see `SketchSpec`.

    Raises:
        InputError: a number out of range.
    """

    min_count: int
    capacity: int = 1 << 20
    false_positive_rate: float = 0.01
    decay_every: int | None = None

    def __post_init__(self) -> None:
        _refuse_count(self)
        _refuse_small_counters(self, self.sketch)

    @property
    def sketch(self) -> SketchSpec:
        """The filter's size; its counters hold `min_count`."""
        return SketchSpec(
            self.capacity, self.false_positive_rate, self.decay_every, max(self.min_count, 255)
        )

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: `counts >= min_count`."""
        return candidates.counts >= self.min_count


@dataclass(frozen=True)
class PoissonAdmission:
    """A key gets a row as soon as `min_count` occurrences by the horizon are likely enough, which is long before they came.

    With n occurrences in t events, p(n, t) is the chance of `min_count` or more by event T, from the predictive law of
    `prior`; it is 1 once n reaches `min_count`. Each key has one number u, uniform on [0, 1), a hash of (key, seed), and
    is admitted at the first sighting with u < p. As a row is for ever and p only falls between sightings, that is the
    rule u < max of p so far: no state, no second draw, the same after a restart and on every shard. A fresh draw at each
    sighting would compound to 1 - ∏(1 - pᵢ) and let nearly every key in.

    Attributes:
        min_count: k, occurrences that make a key worth a row.
        horizon: T = t + horizon: so many events of the key's field ahead, at any time. Give this or `until`.
        until: T = until: the end of a pass, in events of the key's field from its first one; past it p is 0 or 1.
        prior: the law of the rates; None is GammaPrior(0.3, 0.3 · horizon or until), near the offline filter on Zipf traffic.
        threshold_only: admit where p > ½ instead of u < p: fewer rows, no chance.
        sketch: how keys without a row are counted; None counts them exactly.

    Raises:
        InputError: a number out of range, neither or both of `horizon` and `until`, or counters that cannot hold `min_count`.
    """

    min_count: int
    horizon: int | None = None
    prior: RateModel | None = None
    until: int | None = field(default=None, kw_only=True)
    threshold_only: bool = field(default=False, kw_only=True)
    sketch: SketchSpec | None = field(default=SketchSpec(), kw_only=True)

    def __post_init__(self) -> None:
        _refuse_count(self)
        if (self.horizon is None) == (self.until is None) or self._span < 1:
            raise InputError(
                f"{self}: give `horizon` (events ahead) or `until` (events in all), one of them, at least 1"
            )
        _refuse_small_counters(self, self.sketch)

    @property
    def rate_model(self) -> RateModel:
        """The prior in use."""
        return (
            GammaPrior(_PRIOR_SHAPE, _PRIOR_SHARE * self._span)
            if self.prior is None
            else self.prior
        )

    def probability(
        self, counts: NDArray[np.int64], events: NDArray[np.int64], coverage: float = 1.0
    ) -> NDArray[np.float64]:
        """Return p(n, t), float64 [k]: the chance that a key is seen `min_count` times by the horizon.

        Args:
            counts: n, int64 [k], at least 1.
            events: t, int64 [k], at least 1.
            coverage: share of the t events that n was counted over.
        """
        wanted = np.maximum(self.min_count - counts, 1).astype(np.float64)
        ahead = (
            np.full(len(events), self.horizon)
            if self.until is None
            else np.maximum(self.until - events, 0)
        )
        seen_over = np.maximum(events * coverage, counts)
        chance = self.rate_model.chance(
            wanted, counts.astype(np.float64), seen_over, ahead.astype(np.float64)
        )
        return np.where(counts >= self.min_count, 1.0, chance)

    def admit(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return bool [k]: u < p(n, t), or p(n, t) > ½ where `threshold_only`."""
        chance = self._chances(candidates)
        if self.threshold_only:
            return chance > 0.5
        return draws(candidates.keys, candidates.seed) < chance

    @property
    def _span(self) -> int:
        return self.horizon if self.until is None and self.horizon is not None else self.until or 0

    def _chances(self, candidates: Candidates) -> NDArray[np.float64]:
        """`probability`, computed once for each distinct (field, count): a field has one t in a batch."""
        if not len(candidates.keys):
            return np.zeros(0)
        counts = np.minimum(candidates.counts, self.min_count)
        codes = candidates.fields.astype(np.int64) * (self.min_count + 1) + counts
        example = np.full(int(codes.max()) + 1, -1, np.int64)
        example[codes] = np.arange(len(codes))
        present = example[example >= 0]
        chances = np.zeros(len(example))
        chances[codes[present]] = self.probability(
            counts[present], candidates.events[present], candidates.coverage
        )
        return chances[codes]


@dataclass(frozen=True)
class ByField:
    """A policy for each field. Not a policy itself: `resolve` gives the table one for each of its fields.

    Attributes:
        policies: field name → policy.
        otherwise: the policy of fields that are not named.
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
                f"ByField names {unknown}, the table has fields {sorted(field_names)}: correct the names"
            )
        return tuple(self.policies.get(name, self.otherwise) for name in field_names)


def resolve(admission: Admission | ByField, field_names: Sequence[str]) -> tuple[Admission, ...]:
    """Return the policy of each field, in the order of `field_names`; a plain policy holds for all of them."""
    return (
        admission.resolve(field_names)
        if isinstance(admission, ByField)
        else (admission,) * len(field_names)
    )


def draws(keys: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return one number per key, float64 [k], uniform on [0, 1), a function of (key, seed) alone.

    Its salt is not that of initial vectors, so what a key starts from says nothing of when it was admitted.
    """
    salt = mix64(np.full(1, (seed ^ _SALT) & (2**64 - 1), np.uint64))
    return (mix64(keys.view(np.uint64) ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _refuse_count(policy: CountAdmission | SketchAdmission | PoissonAdmission) -> None:
    if policy.min_count < 1:
        raise InputError(
            f"{type(policy).__name__}: min_count is {policy.min_count}, give at least 1 (1 admits every key)"
        )


def _refuse_small_counters(
    policy: SketchAdmission | PoissonAdmission, sketch: SketchSpec | None
) -> None:
    if sketch is not None and sketch.max_count < policy.min_count:
        raise InputError(
            f"{policy}: counts stop at {sketch.max_count}: give SketchSpec(..., max_count={policy.min_count})"
        )
