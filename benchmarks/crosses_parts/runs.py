"""Runs of arms, kept so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from frappe_peers.cache import Cache, Result, digest
from frappe_peers.data import Frappe

from crosses_parts.arms import Arm
from crosses_parts.learning import run
from crosses_parts.report import figures_of
from pipelines.store.source_digest import source_digest

_HERE = Path(__file__).resolve().parent
_LEARNS = "compression.selection.ranking"


@dataclass(frozen=True)
class Bench:
    """The data, the settings of every model, the seeds, the finished runs, and whether test figures are shown."""

    data: Frappe
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    cache: Cache
    say: Callable[[str], None]
    blind: bool = False

    def figures(self, name: str, arm: Arm) -> dict[str, Any]:
        """Return an arm's figures over the seeds."""
        runs = [self._result(name, arm, seed) for seed in self.seeds]
        return figures_of(runs, self.data.valid.label, None if self.blind else self.data.test.label)

    def _result(self, name: str, arm: Arm, seed: int) -> Result:
        path = self.cache.path(
            name, seed, arm=arm.described(), settings=dict(self.settings), of=self._digests
        )

        def made(answer: Path) -> Mapping[str, Any]:
            """Learn an arm, keep its scores, and return its figures."""
            self.say(f"{name}, seed {seed}")
            done = run(arm, self.data, self.settings, seed)
            np.savez(answer, valid=done.valid, test=done.test)
            return done.figures

        return self.cache.get_or_run(path, made)

    @cached_property
    def _digests(self) -> tuple[str, ...]:
        sources = [_HERE / f"{name}.py" for name in ("arms", "columns", "learning")]
        sources += [
            _HERE.parent / "frappe_peers" / f"{name}.py"
            for name in ("falling_rate", "loop", "ours")
        ]
        return self.data.digest(), source_digest(_LEARNS), digest(sources)
