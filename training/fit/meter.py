"""How fast learning is: time spent waiting for batches and in steps, and CPU time, reported to a listener now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from training.evaluation.day_report import Timing

REPORT_EVERY_S = 5.0
"""Seconds between two calls of the progress listener."""


@dataclass(frozen=True)
class Progress:
    """How far learning is.

    Attributes:
        phase: its name.
        done: examples learned so far, of `total` in this phase.
        examples_per_s: so far.
        loss: of the last batch.
        examples_per_cpu_s: so far, per second of CPU of all threads of this process.
    """

    phase: str
    done: int
    total: int
    examples_per_s: float
    loss: float
    examples_per_cpu_s: float


Listener = Callable[[Progress], None]


class Meter:
    """Times a phase of learning.

    Args:
        phase: its name.
        total: examples that will be learned in it.
        listener: called every few seconds, and at the end.
    """

    def __init__(self, phase: str, total: int, listener: Listener | None) -> None:
        self._phase, self._total, self._listener = phase, total, listener
        self._started = self._mark = self._told = time.perf_counter()
        self._started_cpu = time.process_time()
        self._done, self._waited_s, self._stepped_s = 0, 0.0, 0.0

    def arrived(self) -> None:
        """A batch is there."""
        self._waited_s += self._lap()

    def learned(self, examples: int, loss: float) -> None:
        """A batch is learned."""
        self._stepped_s += self._lap()
        self._done += examples
        if self._listener and (
            self._mark - self._told >= REPORT_EVERY_S or self._done == self._total
        ):
            self._told = self._mark
            rate, cpu_rate = (
                self._done / max(spent, 1e-9)
                for spent in (self._mark - self._started, self._cpu_s())
            )
            self._listener(Progress(self._phase, self._done, self._total, rate, loss, cpu_rate))

    def timing(self) -> Timing:
        """The whole phase."""
        return Timing(self._done, self._stepped_s, self._waited_s, self._cpu_s())

    def _cpu_s(self) -> float:
        return time.process_time() - self._started_cpu

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


def joined(timings: Iterable[Timing]) -> Timing:
    """Return several phases as one."""
    parts = list(timings)
    return Timing(
        examples=sum(timing.examples for timing in parts),
        step_s=sum(timing.step_s for timing in parts),
        input_s=sum(timing.input_s for timing in parts),
        cpu_s=sum(timing.cpu_s for timing in parts),
    )
