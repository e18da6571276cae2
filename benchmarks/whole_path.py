"""The whole path of "From Massive to Compact" in one table: what each step does to AUC, bytes,
seconds and requests a second.

`python benchmarks/whole_path.py --json --plots FOLDER`. Rows are cumulative, each the model after
one more step:

    start             ids, declared crosses of ids, tables of cross statistics of every pair; width
                      16
    relation network  of the crossed fields, in the place of the crosses
    PCF-GNN           encodings of 4 numbers of 2 bytes a node, in the place of the tables
    multi-hash        the ids of the big fields are two rows each, of two tables with half as many
                      rows as there are ids; with `--frequent`, ids seen so often have a row of
                      their own besides
    FSCD              inputs that 90 % of the bytes have no room for, in the order of the gates'
                      importance, are dropped
    widths            rows keep the columns with 98 % of their squares, by band of frequency
    INT8              rows and kernels

The first five are learned afresh, one pass over all slices by the project's trainer, the baseline
beside it included; the last two are made of the fifth. `training` is the seconds of that, the other
seconds are of making the statistics, of the gates, of compressing; shares are of processor seconds,
as a machine that others work on makes clocks unfair. AUC is of held-out impressions (200 draws of
users for the interval of the difference to the start). Requests a second: exports in fresh
processes that know TensorFlow only, in turns.

To reach at the end: no loss of AUC, training in at most half the seconds of the start. `reached`
says both, and beside the first whether the interval is narrow enough to see a loss. Data: globo
(clicks against DRAWN negatives; CHAMELEON, academic use) and kuairand_pure (Gao et al., CIKM 2022,
CC BY-SA 4.0), through ELASTIC_CTR_DATA. Models are kept in the workspace, with what learning them
took: after a change of the code take another one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from harness.datasets import Dataset, distinct, drawn, globo, kuairand
from harness.options import chosen, print_json, progress, refusals
from harness.training import Spent, TrainedModel, timed, train_days
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray
from whole_path_stages import (
    Stage,
    Walk,
    choose,
    dropping,
    hashed,
    pretrained,
    start,
    with_gnn,
    with_network,
)

from compression.export.write import SAVED_MODEL, export_model
from compression.model import CompactModel
from compression.pruning import without_zero_rows
from compression.search.evaluator import HeldOutHalves
from compression.steps.sequence import run_steps
from compression.steps.settings import Dense, Quantize, StepSettings, Widths
from compression.steps.step import read_state
from features.plotting import BLUE, INK, MUTED, figure_file, plain_axes
from pipelines.cli import console
from training.evaluation.day_report import HELDOUT, METRICS
from training.evaluation.metrics import auc, interval, resample_users
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from validation.model.requests import RawRequests, read_requests
from validation.serving.measure import ServingCosts, serving_costs

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
    learned: TrainedModel
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
        report: receives a line for each step.
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
        values = distinct(self._walk.dataset.days, self._walk.dataset.hashed)
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
        days = self._walk.dataset.days
        learned = train_days(
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


_BATCHES = (32, 512)


def rows_of(
    steps: Sequence[Step], heldout: HeldOutHalves, requests: int, rounds: int
) -> list[dict[str, Any]]:
    """Return a row for each step: quality against the start's, bytes, seconds, and requests a
    second of its export.

    Args:
        steps: the start first.
        heldout: the impressions that were scored.
        requests: of them that each export answers in every round.
        rounds: processes of each export.
    """
    drawn = resample_users(heldout.label, {step.name: step.scores for step in steps}, heldout.user)
    costs, first = _served(steps, requests, rounds), steps[0]
    rows = []
    for step in steps:
        gain = interval(drawn[step.name].auc - drawn[first.name].auc)
        value = auc(heldout.label, step.scores)
        quality = {
            "auc": value,
            "gain": value - auc(heldout.label, first.scores),
            "low": gain.low,
            "high": gain.high,
        }
        rows.append(
            {
                "step": step.name,
                **quality,
                **_size(step, first),
                **_seconds(step, first),
                **_speed(costs[step.name]),
            }
        )
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return what the last row reached: AUC not below the start's, a loss that is in doubt, half
    the seconds of learning.

    A wide interval excuses much: that it reaches 0 (`loss_in_doubt`) is not that nothing was lost
    (`no_auc_loss`).
    """
    last = rows[-1]
    return {
        "no_auc_loss": last["gain"] >= 0,
        "loss_in_doubt": last["gain"] < 0 <= last["high"],
        "training_half": last["training_share"] <= 0.5,
    }


def _size(step: Step, first: Step) -> dict[str, Any]:
    size, results = step.model.nbytes, step.model.description
    return {
        "bytes": size,
        "bytes_share": size / first.model.nbytes,
        "bytes_of_rows": step.model.rows_nbytes,
        "bytes_of_statistics": sum(encoding.nbytes for encoding in step.model.encodings.values()),
        "statistics": sorted(step.model.encodings),
        "rows": step.model.rows,
        "inputs": len(results.schema.names()) + len(results.relations),
        "dropped": step.dropped,
    }


def _seconds(step: Step, first: Step) -> dict[str, Any]:
    """Of learning, and of everything beside it; shares are of processor seconds. `steps_clock`: of
    reading and steps alone.
    """
    spent, slices = (
        {"training": step.learned.spent, **step.beside},
        range(int(step.learned.checkpoint.name) + 1),
    )
    beside = sum(step.beside.values(), Spent())
    before = first.learned.spent.cpu + sum(first.beside.values(), Spent()).cpu
    return {
        "seconds": {name: asdict(one) for name, one in spent.items()},
        "steps_clock": sum(_steps_clock(step.learned.of_day(number)) for number in slices),
        "training_share": step.learned.spent.cpu / first.learned.spent.cpu,
        "whole_share": (step.learned.spent.cpu + beside.cpu) / before,
    }


def _steps_clock(checkpoint: Path) -> float:
    figures = json.loads((checkpoint / METRICS).read_text(encoding="utf-8"))
    return float(figures["rows_learned"] / figures["examples_per_s"])


def _speed(costs: ServingCosts) -> dict[str, Any]:
    results = {f"qps_b{size}": costs.batches[size].per_second for size in _BATCHES}
    return {**results, "bytes_exported": costs.bytes, "rss_bytes": costs.rss_bytes}


def _served(steps: Sequence[Step], requests: int, rounds: int) -> dict[str, ServingCosts]:
    """Export every model, and let each answer in fresh processes, in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        exports: dict[str, Path] = {}
        for number, step in enumerate(steps):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            export_model(step.model, folder)
            exports[step.name] = folder / SAVED_MODEL
        return serving_costs(
            exports, {step.name: _asked(step, requests) for step in steps}, _BATCHES, rounds
        )


def _asked(step: Step, requests: int) -> RawRequests:
    records = pq.read_table(step.learned.checkpoint / HELDOUT, columns=["record_id"])[
        "record_id"
    ].to_numpy()
    return read_requests(step.learned.partition, step.model.description.schema, records[:requests])


def plot_path(rows: Sequence[Mapping[str, Any]], what: str, path: Path) -> None:
    """Draw the AUC of each step above the start's, with its interval, against bytes."""
    size, gain = [row["bytes"] for row in rows], [row["gain"] for row in rows]
    ends = [[row["gain"] - row["low"] for row in rows], [row["high"] - row["gain"] for row in rows]]
    style = {"elinewidth": 1, "capsize": 3, "marker": "o", "markersize": 5}
    with figure_file(path, (8.6, 4.8)) as figure:
        axes = plain_axes(figure)
        axes.errorbar(size, gain, yerr=ends, color=BLUE, ecolor=MUTED, **style)
        for number, row in enumerate(rows):
            # Texts alternate between above and below, so that they do not overlap.
            place, side = ((6, 8), "left") if number % 2 == 0 else ((-6, -16), "right")
            at, words = (row["bytes"], row["gain"]), f"{number} {row['step']}"
            offset = {"textcoords": "offset points", "ha": side}
            axes.annotate(words, at, place, **offset, color=INK, fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(max(size) * 1.4, min(size) / 2.2)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g} MB"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("keys, rows, dense weights, statistics; no optimizer slots", color=INK)
        axes.set_ylabel("AUC, difference from the start", color=INK)
        axes.set_title(what, loc="left", color=INK, fontsize=11, fontweight="bold")


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Annotated[
        str, typer.Option(help="Comma-separated: kuairand_pure, globo.")
    ] = "kuairand_pure,globo",
    workspace: Annotated[Path, typer.Option(help="Where days and models are kept; reused.")] = Path(
        "workspace-whole-path"
    ),
    days: Annotated[int, typer.Option(min=1, help="Of globo.")] = 2,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of globo's users.")] = 0.25,
    dim: Annotated[int, typer.Option(min=1, help="Width of rows.")] = Options.dim,
    lasso: Annotated[
        bool, typer.Option("--lasso", help="Keep the group lasso of conf/, also at the start.")
    ] = False,
    values_a_row: Annotated[
        int, typer.Option(min=1, help="Ids of a multi-hash field by row.")
    ] = Options.values_a_row,
    frequent: Annotated[
        int,
        typer.Option(help="Times that such an id is seen before it has a row of its own; 0: none."),
    ] = 0,
    kept_bytes: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share that fields may keep.")
    ] = Options.kept_bytes,
    energy: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of the squares that widths keep.")
    ] = Options.energy,
    requests: Annotated[int, typer.Option(min=1, help="Answered in each process.")] = 20_480,
    rounds: Annotated[
        int, typer.Option(min=1, help="Processes of each export; figures are medians.")
    ] = 3,
    plots: Annotated[Path | None, typer.Option(help="Folder for a picture of each log.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few drawn impressions in place of the data.")
    ] = False,
) -> None:
    """Walk the path, and print the table."""
    makers: dict[str, Callable[[], Dataset]] = {
        "globo": lambda: globo(workspace / "globo", days, share, progress),
        "kuairand_pure": lambda: kuairand(workspace / "kuairand", progress),
        "drawn": lambda: drawn(workspace / "drawn", days=3),
    }
    names = chosen("drawn" if quick else data, makers, "--data")
    options, results = Options(dim, lasso, values_a_row, frequent, kept_bytes, energy), {}
    with refusals():
        _warm_up()
        for name in names:
            results[name] = _walked(
                makers[name](), workspace / f"{name}-path", options, (requests, rounds)
            )
            if plots:
                plot_path(
                    results[name]["rows"],
                    f"{name}: from massive to compact",
                    plots / f"whole-path-{name}.png",
                )
    _show(results, as_json)


def _walked(
    dataset: Dataset, folder: Path, options: Options, serving: tuple[int, int]
) -> dict[str, Any]:
    path = WholePath(
        Walk.of(dataset, folder / "pieces"),
        folder,
        options,
        lambda text: progress(f"{dataset.name}: {text}"),
    )
    steps = list(path.steps())
    rows = rows_of(steps, path.heldout, *serving)
    return {"heldout": path.heldout.rows, "rows": rows, "reached": verdict(rows)}


def _warm_up() -> None:
    """Learn a few drawn impressions, so that what TensorFlow takes to start is not counted as the
    first model's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        few = drawn(Path(scratch), rows=500)
        train_days(few.schema, few.model, few.training, few.days, Path(scratch) / "models")


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    columns = (
        "step",
        "AUC",
        "to the start",
        "95 %",
        "MB",
        "training cpu s",
        "of the start's",
        "per s, 32",
        "512",
    )
    for name, figures in results.items():
        title = f"{name}, {figures['heldout']:,} held-out impressions"
        console.table(title, columns, [_line(row) for row in figures["rows"]])
        console.info(f"reached: {figures['reached']}")


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    quality = (
        f"{row['auc']:.4f}",
        f"{row['gain']:+.4f}",
        f"{row['low']:+.4f} … {row['high']:+.4f}",
    )
    seconds = (f"{row['seconds']['training']['cpu']:.0f}", f"{row['training_share']:.2f}")
    return (
        row["step"],
        *quality,
        f"{row['bytes'] / 1e6:.2f}",
        *seconds,
        f"{row['qps_b32']:,.0f}",
        f"{row['qps_b512']:,.0f}",
    )


if __name__ == "__main__":
    typer.run(main)
