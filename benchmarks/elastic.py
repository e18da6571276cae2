"""The elastic table against what else there is, all in one run on the same batches: `python
benchmarks/elastic.py --json`.

A step is forward, backward and update of a click model: 26 fields of width 16, batch 4,096, Zipf
keys over 4 M rows that are all there before the first step (`elastic_peers/workload.py` says the
exact law), with MLPs 400×400 and 128×64. Systems run as processes of their own, in rounds, so that
whatever else the machine does hits all alike; ratios are of medians. Peers that need other packages
get environments of their own, made at the first run: 4 GB and some minutes. Without a network they
are left out and the reason is printed. Then come figures of ours alone: the index, growth, memory,
saving and restoring.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from elastic_peers import workload
from harness.environments import NoEnvironment, interpreter
from harness.options import CACHE, chosen, difference, print_json, progress, ratio
from harness.processes import Process, ProcessFailed, run_function
from matplotlib.axes import Axes

from pipelines.cli import console


@dataclass(frozen=True)
class Entry:
    """A system.

    Attributes:
        system: module and class below `elastic_peers`.
        parts: what is timed, in this order: `step`, `dense`.
        arguments: of the class, after work and traffic.
        environment: the name of its own environment; None runs in ours.
        variables: environment variables it needs.
    """

    system: str
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
            python, self.system, folder, log, *self.arguments, **dict(self.variables)
        )


def start_system(
    python: Path, system: str, folder: Path, log: Path, *arguments: str, **variables: str
) -> Process:
    """Start the worker of a system."""
    command = [str(python), "-m", "elastic_peers.worker", system, str(folder), *arguments]
    return Process(command, log, variables)


SYSTEMS = {
    "dense": Entry("tf_systems.Dense", ("dense",)),
    "ours": Entry("own.Ours"),
    "torch_sparse": Entry("torch_sparse.TorchSparse", ("step", "dense"), environment="torch"),
    "tfra": Entry(
        "tfra.Tfra",
        ("step", "dense"),
        environment="tfra",
        variables=(("TF_USE_LEGACY_KERAS", "1"),),
    ),
    "mutable_hash_table": Entry("tf_systems.MutableHashTable"),
    "keras_1m": Entry("tf_systems.KerasEmbedding", arguments=("0.25",)),
    "keras_4m": Entry("tf_systems.KerasEmbedding", arguments=("1",)),
}

IN_OUR_ENVIRONMENT = tuple(name for name, entry in SYSTEMS.items() if entry.environment is None)


Timed = tuple[str, str, str]
"""System, part, MLP."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, timed steps a block, and untimed ones before them that warm the
    caches up again.
    """

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
    log: Callable[[str], None],
) -> Measured:
    """Start the systems for the work in the folder one after the other, time them in rounds, and
    end them.

    Args:
        systems: names in `SYSTEMS`.
        mlps: such as `128x64`.
        plan: how much.
        folder: as `workload.write` wrote it; logs go there.
        environments: where the peers' environments are or will be.
        log: receives lines of progress.
    """
    measured = Measured()
    with ExitStack() as stack:
        running = _started(stack, systems, folder, environments, measured, log)
        for number in range(plan.rounds):
            log(f"round {number + 1} of {plan.rounds}")
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
    log: Callable[[str], None],
) -> dict[str, Process]:
    """Start all at once and wait until every one has filled its table or failed."""
    starting: dict[str, Process] = {}
    for name in systems:
        log(f"starting {name}")
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


LARGE, SMALL = "400x400", "128x64"
_PEERS = ("tfra", "torch_sparse", "keras_1m", "keras_4m", "mutable_hash_table")
_OWN_DENSE = ("tfra", "torch_sparse")


@dataclass(frozen=True)
class Target:
    """What a figure should reach: at most or at least a value."""

    value: float
    at_most: bool = False

    def missed(self, figure: float) -> bool:
        """Return whether the figure is on the wrong side."""
        return figure > self.value if self.at_most else figure < self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:,g}"


TARGETS = {
    "over_dense.mlp_400": Target(1.2, at_most=True),
    "over_dense.mlp_128": Target(1.6, at_most=True),
    "step_ratio.tfra": Target(3),
    "step_ratio.torch_sparse": Target(2.3),
    "step_ratio.keras_4m": Target(15),
    "embedding_part_ratio.tfra": Target(5),
    "embedding_part_ratio.torch_sparse": Target(3.5),
    "index_keys_per_s_core": Target(30e6),
    "bytes_per_row_ratio": Target(1.3, at_most=True),
    "key_cost_50m_over_10m": Target(2, at_most=True),
    "save_peak_over_table": Target(1.1, at_most=True),
    "growth_stall_s": Target(1, at_most=True),
}


def step_figures(measured: Measured, batch: int) -> dict[str, Any]:
    """Return the ratios of medians; None where a system is missing.

    `step_ratio` is theirs over ours, and `embedding_part_ratio` the same after subtracting from
    each its own dense part: ours is TensorFlow's as installed here, TFRA's is measured in its
    environment's TensorFlow 2.16, torch's in torch. Both are of the small MLP. `over_dense` is ours
    over our dense part.
    """
    ours, dense = measured.median("ours", "step", SMALL), measured.median("dense", "dense", SMALL)
    theirs = {name: measured.median(name, "step", SMALL) for name in _PEERS}
    own_dense = {name: measured.median(name, "dense", SMALL) for name in _OWN_DENSE}
    part = difference(ours, dense)
    return {
        "step_ratio": {name: ratio(time, ours) for name, time in theirs.items()},
        "embedding_part_ratio": {
            name: ratio(difference(theirs[name], own), part) for name, own in own_dense.items()
        },
        "over_dense": {
            "mlp_400": ratio(
                measured.median("ours", "step", LARGE), measured.median("dense", "dense", LARGE)
            ),
            "mlp_128": ratio(ours, dense),
        },
        "examples_per_s": ratio(1e3 * batch, ours),
    }


def raw_figures(measured: Measured) -> dict[str, Any]:
    """Return the median milliseconds and the last losses by `system` or `system.dense` and MLP."""
    timed = [
        (system, part, mlp)
        for system, part, mlp in measured.times
        if system not in measured.missing
    ]
    medians: dict[str, dict[str, float | None]] = {}
    losses: dict[str, dict[str, float]] = {}
    for system, part, mlp in timed:
        name = system if part == "step" or system == "dense" else f"{system}.{part}"
        medians.setdefault(name, {})[mlp] = measured.median(system, part, mlp)
        losses.setdefault(name, {})[mlp] = measured.losses[system, part, mlp]
    return {
        "median_ms": medians,
        "losses": losses,
        "ready_s": measured.ready_s,
        "missing": measured.missing,
    }


def with_targets(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with `targets` and the names of those `missed`; a figure that is None
    misses nothing.
    """
    flat = flattened(figures)
    missed = [
        name
        for name, target in TARGETS.items()
        if flat.get(name) is not None and target.missed(flat[name])
    ]
    return {
        **figures,
        "targets": {name: str(target) for name, target in TARGETS.items()},
        "missed": missed,
    }


def flattened(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `a.b` → value for nested figures."""
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        flat |= (
            flattened(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat


_LABELS = {
    "dense": "dense part alone",
    "ours": "elastic-ctr, group lasso",
    "tfra": "TFRA 0.8.1",
    "torch_sparse": "torch Embedding(sparse) + SparseAdam",
    "mutable_hash_table": "MutableHashTable as the store",
    "keras_1m": "Keras Embedding + Adam, 1/4 of the rows",
    "keras_4m": "Keras Embedding + Adam",
}


def plot_steps(medians: Mapping[str, Mapping[str, float]], rows: int, target: Path) -> None:
    """Draw one panel for each MLP.

    Args:
        medians: system (or `system.dense`) → MLP → milliseconds.
        rows: of the table.
        target: a PNG.
    """
    from features.plotting import figure_file

    mlps = list(next(iter(medians.values())))
    with figure_file(target, (6.2 * len(mlps), 3.8)) as figure:
        panels = figure.subplots(1, len(mlps), sharey=True, squeeze=False)[0]
        for panel, mlp in zip(panels, mlps, strict=True):
            _draw_panel(panel, {name: times[mlp] for name, times in medians.items()}, mlp)
        size = f"{rows / 1e6:g} M rows of width 16"
        figure.suptitle(f"Training step on CPU, its dense part in grey: {size}")


def _draw_panel(panel: Axes, times: Mapping[str, float], mlp: str) -> None:
    from features.plotting import BLUE, ORANGE, PALE

    names = [name for name in reversed(_LABELS) if name in times]
    for place, name in enumerate(names):
        dense = min(times.get(f"{name}.dense", times.get("dense", 0.0)), times[name])
        colour = ORANGE if name == "ours" else BLUE
        panel.barh(place, dense, color=PALE)
        panel.barh(place, times[name] - dense, left=dense, color=colour)
        at = (times[name], place)
        panel.annotate(f"{times[name]:.0f}", at, (4, 0), textcoords="offset points", va="center")
    panel.set_yticks(range(len(names)), [_LABELS[name] for name in names])
    panel.margins(x=0.08)
    panel.set(xlabel="median step, ms", title=f"MLP {mlp.replace('x', '×')}")
    panel.spines[["top", "right"]].set_visible(False)


_OWN = ("index_keys_per_s_core", "bytes_per_row_ratio", "key_cost_50m_over_10m")


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        work: the batches and the table.
        index: arguments of `index_figures`: rows of the warm index, and of the small and the large
            table.
        grown_rows: rows to which a table is grown, saved and restored.
    """

    work: workload.Workload
    index: tuple[int, int, int]
    grown_rows: int


_FULL = Size(workload.Workload(), (4_000_000, 10_000_000, 50_000_000), 10_000_000)
_QUICK = Size(
    workload.Workload(rows=30_000, batch=64, smallest=20, batches=4),
    (20_000, 20_000, 40_000),
    250_000,
)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    correctness: Annotated[
        bool,
        typer.Option("--correctness", help="Also compare with float64 NumPy and over threads."),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A tiny run of the systems that need no other environment."),
    ] = False,
    systems: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    steps_only: Annotated[
        bool,
        typer.Option("--steps-only", help="Leave out index, growth, memory, save and restore."),
    ] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps a round, system and MLP.")] = 12,
    environments: Annotated[
        Path, typer.Option(help="Where the peers' environments are kept.")
    ] = CACHE,
    plot: Annotated[Path | None, typer.Option(help="Draw the step times into this file.")] = None,
) -> None:
    """Measure, and print the figures, their targets and which are missed."""
    size = _QUICK if quick else _FULL
    asked = chosen(systems, SYSTEMS, "--systems") or (
        IN_OUR_ENVIRONMENT if quick else tuple(SYSTEMS)
    )
    plan = Plan(1, 2, 1) if quick else Plan(rounds, steps)
    with tempfile.TemporaryDirectory() as folder:
        drawn = workload.write(size.work, Path(folder))
        measured = measure(asked, size.work.hidden, plan, Path(folder), environments, progress)
    figures = step_figures(measured, size.work.batch) | dict.fromkeys(_OWN)
    if not steps_only:
        figures |= _own_figures(size, measured)
    if correctness:
        progress("correctness")
        figures["correctness"] = run_function(
            "elastic_peers.own", "measure_correctness", steps=20 if quick else 300
        )
    figures |= raw_figures(measured) | {
        "distinct_rows_per_batch": drawn.distinct(),
        "rounds": plan.rounds,
        "steps": plan.steps,
    }
    _show(with_targets(figures), as_json)
    if plot:
        plot_steps(figures["median_ms"], size.work.rows, plot)


def _own_figures(size: Size, measured: Measured) -> dict[str, Any]:
    """Return the figures of ours alone; where they fail, the reason is among the missing."""
    warm, small, large = size.index
    figures: dict[str, Any] = {}
    parts = {
        "measure_index": {"warm": warm, "small": small, "large": large},
        "measure_table": {"rows": size.grown_rows},
    }
    for function, arguments in parts.items():
        progress(function.replace("_", " "))
        try:
            figures |= run_function("elastic_peers.own", function, **arguments)
        except ProcessFailed as error:
            measured.missing[function] = str(error)
    return figures


def _show(figures: dict[str, Any], as_json: bool) -> None:
    for name, reason in figures["missing"].items():
        console.error(f"{name} is left out: {reason}")
    if as_json:
        print_json(figures)
        return
    medians = figures["median_ms"]
    mlps = list(next(iter(medians.values()), {}))
    rows = [(name, *times.values()) for name, times in medians.items()]
    console.table("Median step, ms", ("system", *mlps), rows)
    flat = flattened(
        {
            name: value
            for name, value in figures.items()
            if name not in ("median_ms", "targets", "losses", "missing")
        }
    )
    flat.pop("missed")
    lines = [
        (name, value, figures["targets"].get(name), name in figures["missed"] or None)
        for name, value in flat.items()
    ]
    console.table("Figures", ("figure", "value", "target", "missed"), lines)


if __name__ == "__main__":
    typer.run(main)
