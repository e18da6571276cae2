"""What a system's process does: get ready, then answer requests for blocks of steps, one JSON line
each, until results to stop.

A request is `{"part": "step" | "dense", "mlp": "128x64", "steps": 10, "warm_up": 2}`, the answer
`{"ms": [...], "loss": 0.5}`. Imports NumPy and the standard library alone: it runs in every peer's
environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any, Protocol

from elastic_peers.workload import read

Step = Callable[[int], float]
"""Takes the number of the batch, does one whole step and returns the mean loss before it."""


class System(Protocol):
    """A system under measurement; made by `Class(work, traffic, *arguments)`, its table filled."""

    def step(self, mlp: str) -> Step:
        """Return the whole step with an MLP."""
        ...

    def dense(self, mlp: str) -> Step:
        """Return the dense part alone: the MLP on a ready input, the gradient of that input and
        Adam included.
        """
        ...


def main(name: str, folder: str, *arguments: str) -> None:
    """Make the system `MODULE.CLASS` for the work in the folder, and answer until input ends."""
    answers = _claim_standard_output()
    module, class_name = name.split(".")
    make = getattr(import_module(f"elastic_peers.{module}"), class_name)
    work, drawn = read(Path(folder))
    started = time.perf_counter()
    system: System = make(work, drawn, *arguments)
    _answer(answers, {"ready_s": time.perf_counter() - started})
    numbers = cycle(
        range(work.batches)
    )  # goes on from block to block, so that every system meets all batches
    steps: dict[tuple[str, str], Step] = {}
    for line in sys.stdin:
        request = json.loads(line)
        part = (request["part"], request["mlp"])
        if part not in steps:
            steps[part] = getattr(system, request["part"])(request["mlp"])
        _answer(answers, _measured(steps[part], request, numbers))


def _measured(step: Step, request: dict[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
    for number in islice(numbers, request["warm_up"]):
        step(number)
    times, losses = [], []
    for number in islice(numbers, request["steps"]):
        started = time.perf_counter()
        losses.append(step(number))
        times.append((time.perf_counter() - started) * 1e3)
    return {"ms": times, "loss": sum(losses) / len(losses)}


def _claim_standard_output() -> IO[str]:
    """Keep standard output for answers; whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: IO[str], value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
