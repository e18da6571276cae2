"""One measured value and its limits: the unit of every gate, of data and of models."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A value and the closed interval that it must be in.

    A value that is NaN, infinite or missing (`None`) never passes: a gate fails closed.

    Attributes:
        name: stable identifier, for instance `parity_max_abs_diff`.
        value: what was measured.
        low: smallest allowed value; None: no lower limit.
        high: largest allowed value; None: no upper limit.
        words: what the limit is about, as part of a report's sentence.
        examples: values that show it, as text; may be empty.
        setting: the setting that changes the limit; may be empty.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    words: str
    examples: str = ""
    setting: str = ""

    def __post_init__(self) -> None:
        # A check that cannot fail is a mistake in a gate.
        if not any(limit is not None and math.isfinite(limit) for limit in (self.low, self.high)):
            raise ValueError(
                f"check {self.name!r} has no limit: give `low`, `high` or both as numbers"
            )

    @property
    def passed(self) -> bool:
        """Whether the value is a finite number within the limits."""
        value = self.finite_value
        if value is None:
            return False
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high)

    @property
    def finite_value(self) -> float | None:
        """The value; None if it is not a finite number."""
        return self.value if self.value is not None and math.isfinite(self.value) else None

    @property
    def limit(self) -> str:
        """The limits as text, for instance `at most 1e-06` or `between 0.7 and 1.4`."""
        if self.low is None:
            return f"at most {self.high:.10g}"
        if self.high is None:
            return f"at least {self.low:.10g}"
        if self.low == self.high:
            return f"exactly {self.low:.10g}"
        return f"between {self.low:.10g} and {self.high:.10g}"

    @property
    def finding(self) -> str:
        """The check as one line, for logs and reasons."""
        value = self.finite_value
        shown = "not a number" if value is None else f"{value:.10g}"
        found = f"{self.words}: {shown}, must be {self.limit}"
        found += f" ({self.examples})" if self.examples else ""
        return found + (f"; `{self.setting}` sets the limit" if self.setting else "")

    def as_dict(self) -> dict[str, str | float | bool | None]:
        """Plain data for JSON; a value that is not a finite number is None."""
        return {
            "name": self.name,
            "value": self.finite_value,
            "limit": self.limit,
            "passed": self.passed,
            "words": self.words,
            "examples": self.examples,
            "setting": self.setting,
        }
