"""Declared id crosses, a relation network, and FSCD between them, on Frappe: `python
benchmarks/crosses.py --json`.

Wide & Deep with the settings of `benchmarks/frappe.py` (hidden layers apart) on `frappe_x1`, found
through ELASTIC_CTR_DATA. First, what declared crosses (an id of its own for every pair of values)
buy and take against one relation network over the ten fields. Second, a user who declared all those
crosses and asks which are worth their bytes: gates of FSCD learn on the training rows, the inputs
are taken in their order into half the bytes, and a model of what is left is learned afresh.

Every model learns until validation AUC stalls; test rows are scored with the best epoch. `--blind`
leaves test figures out, for choosing settings. Finished models are kept, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from crosses_model import Bench, Variant, against, choose_half, variants
from harness.cache import Cache
from harness.frappe_data import FOLDER, Frappe
from harness.frappe_models import MODELS
from harness.frappe_ours import use_threads
from harness.options import CACHE, chosen, print_json, progress

from compression.settings import SelectionSettings
from features.errors import InputError
from pipelines.cli import console

_CACHE = CACHE / "crosses"
_SHOWN = "neither,crosses,relations,relations_vector"
_COLUMNS = (
    "valid_auc",
    "valid_log_loss",
    "test_auc",
    "test_log_loss",
    "rows",
    "bytes",
    "bytes_with_state",
    "examples_per_s",
)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    models: Annotated[
        str, typer.Option("--arms", help="Also: crosses_all, crosses_admitted.")
    ] = _SHOWN,
    halve: Annotated[
        str, typer.Option(help="Variants that FSCD is to halve, comma-separated; may be empty.")
    ] = "crosses",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1, 2, … for each model.")] = 2,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers.")] = "200,200",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    min_count: Annotated[
        int,
        typer.Option(min=1, help="Occurrences, over all passes, for a row in crosses_admitted."),
    ] = 20,
    rank: Annotated[int, typer.Option(min=1, help="Of the matrix of relations_vector.")] = 5,
    gate_passes: Annotated[int, typer.Option(min=1, help="Passes with gates.")] = 4,
    gate_rate: Annotated[float, typer.Option(help="Learning rate of the gates.")] = 0.05,
    row_cost: Annotated[
        float, typer.Option(help="γ₃ of FSCD, for each row.")
    ] = SelectionSettings().rows,
    blind: Annotated[bool, typer.Option("--blind", help="Leave test figures out.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny, two epochs: does it run?")] = False,
    data: Annotated[Path, typer.Option(help="The folder of train, valid and test.")] = FOLDER,
    results: Annotated[Path, typer.Option(help="Where finished runs are kept.")] = _CACHE,
) -> None:
    """Learn what has not been learned yet, and print AUC beside rows and bytes."""

    known = variants(min_count, rank)
    asked, halved = chosen(models, known, "--arms"), chosen(halve, known, "--halve")
    wide_deep = MODELS["ours_wide_deep"].settings_for(quick)
    settings = wide_deep | (
        {} if quick else {"hidden": [int(width) for width in hidden.split(",")], "threads": threads}
    )
    use_threads(threads)
    bench = Bench(Frappe.read(data), settings, range(1, seeds + 1), Cache(results), progress, blind)
    figures = {name: bench.figures(name, known[name]) for name in dict.fromkeys((*asked, *halved))}
    gates = SelectionSettings(
        learning_rate=gate_rate, passes=1 if quick else gate_passes, rows=row_cost
    )
    _show(
        {
            "arms": figures,
            "halved": {name: _halved(bench, name, known[name], gates) for name in halved},
        },
        as_json,
    )


def _halved(bench: Bench, name: str, variant: Variant, gates: SelectionSettings) -> dict[str, Any]:
    """Choose with the first seed, learn what is left with every seed, and compare it to the full
    model.
    """
    bench.log(f"{name}: gates")
    try:
        half = choose_half(variant, bench.data, bench.settings, gates, bench.seeds[0])
    except InputError as error:
        return {"nothing_fits": str(error)}
    full = bench.figures(name, variant)
    left = {"fscd": half.fscd, "cheapest": half.cheapest}
    pruned = {by: bench.figures(f"{name}_{by}", variant.keeping(kept)) for by, kept in left.items()}
    return {"uses": half.as_dict()} | {
        by: figures | against(full, figures) for by, figures in pruned.items()
    }


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    pruned = {
        f"{name}, {by}": row[by]
        for name, row in figures["halved"].items()
        for by in ("fscd", "cheapest")
        if by in row
    }
    lines = [
        (name, *(row.get(column) for column in _COLUMNS))
        for name, row in (figures["arms"] | pruned).items()
    ]
    console.table("Frappe, Wide & Deep", ("arm", *_COLUMNS), lines)
    for name, row in figures["halved"].items():
        if "nothing_fits" in row:
            console.error(f"{name}: {row['nothing_fits']}")
            continue
        uses = [(use, *line.values()) for use, line in row["uses"].items()]
        console.table(
            f"{name}: what half the bytes keep",
            ("use", "δ", "rows", "kept", "kept by cheapest"),
            uses,
        )
        console.table(
            "against the full model", ("by", "bytes", "AUC gain", "reached"), _verdicts(row)
        )


def _verdicts(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    names = (
        "bytes_share",
        "test_auc_gain" if "test_auc_gain" in row["fscd"] else "valid_auc_gain",
        "reached",
    )
    return [(by, *(row[by][name] for name in names)) for by in ("fscd", "cheapest")]


if __name__ == "__main__":
    typer.run(main)
