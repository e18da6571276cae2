"""CPU of a training step of the default model, for `benchmarks/day.py`.

Simulated impressions (`conf/simulated.yaml`) are turned into arrays once. For each batch size a
process trains on them, block by block, and says what each block took: CPU milliseconds a step (all
threads of the process, preparing the batches included), examples per CPU-second and examples per
second. Then the same beside busy processes of the same priority, which is what a machine looks like
that does other work: each time a thread waits for another it waits for a time slice. With
`--against`, another revision's processes take turns with these, so a machine that is shared slows
both. Figures are medians of the rounds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from harness.options import progress
from harness.processes import Process

from features.errors import InputError

_ROOT = Path(__file__).resolve().parents[1]
_WORKER = Path(__file__).with_name("day_steps_worker.py")
_BUSY = "while True: pass"

THIS, OTHER = "this", "against"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        batches: impressions a step; the default of `training.batch_size` is measured beside busy
            processes too.
        block: impressions that a process learns between two answers.
        rounds: blocks a figure is the median of; one before them warms up.
        days: simulated days of impressions; learning starts from the first again after the last.
        rows: impressions a day.
        busy: busy processes.
    """

    batches: tuple[int, ...] = (128, 512, 4096)
    block: int = 51_200
    rounds: int = 5
    days: int = 4
    rows: int = 100_000
    busy: int = 4


BUSY_BATCH = 512


def measure_steps(plan: Plan, against: str | None = None, report: Any = progress) -> dict[str, Any]:
    """Measure this working tree, and another revision in turns with it.

    Args:
        plan: what is measured.
        against: a git revision with the code of the steps to compare with; None: none.
        report: receives lines of progress.

    Returns:
        `cpu_ms_per_step`, `examples_per_cpu_s` and `examples_per_s`, each by batch size (as text);
        `busy_examples_per_s` and `busy_cpu_ms_per_step`, of batches of `BUSY_BATCH` beside busy
        processes; `import_cpu_s` and `first_cpu_s`, of a process's imports and of its first two
        steps. With another revision `against` holds the same of it, `cpu_ratio` its CPU a step over
        this tree's by batch size, and `busy_ratio` this tree's examples per second over its.

    Raises:
        InputError: there is no such revision.
        ProcessFailed: a process ended with an error.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steps-")))
        report(f"simulating {plan.days * plan.rows:,} impressions")
        write_inputs(folder, plan.days, plan.rows)
        trees = {THIS: _ROOT} | (
            {OTHER: stack.enter_context(_checked_out(against, folder / "tree"))} if against else {}
        )
        workers = {
            (tree, batch): stack.enter_context(
                start_worker(path, folder, batch, folder / f"{tree}-{batch}.log")
            )
            for batch in plan.batches
            for tree, path in trees.items()
        }
        starts = {key: worker.answer() for key, worker in workers.items()}
        quiet = _rounds(plan, workers, report)
        report(f"beside {plan.busy} busy processes")
        stack.enter_context(_busy(plan.busy))
        busy = _rounds(
            plan, {key: worker for key, worker in workers.items() if key[1] == BUSY_BATCH}, report
        )
    found = {tree: _figures(tree, plan, starts, quiet, busy) for tree in trees}
    return found[THIS] | (_compared(found[THIS], found[OTHER]) if against else {})


def write_inputs(folder: Path, days: int, rows: int) -> None:
    """Write simulated days as the arrays that the training stage makes of them: `inputs.npz`, and
    `schema.json`.

    Args:
        folder: to write to.
        days: of `conf/simulated.yaml`.
        rows: impressions a day.
    """
    from pipelines.config import load_config
    from simulator.impressions import chunks, impressions
    from simulator.world import World
    from training.data.examples import examples_of
    from training.data.inputs import Featurizer
    from training.data.layout import FieldLayout
    from training.data.scalers import scalers_from_numbers

    config = load_config(_ROOT / "conf" / "simulated.yaml")
    schema, settings = (
        config.features,
        config.simulator.model_copy(update={"impressions_per_day": rows}),
    )
    world = World(settings)
    log = pa.concat_tables(
        [
            impressions(world, settings.first_day + timedelta(days=day), c)
            for day in range(days)
            for c in chunks(settings)
        ]
    )
    columns = {
        "record_id": log["impression_id"],
        "label": log["click"].cast(pa.int8()),
        "timestamp_ms": log["timestamp_ms"],
    }
    columns["user"] = log["user_id"].cast(pa.string())
    for field in schema.column_fields():
        texts = log[schema.source_column(field)].cast(pa.string())
        columns[field.name] = (
            pc.split_pattern(texts, field.separator) if field.kind == "multi_valued" else texts
        )
    examples = examples_of(pa.table(columns), folder, schema)
    scalers = scalers_from_numbers(FieldLayout.of(schema).dense, examples.numbers, examples.present)
    inputs = Featurizer(schema, (), scalers, {}).inputs(examples)
    (lists,) = inputs.lists
    arrays = {"keys": inputs.keys, "dense": inputs.dense, "label": inputs.label}
    np.savez(folder / "inputs.npz", list_values=lists.values, list_offsets=lists.offsets, **arrays)
    (folder / "schema.json").write_text(schema.model_dump_json(), encoding="utf-8")


def start_worker(tree: Path, folder: Path, batch: int, log: Path) -> Process:
    """Start a process that trains with a tree's code when it is asked for steps."""
    command = [sys.executable, str(_WORKER), str(folder), str(batch)]
    return Process(command, log, {"PYTHONPATH": str(tree)}, tree)


def _rounds(
    plan: Plan, workers: dict[tuple[str, int], Process], report: Any
) -> dict[tuple[str, int], list[dict[str, float]]]:
    """Let the workers take turns; return each one's answers. The first round is not counted."""
    answers: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in workers}
    for number in range(plan.rounds + 1):
        report(f"round {number} of {plan.rounds}")
        for key, worker in workers.items():
            answers[key].append(worker.ask({"steps": max(1, plan.block // key[1])}))
    return {key: found[1:] for key, found in answers.items()}


def _figures(tree: str, plan: Plan, starts: dict, quiet: dict, busy: dict) -> dict[str, Any]:
    def median_of(answers: Sequence[dict[str, float]], top: str, bottom: str) -> float:
        return median(answer[top] / answer[bottom] for answer in answers)

    by_batch = {str(batch): quiet[tree, batch] for batch in plan.batches}
    figures: dict[str, Any] = {
        "cpu_ms_per_step": {
            b: 1e3 * int(b) * median_of(a, "cpu_s", "examples") for b, a in by_batch.items()
        },
        "examples_per_cpu_s": {b: median_of(a, "examples", "cpu_s") for b, a in by_batch.items()},
        "examples_per_s": {b: median_of(a, "examples", "wall_s") for b, a in by_batch.items()},
    }
    if (tree, BUSY_BATCH) in busy:
        beside = busy[tree, BUSY_BATCH]
        figures["busy_examples_per_s"] = median_of(beside, "examples", "wall_s")
        figures["busy_cpu_ms_per_step"] = 1e3 * BUSY_BATCH * median_of(beside, "cpu_s", "examples")
    for name in ("import_cpu_s", "first_cpu_s"):
        figures[name] = median(starts[tree, batch][name] for batch in plan.batches)
    return figures


def _compared(this: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    ratios = {b: other["cpu_ms_per_step"][b] / ms for b, ms in this["cpu_ms_per_step"].items()}
    busy = {}
    if "busy_examples_per_s" in this:
        busy = {"busy_ratio": this["busy_examples_per_s"] / other["busy_examples_per_s"]}
    return {"against": other, "cpu_ratio": ratios} | busy


@contextmanager
def _checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A revision's files in a folder of their own, removed afterwards."""
    git = ["git", "-C", str(_ROOT), "worktree"]
    made = subprocess.run(
        [*git, "add", "--detach", str(folder), revision],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise InputError(
            f"--against {revision}: {made.stderr.strip()}; name a commit, a branch or a tag of this repository"
        )
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=False)


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Processes that do nothing but compute.

    Each is a session of its own, as other people's programs are: Linux shares the CPUs among
    sessions (autogroups) first.
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", _BUSY], start_new_session=True)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
