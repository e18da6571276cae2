"""The walk itself: five models learned one after the other, and what two steps of compression leave of the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from compression_parts.flat import distinct
from compression_parts.learned import Learned, learn
from compression_parts.spent import Spent, timed
from numpy.typing import NDArray

from compression.model import CompactModel
from compression.pruning import without_zero_rows
from compression.search.evaluator import HeldOutHalves
from compression.steps.sequence import run_steps
from compression.steps.settings import Dense, Quantize, StepSettings, Widths
from compression.steps.step import read_state
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from whole_path_parts.pretrained import pretrained
from whole_path_parts.selecting import choose
from whole_path_parts.stages import Stage, dropping, hashed, start, with_gnn, with_network
from whole_path_parts.walk import Walk

Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a person may set.

    Attributes:
        dim: width of the start.
        lasso: keep the group lasso of the log's YAML.
        values_a_row: ids of a multi-hash field for each row of its tables.
        frequent: times that such an id is seen before it has a row of its own besides; 0: none has.
        kept_bytes: share of the bytes that fields may keep.
        energy: of the squares of a band's values that narrower rows keep.
    """

    dim: int = 16
    lasso: bool = False
    values_a_row: int = 2
    frequent: int = 0
    kept_bytes: float = 0.9
    energy: float = 0.98


@dataclass(frozen=True)
class Step:
    """The model after a step.

    Attributes:
        name: of the step.
        learned: the checkpoint that the model is of.
        model: what is left of it, without zero rows.
        scores: float32 [n], its probabilities of the held-out impressions.
        beside: seconds of what made it beside learning: `statistics`, `choosing`, `compressing`.
        dropped: inputs that the selection left out.
    """

    name: str
    learned: Learned
    model: CompactModel
    scores: NDArray[np.float32]
    beside: dict[str, Spent]
    dropped: tuple[str, ...] = ()


class WholePath:
    """Walks through one log.

    Args:
        walk: the log, and what is crossed in it.
        folder: where models and statistics are kept.
        options: of the steps.
        report: told of what is done.
    """

    def __init__(self, walk: Walk, folder: Path, options: Options, report: Report) -> None:
        self._walk, self._folder, self._options, self._report = walk, folder, options, report
        self._heldout: HeldOutHalves | None = None

    @property
    def heldout(self) -> HeldOutHalves:
        """The impressions that no model learned; known once the first one is there."""
        assert self._heldout is not None, "no model is learned yet"
        return self._heldout

    def steps(self) -> Iterator[Step]:
        """Yield the model of each step, the start first."""
        stage = start(self._walk, self._options.dim, self._options.lasso)
        yield self._learned("start", stage)
        stage = with_network(stage, self._walk)
        yield self._learned("relation network", stage)
        stage = with_gnn(stage)
        yield self._learned("PCF-GNN", stage)
        values = distinct(self._walk.world.days, self._walk.world.hashed)
        stage = hashed(stage, values, self._options.values_a_row, self._options.frequent)
        step = self._learned("multi-hash", stage)
        yield step
        last = self._selected(stage, step)
        yield last
        yield from self._compressed(last)

    def _learned(self, name: str, stage: Stage) -> Step:
        self._report(
            f"{name}: {len(stage.schema.names())} fields, {len(stage.relations)} statistics"
        )
        crossed, statistics = pretrained(self._walk, stage, self._folder / "encodings")
        days = self._walk.world.days
        learned = learn(
            stage.schema, stage.model, stage.training, days, self._folder / "models", crossed
        )
        model = without_zero_rows(CompactModel.of(read_checkpoint(learned.checkpoint)))
        if self._heldout is None:
            self._heldout = HeldOutHalves.of(learned.partition, model.description)
        return Step(name, learned, model, self._scores(model), {"statistics": statistics})

    def _selected(self, stage: Stage, before: Step) -> Step:
        chosen, choosing = timed(
            lambda: choose(self._walk, stage, before.learned, self._options.kept_bytes)
        )
        self._report(f"dropped {sorted(chosen.dropped)} of {chosen.importance}")
        step = self._learned("FSCD", dropping(stage, before.model.description, chosen.dropped))
        return replace(
            step,
            beside={**step.beside, "choosing": choosing},
            dropped=tuple(sorted(chosen.dropped)),
        )

    def _compressed(self, last: Step) -> Iterator[Step]:
        widths = Widths(quantiles=(0.5, 0.9), energy=self._options.energy)
        yield self._left(last, "widths", (widths,))
        yield self._left(last, "INT8", (widths, Quantize(form="int8"), Dense(form="int8")))

    def _left(self, last: Step, name: str, plan: tuple[StepSettings, ...]) -> Step:
        self._report(name)
        work, spent = timed(
            lambda: run_steps(read_state(last.model, last.learned.checkpoint), plan)[0]
        )
        return replace(
            last,
            name=name,
            model=work.model,
            scores=self._scores(work.model),
            beside={**last.beside, "compressing": spent},
        )

    def _scores(self, model: CompactModel) -> NDArray[np.float32]:
        return Scorer(model.trained()).score(self.heldout.examples(model.description))
