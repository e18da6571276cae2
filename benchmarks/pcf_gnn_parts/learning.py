"""An arm taken through a world: each slice is scored with the model as it is then and learned after, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcf_gnn_parts.arms import MODEL, TRAINING, Made, made
from pcf_gnn_parts.graphs import graph_of
from pcf_gnn_parts.worlds import Report, World
from training.data.examples import Examples, batches
from training.data.inputs import Featurizer, Inputs
from training.data.layout import FieldLayout
from training.data.scalers import scalers_from_numbers
from training.evaluation.metrics import auc, auc_within
from training.fit.learner import ahead
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.encoding_inputs import key_positions, pair_keys
from training.pretraining.graph import CrossGraph
from training.pretraining.settings import PretrainSettings


@dataclass
class Scores:
    """Figures of each judged slice, and the cross features that the last one was scored with."""

    auc: list[float] = field(default_factory=list)
    auc_seen: list[float] = field(default_factory=list)
    auc_unseen: list[float] = field(default_factory=list)
    share_seen: list[float] = field(default_factory=list)
    last: Made = field(default_factory=lambda: Made({}))

    def figures(self) -> dict[str, Any]:
        """Return means over the slices, and what the last cross features were."""
        means = {
            n: round(float(np.mean(getattr(self, n))), 5)
            for n in ("auc", "auc_seen", "auc_unseen", "share_seen")
        }
        return {**means, "bytes": self.last.bytes, "relations": self.last.figures}


def take(world: World, settings: PretrainSettings | None, window: int, report: Report) -> Scores:
    """Take an arm through a world, its cross features made anew for every slice from the `window` slices before it.

    A pair is seen when it is an edge of that graph; an impression is seen when its pairs of all relations are.
    """
    learners, scores, scalers = (
        ModelAndBaseline.new(LearnerConfig(world.schema, MODEL, TRAINING, world.relations)),
        Scores(),
        _scalers(world),
    )
    for number, examples in enumerate(world.slices):
        before = world.slices[max(0, number - window) : number]
        graph = graph_of(before, world.relations) if before else None
        cross = made(settings, graph) if graph else Made({})
        inputs = Featurizer(world.schema, world.relations, scalers, cross.encodings).inputs(
            examples
        )
        if number >= world.judged_from and graph:
            scores.last = cross
            _judge(scores, learners.model.predict(inputs), examples, _seen(examples, graph, world))
        if not number:
            learners.start_at_click_rate(examples.label)
        _learn(learners, inputs)
        report(
            f"slice {number}: {cross.bytes:,} bytes of cross features, AUC {scores.auc[-1:] or 'not judged'}"
        )
    return scores


def _judge(
    scores: Scores, probability: NDArray[np.float32], examples: Examples, seen: NDArray[np.bool_]
) -> None:
    scores.auc.append(auc(examples.label, probability))
    scores.auc_seen.append(auc_within(examples.label, probability, seen))
    scores.auc_unseen.append(auc_within(examples.label, probability, ~seen))
    scores.share_seen.append(float(seen.mean()))


def _seen(examples: Examples, graph: CrossGraph, world: World) -> NDArray[np.bool_]:
    seen = np.ones(len(examples), np.bool_)
    for i, relation in enumerate(world.relations):
        left, right = graph.sides(relation.name)
        edges = graph.edges[relation.name]
        known = np.sort(pair_keys(left[edges.left], right[edges.right]))
        seen &= (
            key_positions(known, pair_keys(examples.pairs[:, i, 0], examples.pairs[:, i, 1])) > 0
        )
    return seen


def _scalers(world: World) -> Mapping[str, Any]:
    first = world.slices[0]
    return scalers_from_numbers(FieldLayout.of(world.schema).dense, first.numbers, first.present)


def _learn(learners: ModelAndBaseline, inputs: Inputs) -> None:
    learner = learners.model
    learner.table.start_day()
    order = batches(
        len(inputs),
        TRAINING.batch_size,
        TRAINING.shuffle_block,
        (TRAINING.seed, learner.table.step),
    )
    for prepared in ahead(lambda rows: learner.prepare(inputs.take(rows)), order):
        learner.train_step(prepared)
