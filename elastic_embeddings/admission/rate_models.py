"""Rate models of Poisson admission: how likely a key is to reach a number of occurrences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.errors import InputError

Floats = NDArray[np.float64]


class RateModel(Protocol):
    """Predicts a key's further occurrences: a Poisson process of unknown rate per event."""

    def chance(self, missing: Floats, counts: Floats, events: Floats, ahead: Floats) -> Floats:
        """Return P(at least `missing` occurrences in the next `ahead` events), float64 [k].

        Args:
            missing: occurrences still needed, at least 1.
            counts: occurrences so far, at least 1.
            events: events in which they occurred, at least 1.
            ahead: events to come, at least 0.
        """
        ...


@dataclass(frozen=True)
class GammaPrior:
    """A Gamma prior on the rate, so that future occurrences are negative binomial.

    After n occurrences in t events the rate is Gamma(a + n, b + t). The occurrences in h further
    events are NegBin(r = a + n, q = (b + t) / (b + t + h)) (Gelman et al.: Bayesian Data Analysis,
    2.6). The upper tail is a regularised incomplete beta function: P(NegBin ≥ m) = I(1 - q; m, r).

    Attributes:
        shape: a, above 0; small values say that most keys are rare.
        rate: b, in events, at least 0: the weight of the prior. With a small one, a key that is
            seen once at the very start of a stream counts as frequent.

    Raises:
        InputError: `shape` or `rate` out of range.
    """

    shape: float
    rate: float

    def __post_init__(self) -> None:
        if not (0 < self.shape < np.inf and 0 <= self.rate < np.inf):
            raise InputError(
                f"{self}: give a shape above 0 and a rate of at least 0 events, "
                "or PlugInRate() for no prior"
            )

    def chance(self, missing: Floats, counts: Floats, events: Floats, ahead: Floats) -> Floats:
        """Return P(NegBin ≥ missing), see `RateModel.chance`."""
        # SciPy is imported here because only this kind of admission needs it.
        from scipy import special

        share_ahead = ahead / (self.rate + events + ahead)
        chance: Floats = special.betainc(missing, self.shape + counts, share_ahead)
        return chance


@dataclass(frozen=True)
class PlugInRate:
    """The rate is estimated as counts / events, without a prior. It is overconfident early on.

    The occurrences in h further events are Poisson(n / t · h), with P(Poisson(μ) ≥ m) = P(m, μ),
    the regularised lower incomplete gamma function.
    """

    def chance(self, missing: Floats, counts: Floats, events: Floats, ahead: Floats) -> Floats:
        """Return P(Poisson(counts / events · ahead) ≥ missing), see `RateModel.chance`."""
        from scipy import special

        chance: Floats = special.gammainc(missing, counts / events * ahead)
        return chance
