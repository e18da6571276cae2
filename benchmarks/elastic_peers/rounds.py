"""All systems side by side, each in its process, a block of steps at a time: A B C … A B C …, so that noise hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from harness.environments import NoEnvironment
from harness.processes import Process, ProcessFailed

from elastic_peers.registry import SYSTEMS

Timed = tuple[str, str, str]
"""System, part, MLP."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, timed steps a block, and untimed ones before them that warm the caches up again."""

    rounds: int = 5
    steps: int = 12
    warm_up: int = 3


@dataclass
class Measured:
    """What came of it.

    Attributes:
        times: milliseconds of every timed step.
        losses: the mean loss of the last block.
        ready_s: seconds each system took to fill its table.
        missing: why a system has no times.
    """

    times: dict[Timed, list[float]] = field(default_factory=dict)
    losses: dict[Timed, float] = field(default_factory=dict)
    ready_s: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, system: str, part: str, mlp: str) -> float | None:
        """Return the median step in milliseconds, None where the system is missing."""
        times = self.times.get((system, part, mlp))
        return float(np.median(times)) if times and system not in self.missing else None


def measure(
    systems: Sequence[str],
    mlps: Sequence[str],
    plan: Plan,
    folder: Path,
    environments: Path,
    say: Callable[[str], None],
) -> Measured:
    """Start the systems for the work in the folder one after the other, time them in rounds, and end them.

    Args:
        systems: names in `SYSTEMS`.
        mlps: such as `128x64`.
        plan: how much.
        folder: as `workload.write` wrote it; logs go there.
        environments: where the peers' environments are or will be.
        say: told what goes on.
    """
    measured = Measured()
    with ExitStack() as stack:
        running = _started(stack, systems, folder, environments, measured, say)
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            for mlp in mlps:
                for name, process in running.items():
                    _block(name, process, mlp, plan, measured)
    return measured


def _started(
    stack: ExitStack,
    systems: Sequence[str],
    folder: Path,
    environments: Path,
    measured: Measured,
    say: Callable[[str], None],
) -> dict[str, Process]:
    """Start all at once and wait until every one has filled its table or failed."""
    starting: dict[str, Process] = {}
    for name in systems:
        say(f"starting {name}")
        try:
            process = SYSTEMS[name].start(folder, folder / f"{name}.log", environments)
        except NoEnvironment as error:
            measured.missing[name] = str(error)
            continue
        starting[name] = stack.enter_context(process)
    return {name: process for name, process in starting.items() if _ready(name, process, measured)}


def _ready(name: str, process: Process, measured: Measured) -> bool:
    try:
        measured.ready_s[name] = process.answer()["ready_s"]
    except ProcessFailed as error:
        measured.missing[name] = str(error)
    return name not in measured.missing


def _block(name: str, process: Process, mlp: str, plan: Plan, measured: Measured) -> None:
    for part in SYSTEMS[name].parts:
        if name in measured.missing:
            return
        try:
            answer = process.ask(
                {"part": part, "mlp": mlp, "steps": plan.steps, "warm_up": plan.warm_up}
            )
        except ProcessFailed as error:
            measured.missing[name] = str(error)
            return
        measured.times.setdefault((name, part, mlp), []).extend(answer["ms"])
        measured.losses[name, part, mlp] = answer["loss"]
