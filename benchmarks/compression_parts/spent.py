"""What a piece of work took: seconds by the clock, and seconds of processor of this process, fairer where others work beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True)
class Spent:
    """Seconds.

    Attributes:
        clock: that went by.
        cpu: of all threads of this process.
    """

    clock: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.clock + other.clock, self.cpu + other.cpu)


def timed(work: Callable[[], Made]) -> tuple[Made, Spent]:
    """Do some work; return what it made and what it took."""
    clock, cpu = time.monotonic(), time.process_time()
    made = work()
    return made, Spent(time.monotonic() - clock, time.process_time() - cpu)
