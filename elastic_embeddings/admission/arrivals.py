"""How likely a key is to be seen often enough, given how often it was seen so far: the two rate models of Poisson admission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from elastic_embeddings.errors import InputError

Floats = NDArray[np.float64]


class RateModel(Protocol):
    """The law of a key's further occurrences, which come as a Poisson process of unknown rate per event."""

    def chance(self, missing: Floats, counts: Floats, events: Floats, ahead: Floats) -> Floats:
        """Return P(at least `missing` occurrences in the next `ahead` events), float64, of the arguments' shape.

        Args:
            missing: occurrences still wanted, at least 1.
            counts: occurrences so far, at least 1.
            events: events in which they occurred, at least 1.
            ahead: events to come, at least 0.
        """
        ...


@dataclass(frozen=True)
class GammaPrior:
    """The rate has a Gamma prior, so the occurrences to come are negative binomial.

    After n occurrences in t events the rate is Gamma(a + n, b + t), and the occurrences in h further events are
    NegBin(r = a + n, q = (b + t) / (b + t + h)) (Gelman et al.: Bayesian Data Analysis, 2.6). Its upper tail is a
    regularised incomplete beta function: P(NegBin ≥ m) = I(1 - q; m, r).

    Attributes:
        shape: a, above 0; small values say that most keys are rare.
        rate: b, in events, at least 0: how much traffic the prior weighs. With little of it, a key that is seen once at
            the very start of a stream counts as frequent.

    Raises:
        InputError: `shape` or `rate` out of range.
    """

    shape: float
    rate: float

    def __post_init__(self) -> None:
        if not (0 < self.shape < np.inf and 0 <= self.rate < np.inf):
            raise InputError(
                f"{self}: give a shape above 0 and a rate of at least 0 events, or PlugIn() for no prior"
            )

    def chance(self, missing: Floats, counts: Floats, events: Floats, ahead: Floats) -> Floats:
        """Return P(NegBin ≥ missing), as `RateModel.chance` says."""
        share_ahead = ahead / (self.rate + events + ahead)
        return special.betainc(missing, self.shape + counts, share_ahead)


@dataclass(frozen=True)
class PlugIn:
    """The rate is taken to be counts / events exactly: over-confident early, for comparison and for those who want it.

    The occurrences in h further events are then Poisson(n / t · h), with P(Poisson(μ) ≥ m) = P(m, μ), the regularised
    lower incomplete gamma function.
    """

    def chance(self, missing: Floats, counts: Floats, events: Floats, ahead: Floats) -> Floats:
        """Return P(Poisson(counts / events · ahead) ≥ missing), as `RateModel.chance` says."""
        return special.gammainc(missing, counts / events * ahead)
