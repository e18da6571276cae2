"""Curves of AUC against bytes: the plans that the search finds, and each other method by itself.

Every figure is a drop from one model: the unpenalised one of the width that did best on the users
who choose. Its bytes are those of keys, rows and dense weights without optimizer state; a hashed
model has no keys.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from harness.datasets import Column, Dataset, bucketed, distinct, parts, rewritten
from harness.training import TrainedModel, train_days
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from compression.export.write import SAVED_MODEL, export
from compression.model import CompactModel
from compression.pruning import compress, without_zero_rows
from compression.search.evaluator import EvaluatedPlan, PlanEvaluator
from compression.search.greedy_search import Goal
from compression.search.search import TUNED, plain, search, with_tuning
from compression.settings import CompressionSettings
from compression.steps.settings import PruneRows, Quantize, StepSettings
from features.plotting import INK, MUTED, figure_file, plain_axes
from features.schema import Categorical, Schema
from training.evaluation.metrics import auc
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint, read_description
from training.settings import ModelSettings
from validation.model.requests import read_requests
from validation.serving.measure import serve


@dataclass(frozen=True)
class Tried:
    """What is learned.

    Attributes:
        widths: of the unpenalised models.
        lasso: strengths of group lasso on deep rows; wide rows get five times as much, as in
            conf/kuairand_pure.yaml. The third is also cut and served, or the only one.
        hashed: how many values of a field share a row on average.
    """

    widths: tuple[int, ...] = (8, 16, 32)
    lasso: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    hashed: tuple[int, ...] = (10, 100, 1000)


QUICK = Tried(widths=(8,), lasso=(1e-3,), hashed=(10,))

SIZES = (3, 10, 30, 100, 300, 1000)
"""Times smaller, at which the best plan of a front is fine-tuned too and reported."""

_LARGEST_DROP = 0.03
"""Of AUC: the search goes on until nothing smaller is within it."""

Report = Callable[[str], None]
Rewritten = Callable[[Mapping[str, int], str, Column], dict[str, Column]]
"""From buckets by field, a field's name and its values to the columns that take its place."""


@dataclass(frozen=True)
class Line:
    """One model on one curve."""

    curve: str
    plan: Any
    measured: EvaluatedPlan


class RivalBench(PlanEvaluator):
    """Measures plans of its own model, and scores of another model on the same impressions."""

    @property
    def auc_choosing(self) -> float:
        """AUC of the whole model on the users who choose."""
        half = self._heldout.choosing
        return auc(self._heldout.label[half], self._trained[half])

    def rival(self, curve: str, learned: TrainedModel, keys: bool) -> EvaluatedPlan:
        """Score another trained model, without its zero rows; `keys` says whether its server needs
        them.
        """
        model = without_zero_rows(CompactModel.of(read_checkpoint(learned.checkpoint)))
        scores = Scorer(model.trained()).score(
            replace(self._heldout, partition=learned.partition).examples(model.description)
        )
        size = model.nbytes - (
            0 if keys else sum(rows.keys.nbytes for rows in model.tables.values())
        )
        return self.compare(curve, (), size, model.rows, scores)

    def against(self, one: EvaluatedPlan, bench: RivalBench) -> EvaluatedPlan:
        """Return what was measured against another bench's model on the same impressions, measured
        against this one's.
        """
        label, half = self._heldout.label, self._heldout.reported
        drop_reported = auc(label[half], self._trained[half]) - one.auc_reported
        return replace(
            one, drop=one.drop + self.auc_choosing - bench.auc_choosing, drop_reported=drop_reported
        )


class Curves:
    """Makes the curves of one log.

    Args:
        dataset: the log.
        folder: where models are kept.
        report: receives a line for each step.
        tried: what is learned.
    """

    def __init__(
        self, dataset: Dataset, folder: Path, report: Report, tried: Tried = Tried()
    ) -> None:
        self._dataset, self._folder, self._report, self._tried = dataset, folder, report, tried
        free = {
            "deep": dataset.model.deep.model_copy(update={"l21": 0.0}),
            "wide": dataset.model.wide.model_copy(update={"l21": 0.0}),
        }
        self._free = dataset.model.model_copy(update=free)
        self.widths = {dim: _bench(self._learned(self._of_width(dim))) for dim in tried.widths}
        self.dim = max(tried.widths, key=lambda dim: self.widths[dim].auc_choosing)
        self.bench = self.widths[self.dim]
        self.sparse = self._sparse(tried.lasso[:3][-1])
        self._distinct = distinct(dataset.days, dataset.hashed)

    def lines(self, most: int) -> Iterator[Line]:
        """Yield every model of every curve; the search measures at most `most` plans."""
        yield from self._searched("composed", self.bench, most)
        yield from self._searched("group lasso, composed", self._liked(), most)
        if len(self._tried.lasso) > 1:
            yield from self._searched(
                "strongest group lasso, composed",
                _bench(self._sparse(max(self._tried.lasso))),
                most,
            )
        yield from self._steps(
            "quantization", [(Quantize(form=form),) for form in ("float16", "int8", "int4")]
        )
        yield from self._lasso()
        yield from self._hashed("hashing trick", _hashing)
        yield from self._hashed("quotient and remainder", _quotient)

    def _searched(self, curve: str, bench: RivalBench, most: int) -> Iterator[Line]:
        """The front of what the search measures on the way down from a model."""
        found = search(bench, CompressionSettings(), Goal(max_drop=_LARGEST_DROP), most, self._tell)
        yield from self._lines(curve, found.front, bench)
        best = (self._best(found.front, size) for size in SIZES)
        plans = dict.fromkeys([(), *(one.steps for one in best if one)])
        yield from self._lines(
            f"{curve}, fine-tuned", [self._tuned(bench, steps) for steps in plans], bench
        )

    def _lines(
        self, curve: str, measured: Iterable[EvaluatedPlan], bench: RivalBench
    ) -> Iterator[Line]:
        for one in measured:
            yield Line(curve, [plain(step) for step in one.steps], self.bench.against(one, bench))

    def _best(self, front: Sequence[EvaluatedPlan], size: float) -> EvaluatedPlan | None:
        """Of plans at least so many times smaller than 1×, the one that loses least."""
        small = [one for one in front if one.bytes * size <= self.bench.bytes]
        return min(small, key=lambda one: one.drop, default=None)

    def _tuned(self, bench: RivalBench, steps: tuple[StepSettings, ...]) -> EvaluatedPlan:
        self._report(f"fine-tuning after {len(steps)} steps")
        return bench.measure(TUNED, with_tuning(steps))

    def _liked(self) -> RivalBench:
        """The model of group lasso that the choosing users like best."""
        return max(
            map(_bench, map(self._sparse, self._tried.lasso)), key=lambda bench: bench.auc_choosing
        )

    def _sparse(self, strength: float) -> TrainedModel:
        """The model that group lasso of a strength leaves."""
        return self._learned(_penalised(self._of_width(self.dim), strength))

    def _tell(self, number: int, one: EvaluatedPlan) -> None:
        self._report(
            f"plan {number}: {self.bench.bytes / one.bytes:.1f} times smaller, drop {one.drop:.5f}"
        )

    def _steps(self, curve: str, plans: list[tuple[StepSettings, ...]]) -> Iterator[Line]:
        for steps in plans:
            yield Line(curve, [plain(step) for step in steps], self.bench.measure(curve, steps))

    def _lasso(self) -> Iterator[Line]:
        """Rows that group lasso zeroed, and as many rows by magnitude of the model that learned
        without it: the paper's test.
        """
        for strength in self._tried.lasso:
            self._report(f"group lasso {strength:g}")
            one = self.bench.rival("group lasso", self._sparse(strength), keys=True)
            yield Line("group lasso", {"l21": strength}, one)
            kept = (PruneRows(by="norm", max_rows=one.rows),)
            yield Line(
                "magnitude pruning",
                [plain(step) for step in kept],
                self.bench.measure("magnitude pruning", kept),
            )

    def _hashed(self, curve: str, rewrite: Rewritten) -> Iterator[Line]:
        for values in self._tried.hashed:
            self._report(f"{curve}: {values} values a row")
            buckets = {name: max(2, count // values) for name, count in self._distinct.items()}
            home = self._folder / curve.replace(" ", "_") / str(values)
            days = [
                rewritten(d, self._dataset.hashed, partial(rewrite, buckets), home / d.name)
                for d in self._dataset.days
            ]
            learned = self._learned(
                self._of_width(self.dim), days, _with_columns(self._dataset, rewrite)
            )
            yield Line(
                curve, {"values_a_row": values}, self.bench.rival(curve, learned, keys=False)
            )

    def _of_width(self, dim: int) -> ModelSettings:
        return self._free.model_copy(update={"dim": dim})

    def _learned(
        self, model: ModelSettings, days: list[Path] | None = None, schema: Schema | None = None
    ) -> TrainedModel:
        return train_days(
            schema or self._dataset.schema,
            model,
            self._dataset.training,
            days or self._dataset.days,
            self._folder / "models",
        )


def _bench(learned: TrainedModel) -> RivalBench:
    return RivalBench.of(learned.checkpoint, learned.partition, 0.0)


def _penalised(model: ModelSettings, strength: float) -> ModelSettings:
    deep, wide = (
        rows.model_copy(update={"l21": l21})
        for rows, l21 in ((model.deep, strength), (model.wide, 5 * strength))
    )
    return model.model_copy(update={"deep": deep, "wide": wide})


def _hashing(buckets: Mapping[str, int], name: str, values: Column) -> dict[str, Column]:
    return {name: bucketed(values, buckets[name])}


def _quotient(buckets: Mapping[str, int], name: str, values: Column) -> dict[str, Column]:
    """Quotient and remainder, with as many rows together as the hashing trick has."""
    quotient, remainder = parts(values, max(2, buckets[name] // 2))
    return {f"{name}_q": quotient, f"{name}_r": remainder}


def _with_columns(dataset: Dataset, rewrite: Rewritten) -> Schema:
    """The schema with the columns that take the place of the hashed fields."""
    nothing = np.zeros(0, object)
    names = {
        name: tuple(rewrite(dict.fromkeys(dataset.hashed, 4), name, nothing))
        for name in dataset.hashed
    }
    fields = [
        new
        for f in dataset.schema.fields
        for new in ([Categorical(name=n) for n in names[f.name]] if f.name in names else [f])
    ]
    return dataset.schema.model_copy(update={"fields": tuple(fields)})


_CURVE_COLOURS = {
    "group lasso, composed": "#1f6fb2",
    "composed": "#3fa7a0",
    "strongest group lasso, composed": "#123f66",
    "group lasso, composed, fine-tuned": "#7fb4e0",
    "strongest group lasso, composed, fine-tuned": "#5b7fa6",
    "composed, fine-tuned": "#9ed6d1",
    "quantization": "#7b5ea7",
    "group lasso": "#5b8c5a",
    "magnitude pruning": "#d17a00",
    "hashing trick": "#b23a48",
    "quotient and remainder": "#8a97a6",
}
_LOWEST = -0.04
_OURS = ("group lasso, composed", "strongest group lasso, composed", "composed")


def row(line: Line, curves: Curves) -> dict[str, Any]:
    """Return the figures of one model; drops and their interval by user are of the users who did
    not choose.
    """
    one, drop = line.measured, curves.bench.interval(line.measured)
    return {
        "curve": line.curve,
        "plan": line.plan,
        "ratio": curves.bench.bytes / one.bytes,
        "bytes": one.bytes,
        "rows": one.rows,
        "auc": one.auc_reported,
        "auc_drop": one.drop_reported,
        "auc_drop_low": drop.low,
        "auc_drop_high": drop.high,
        "auc_drop_choosing": one.drop,
    }


def best_at(rows: Sequence[Mapping[str, Any]], ratio: float) -> dict[str, Mapping[str, Any]]:
    """Return by curve the model, of those at least so many times smaller, that the choosing users
    liked best.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for one in sorted(rows, key=lambda one: one["auc_drop_choosing"]):
        if one["ratio"] >= ratio:
            found.setdefault(one["curve"], one)
    return found


def plot_curves(rows: Sequence[Mapping[str, Any]], what: str, path: Path) -> None:
    """Draw the drop of AUC against how many times smaller a model is, one line for each curve."""
    with figure_file(path, (11, 5.2)) as figure:
        axes = plain_axes(figure)
        for curve, colour in _CURVE_COLOURS.items():
            models = [one for one in rows if one["curve"] == curve]
            _draw(axes, sorted(models, key=lambda one: one["ratio"]), curve, colour)
        axes.set_xscale("log")
        axes.set_xlim(0.8, 1500)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, _LOWEST), high)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("times smaller than the model without optimizer slots", color=INK)
        axes.set_ylabel("AUC, difference from that model", color=INK)
        axes.set_title(what, loc="left", color=INK, fontsize=11, fontweight="bold")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], curve: str, colour: str) -> None:
    if not rows:
        return
    ratio, change = [one["ratio"] for one in rows], [-one["auc_drop"] for one in rows]
    width, style = 1.8 if curve in _OURS else 1.1, "--" if curve.endswith("fine-tuned") else "-"
    axes.plot(
        ratio, change, style, marker="o", markersize=3.5, linewidth=width, color=colour, label=curve
    )
    if curve in _OURS:
        low, high = ([-one[end] for one in rows] for end in ("auc_drop_high", "auc_drop_low"))
        axes.fill_between(ratio, low, high, color=colour, alpha=0.15, linewidth=0)


def lossless(learned: TrainedModel) -> dict[str, Any]:
    """Return the largest difference over all held-out impressions at batches of 512, 32 and 1, and
    what was cut.

    `lossless_ratio` counts all; `lossless_ratio_without_slots` leaves optimizer state, counts and
    unadmitted keys out.
    """
    schema = read_description(learned.checkpoint).schema
    heldout = pq.read_table(learned.checkpoint / "heldout.parquet", columns=["record_id"])[
        "record_id"
    ].to_numpy()
    requests = read_requests(learned.partition, schema, heldout)
    with tempfile.TemporaryDirectory() as scratch:
        whole, cut, small = (Path(scratch) / name for name in ("whole", "cut", "small"))
        for folder in (whole, cut, small):
            folder.mkdir()
        report = compress(learned.checkpoint, CompressionSettings(), small)
        export(learned.checkpoint, whole)
        export(small, cut)
        answers = [serve(folder / SAVED_MODEL, requests).answers for folder in (whole, cut)]
    differences = [
        np.abs(answers[0][size].probability - answers[1][size].probability).max()
        for size in answers[0]
    ]
    return {
        "lossless_max_abs_diff": float(max(differences)),
        "lossless_rows": len(requests),
        "lossless_ratio": report.bytes_before / report.bytes_after,
        "lossless_ratio_without_slots": report.bytes_before_weights / report.bytes_after,
        "bytes_with_slots": report.bytes_before,
        "bytes_without_slots": report.bytes_before_weights,
        "bytes_cut": report.bytes_after,
    }
