"""Our models against FuxiCTR's and DeepCTR's on Frappe, all on the same files in one run: `python
benchmarks/frappe.py --json`.

Data: `frappe_x1` (Baltrunas et al. 2015, research use; split of BARS), found through
ELASTIC_CTR_DATA. Every model is learned with several seeds until validation AUC stalls, in a
process of its own and in its library's environment (made at the first run: 3 GB); the test rows are
scored with the best epoch. A finished run is kept, so that a broken comparison goes on where it
stopped. Examples a second are those of whole epochs of learning, data loading included and
evaluation left out, at the same batch, width and threads; `--speed-rounds` measures them of all
models in turn, as kept runs are of different hours.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.cache import Cache, Result, digest
from harness.environments import NoEnvironment
from harness.frappe_data import FOLDER, Frappe
from harness.frappe_models import FUSION, MODELS, Entry
from harness.options import CACHE, chosen, difference, print_json, progress, ratio
from harness.processes import BENCHMARKS, ROOT, ProcessFailed, run_json
from numpy.typing import NDArray

from pipelines.cli import console
from pipelines.store.source_digest import source_digest
from training.evaluation.metrics import auc, log_loss

_SHARED = tuple(BENCHMARKS / name for name in ("harness/frappe_data.py", "frappe_peers/worker.py"))
_OURS = "training.fit.model_and_baseline"


@dataclass(frozen=True)
class Bench:
    """The data, the finished runs and the environments of a comparison."""

    data: Frappe
    cache: Cache
    environments: Path
    quick: bool = False

    def result(self, model: str, seed: int, log: Callable[[str], None]) -> Result:
        """Return a run, made if it is not there yet.

        Raises:
            NoEnvironment: its library could not be installed.
            ProcessFailed: its process ended without an answer.
        """
        entry = MODELS[model]
        settings = entry.settings_for(self.quick)
        path = self.cache.path(
            model, seed, settings=settings, source=_source(entry), data=self._data_digest
        )

        def run(answer: Path) -> dict[str, Any]:
            """Learn with one seed, keep the answer, and return its figures."""
            log(f"{model}, seed {seed}")
            return self._run(model, seed, answer, settings)

        return self.cache.get_or_run(path, run)

    def figures(self, model: str, seed: int, **changes: Any) -> dict[str, Any]:
        """Return the figures of a run with some settings changed, of which nothing is kept."""
        with tempfile.TemporaryDirectory() as folder:
            return self._run(
                model,
                seed,
                Path(folder) / "answer.npz",
                MODELS[model].settings_for(self.quick) | changes,
            )

    def _run(self, model: str, seed: int, answer: Path, settings: dict[str, Any]) -> dict[str, Any]:
        entry = MODELS[model]
        with tempfile.TemporaryDirectory() as folder:
            data, job = Path(folder) / "data.npz", Path(folder) / "job.json"
            self.data.write(data)
            described = {"module": entry.module, "settings": settings, "seed": seed}
            job.write_text(
                json.dumps(described | {"data": str(data), "answer": str(answer)}), encoding="utf-8"
            )
            return _answer(
                entry, [str(entry.python(self.environments)), "-m", "frappe_peers.worker", str(job)]
            )

    @cached_property
    def _data_digest(self) -> str:
        return self.data.digest()


def _source(entry: Entry) -> str:
    """Return a digest of all code of this repository that a run depends on."""
    library = "" if entry.environment else source_digest(_OURS)
    return library + digest([*_SHARED, BENCHMARKS / f"{entry.module.replace('.', '/')}.py"])


def _answer(entry: Entry, command: list[str]) -> dict[str, Any]:
    threads = {"OMP_NUM_THREADS": str(entry.settings["threads"])}
    paths = [str(BENCHMARKS), *([] if entry.environment else [str(ROOT)])]
    return run_json(command, {**threads, **entry.variables, "PYTHONPATH": os.pathsep.join(paths)})


Floats = NDArray[np.float32]
Figures = Mapping[str, float | None]

LIKE = {
    "ours_wide_deep": ("fuxictr_dnn", "deepctr_wdl"),
    "ours_deepfm": ("fuxictr_deepfm", "deepctr_deepfm"),
    "ours_dcnv2": ("fuxictr_dcnv2",),
    "ours_lr": ("fuxictr_lr",),
    "ours_fm": ("fuxictr_fm",),
}
"""Our models and the peers of like structure."""

BEST = "ours_best"
MAY_FALL_SHORT, BEST_AUC, SPEED = 0.0005, 0.9855, 2.0
_FARTHEST = 1e-6


def figures_of(runs: Sequence[Result], label: Floats) -> dict[str, float | None]:
    """Return means and the sample deviation over the seeds of one model, on the test rows."""
    aucs = [auc(label, run.test) for run in runs]
    return {
        "auc_mean": float(np.mean(aucs)),
        "auc_std": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        "log_loss_mean": float(np.mean([log_loss(label, run.test) for run in runs])),
        "examples_per_s": float(np.median([run.figures["examples_per_s"] for run in runs])),
        "valid_auc_mean": float(np.mean([max(run.figures["valid_auc"]) for run in runs])),
        "seeds": len(runs),
    }


def fused(members: Sequence[Result], valid_label: Floats) -> Result:
    """Return the mean of logits of runs, as a run; learning it takes what learning all of them
    takes, one after the other.
    """
    valid, test = (
        mean_of_logits([getattr(run, part) for run in members]) for part in ("valid", "test")
    )
    seconds = sum(1 / run.figures["examples_per_s"] for run in members)
    return Result(
        {"examples_per_s": 1 / seconds, "valid_auc": [auc(valid_label, valid)]}, valid, test
    )


def mean_of_logits(probabilities: Sequence[Floats]) -> Floats:
    """Return the sigmoid of the mean logit, float32 [n]."""
    kept = [np.clip(p.astype(np.float64), _FARTHEST, 1 - _FARTHEST) for p in probabilities]
    logit = np.mean([np.log(p / (1 - p)) for p in kept], axis=0)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def verdicts(models: Mapping[str, Figures]) -> dict[str, Any]:
    """Return per model of ours its shortfall to the better like peer and its speed over the faster
    one, and what is missed.

    A figure whose model or peers are missing is None, and misses nothing.
    """
    compared = {
        ours: _compared(models, ours, peers) for ours, peers in LIKE.items() if ours in models
    }
    best = _get(models, BEST, "auc_mean")
    other = max(
        (figures["auc_mean"] or 0.0 for name, figures in models.items() if name != BEST),
        default=0.0,
    )
    missed = [
        f"{name}.auc_shortfall"
        for name, c in compared.items()
        if _above(c["auc_shortfall"], MAY_FALL_SHORT)
    ]
    missed += [
        f"{name}.speed_ratio" for name, c in compared.items() if _above(SPEED, c["speed_ratio"])
    ]
    if best is not None and (best <= BEST_AUC or best <= other):
        missed.append(f"{BEST}.auc_mean")
    return {"compared": compared, "best_over_all_others": difference(best, other), "missed": missed}


def _compared(
    models: Mapping[str, Figures], ours: str, peers: Sequence[str]
) -> dict[str, float | None]:
    return {
        "auc_shortfall": difference(
            _highest(models, peers, "auc_mean"), _get(models, ours, "auc_mean")
        ),
        "speed_ratio": ratio(
            _get(models, ours, "examples_per_s"), _highest(models, peers, "examples_per_s")
        ),
    }


def _highest(models: Mapping[str, Figures], names: Sequence[str], part: str) -> float | None:
    return max(
        (value for name in names if (value := _get(models, name, part)) is not None), default=None
    )


def _get(models: Mapping[str, Figures], name: str, part: str) -> float | None:
    return models[name][part] if name in models else None


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


EPOCHS = 4
"""Of a round: the first compiles and does not count."""

_SEED = 1


def examples_per_s(
    bench: Bench, models: Sequence[str], rounds: int, log: Callable[[str], None]
) -> dict[str, float]:
    """Return each model's median over the rounds; nothing of it is kept.

    Raises:
        NoEnvironment: a library could not be installed.
        ProcessFailed: a process ended without an answer.
    """
    found: dict[str, list[float]] = {model: [] for model in models}
    for number in range(rounds):
        for model, speeds in found.items():
            log(f"speed of {model}, round {number + 1} of {rounds}")
            speeds.append(
                bench.figures(model, _SEED, max_epochs=EPOCHS, patience=EPOCHS)["examples_per_s"]
            )
    return {model: float(np.median(speeds)) for model, speeds in found.items()}


def with_speeds(
    models: Mapping[str, Mapping[str, Any]], speeds: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the models' figures with these speeds in place of those of the runs, which were made
    at different times.
    """
    known = dict(speeds)
    if set(FUSION) <= set(known):
        known[BEST] = 1 / sum(1 / known[member] for member in FUSION)
    return {
        name: {**row, "examples_per_s": known.get(name, row["examples_per_s"])}
        for name, row in models.items()
    }


_OWN_MODELS = tuple(name for name, entry in MODELS.items() if entry.environment is None)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    models: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1, 2, … for each model.")] = 5,
    speed_rounds: Annotated[
        int, typer.Option(min=0, help="Rounds in which speeds are measured side by side.")
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Ours alone, tiny, two epochs: does it run?")
    ] = False,
    data: Annotated[Path, typer.Option(help="The folder of train, valid and test.")] = FOLDER,
    results: Annotated[Path, typer.Option(help="Where finished runs are kept.")] = CACHE
    / "frappe-results",
    environments: Annotated[
        Path, typer.Option(help="Where the peers' environments are kept.")
    ] = CACHE,
) -> None:
    """Run what has not been run yet, and print the figures and which targets are missed."""
    asked = chosen(models, MODELS, "--models") or (_OWN_MODELS if quick else tuple(MODELS))
    frappe = Frappe.read(data)
    bench = Bench(frappe, Cache(results), environments, quick)
    runs, missing = _run_all(bench, asked, range(1, seeds + 1))
    speeds = (
        examples_per_s(bench, [m for m in asked if m not in missing], speed_rounds, progress)
        if speed_rounds
        else {}
    )
    figures = _figures(frappe, runs, speeds) | {
        "missing": missing,
        "rows": len(frappe.train),
        "test_rows": len(frappe.test),
    }
    _show(figures, as_json)


def _run_all(
    bench: Bench, models: Sequence[str], seeds: Sequence[int]
) -> tuple[dict[str, dict[int, Result]], dict[str, str]]:
    """Run seed by seed, so that all models see the same times of day; a model that fails is left
    out with the reason.
    """
    runs: dict[str, dict[int, Result]] = {}
    missing: dict[str, str] = {}
    for seed in seeds:
        for model in models:
            if model in missing:
                continue
            try:
                runs.setdefault(model, {})[seed] = bench.result(model, seed, progress)
            except (NoEnvironment, ProcessFailed) as error:
                missing[model] = str(error)
    return {model: by_seed for model, by_seed in runs.items() if by_seed}, missing


def _figures(
    frappe: Frappe, runs: dict[str, dict[int, Result]], speeds: dict[str, float]
) -> dict[str, Any]:
    if set(FUSION) <= set(runs):
        shared = sorted(set.intersection(*(set(runs[member]) for member in FUSION)))
        runs[BEST] = {
            seed: fused([runs[m][seed] for m in FUSION], frappe.valid.label) for seed in shared
        }
    models = {
        name: figures_of(list(by_seed.values()), frappe.test.label)
        for name, by_seed in runs.items()
        if by_seed
    }
    models = with_speeds(models, speeds)
    return {"models": models, **verdicts(models)}


def _show(figures: dict[str, Any], as_json: bool) -> None:
    for name, reason in figures["missing"].items():
        console.error(f"{name} is left out: {reason}")
    if as_json:
        print_json(figures)
        return
    columns = list(next(iter(figures["models"].values()), {}))
    console.table(
        "Frappe, test rows",
        ("model", *columns),
        [(name, *row.values()) for name, row in figures["models"].items()],
    )
    compared = [(name, *row.values()) for name, row in figures["compared"].items()]
    console.table(
        "Against the better like peer", ("model", "auc_shortfall", "speed_ratio"), compared
    )
    typer.echo(f"missed: {', '.join(figures['missed']) or 'nothing'}")


if __name__ == "__main__":
    typer.run(main)
