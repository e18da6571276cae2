"""One measured value beside its limits: what every gate, of data and of models, is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A value and the closed interval that it must lie in.

    A value that is NaN, infinite or missing (`None`) never passes: a gate that cannot see fails closed.

    Attributes:
        name: stable identifier, for instance `parity_max_abs_diff`.
        value: what was measured.
        low: smallest allowed value, or None when there is no lower limit.
        high: largest allowed value, or None when there is no upper limit.
        words: what the limit is about, as a sentence of a report.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    words: str

    def __post_init__(self) -> None:
        if not any(_is_number(limit) for limit in (self.low, self.high)):
            raise ValueError(
                f"check {self.name!r} has no limit: give `low`, `high` or both as numbers"
            )

    @property
    def passed(self) -> bool:
        """Whether the value is a finite number within the limits."""
        if self.value is None or not _is_number(self.value):
            return False
        return (self.low is None or self.value >= self.low) and (
            self.high is None or self.value <= self.high
        )

    @property
    def limit(self) -> str:
        """The limits in words: `at least 0.5`, `at most 1e-06`, `exactly 0` or `between 0.7 and 1.4`."""
        if self.low is None:
            return f"at most {self.high:.10g}"
        if self.high is None:
            return f"at least {self.low:.10g}"
        return (
            f"exactly {self.low:.10g}"
            if self.low == self.high
            else f"between {self.low:.10g} and {self.high:.10g}"
        )

    @property
    def finding(self) -> str:
        """The check as one line, for logs and reasons."""
        value = (
            "not a number"
            if self.value is None or not _is_number(self.value)
            else f"{self.value:.10g}"
        )
        return f"{self.words}: {value}, must be {self.limit}"

    def as_dict(self) -> dict[str, str | float | bool | None]:
        """Plain data for JSON; a value that is no finite number becomes None."""
        value = self.value if self.value is not None and _is_number(self.value) else None
        return {
            "name": self.name,
            "value": value,
            "limit": self.limit,
            "passed": self.passed,
            "words": self.words,
        }


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
