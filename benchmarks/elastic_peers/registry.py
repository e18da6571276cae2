"""Which systems there are, how each is started, and which of its parts are timed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from harness.environments import interpreter
from harness.processes import Process


@dataclass(frozen=True)
class Entry:
    """A system.

    Attributes:
        module: below `elastic_peers.systems`.
        parts: what is timed, in this order: `step`, `dense`.
        arguments: of the module's `create`.
        environment: the name of its own environment; None runs in ours.
        variables: environment variables it needs.
    """

    module: str
    parts: tuple[str, ...] = ("step",)
    arguments: tuple[str, ...] = ()
    environment: str | None = None
    variables: tuple[tuple[str, str], ...] = ()

    def start(self, folder: Path, log: Path, environments: Path) -> Process:
        """Start it for the work in a folder, its environment made.

        Raises:
            NoEnvironment: that failed.
        """
        python = (
            interpreter(self.environment, environments)
            if self.environment
            else Path(sys.executable)
        )
        return start_system(
            python, self.module, folder, log, *self.arguments, **dict(self.variables)
        )


def start_system(
    python: Path, module: str, folder: Path, log: Path, *arguments: str, **variables: str
) -> Process:
    """Start the worker of a system's module."""
    command = [str(python), "-m", "elastic_peers.worker", module, str(folder), *arguments]
    return Process(command, log, variables)


SYSTEMS = {
    "dense": Entry("dense", ("dense",)),
    "ours": Entry("ours"),
    "torch_sparse": Entry("torch_sparse", ("step", "dense"), environment="torch"),
    "tfra": Entry(
        "tfra", ("step", "dense"), environment="tfra", variables=(("TF_USE_LEGACY_KERAS", "1"),)
    ),
    "mutable_hash_table": Entry("mutable_hash_table"),
    "keras_1m": Entry("keras_embedding", arguments=("0.25",)),
    "keras_4m": Entry("keras_embedding", arguments=("1",)),
}

IN_OUR_ENVIRONMENT = tuple(name for name, entry in SYSTEMS.items() if entry.environment is None)
