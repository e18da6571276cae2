"""Our models against FuxiCTR's and DeepCTR's on Frappe, all on the same files in one run: `python benchmarks/frappe.py --json`.

Data: `frappe_x1` (Baltrunas et al. 2015, research use; split of BARS), found through ELASTIC_CTR_DATA. Every model is learned
with several seeds until validation AUC stalls, in a process of its own and in its library's environment (made at the first
run: 3 GB); the test rows are scored with the best epoch. A finished run is kept, so that a broken comparison goes on where
it stopped. Examples a second are those of whole epochs of learning, data loading included and evaluation left out, at the same
batch, width and threads; `--speed-rounds` measures them of all models in turn, as kept runs are of different hours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from frappe_peers import report
from frappe_peers.cache import Cache, Result
from frappe_peers.registry import FUSION, MODELS
from frappe_peers.runs import Bench
from frappe_peers.speed import examples_per_s, with_speeds
from harness.environments import NoEnvironment
from harness.frappe_data import FOLDER, Frappe
from harness.options import chosen
from harness.processes import ProcessFailed

from pipelines.cli import console

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "elastic-ctr-benchmarks"
_OURS = tuple(name for name, entry in MODELS.items() if entry.environment is None)


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
    results: Annotated[Path, typer.Option(help="Where finished runs are kept.")] = _CACHE
    / "frappe-results",
    environments: Annotated[
        Path, typer.Option(help="Where the peers' environments are kept.")
    ] = _CACHE,
    plot: Annotated[Path | None, typer.Option(help="Draw AUC and speed into this file.")] = None,
) -> None:
    """Run what has not been run yet, and print the figures and which targets are missed."""
    asked = chosen(models, MODELS, "--models") or (_OURS if quick else tuple(MODELS))
    frappe = Frappe.read(data)
    bench = Bench(frappe, Cache(results), environments, quick)
    runs, missing = _run_all(bench, asked, range(1, seeds + 1))
    say = partial(typer.echo, err=True)
    speeds = (
        examples_per_s(bench, [m for m in asked if m not in missing], speed_rounds, say)
        if speed_rounds
        else {}
    )
    figures = _figures(frappe, runs, speeds) | {
        "missing": missing,
        "rows": len(frappe.train),
        "test_rows": len(frappe.test),
    }
    _show(figures, as_json)
    if plot:
        _draw(figures, plot)


def _run_all(
    bench: Bench, models: Sequence[str], seeds: Sequence[int]
) -> tuple[dict[str, dict[int, Result]], dict[str, str]]:
    """Run seed by seed, so that all models see the same times of day; a model that fails is left out with the reason."""
    runs: dict[str, dict[int, Result]] = {}
    missing: dict[str, str] = {}
    for seed in seeds:
        for model in models:
            if model in missing:
                continue
            try:
                runs.setdefault(model, {})[seed] = bench.result(
                    model, seed, partial(typer.echo, err=True)
                )
            except (NoEnvironment, ProcessFailed) as error:
                missing[model] = str(error)
    return {model: by_seed for model, by_seed in runs.items() if by_seed}, missing


def _figures(
    frappe: Frappe, runs: dict[str, dict[int, Result]], speeds: dict[str, float]
) -> dict[str, Any]:
    if set(FUSION) <= set(runs):
        shared = sorted(set.intersection(*(set(runs[member]) for member in FUSION)))
        runs[report.BEST] = {
            seed: report.fused([runs[m][seed] for m in FUSION], frappe.valid.label)
            for seed in shared
        }
    models = {
        name: report.figures_of(list(by_seed.values()), frappe.test.label)
        for name, by_seed in runs.items()
        if by_seed
    }
    models = with_speeds(models, speeds)
    return {"models": models, **report.verdicts(models)}


def _show(figures: dict[str, Any], as_json: bool) -> None:
    for name, reason in figures["missing"].items():
        console.error(f"{name} is left out: {reason}")
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
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


def _draw(figures: dict[str, Any], target: Path) -> None:
    from frappe_peers.plot import plot

    plot(figures["models"], target)


if __name__ == "__main__":
    typer.run(main)
