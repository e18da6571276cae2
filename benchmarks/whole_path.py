"""The whole path of "From Massive to Compact" in one table: what each step does to AUC, bytes, seconds and requests a second.

`python benchmarks/whole_path.py --json --plots FOLDER`. Rows are cumulative, each the model after one more step:

    start             ids, declared crosses of ids, tables of cross statistics of every pair; width 16
    relation network  of the crossed fields, in the place of the crosses
    PCF-GNN           encodings of 4 numbers of 2 bytes a node, in the place of the tables
    multi-hash        the ids of the big fields are two rows each, of two tables with half as many rows as there are ids; with
                      `--frequent`, ids seen so often have a row of their own besides
    FSCD              inputs that 90 % of the bytes have no room for, in the order of the gates' importance, are dropped
    widths            rows keep the columns with 98 % of their squares, by band of frequency
    INT8              rows and kernels

The first five are learned afresh, one pass over all slices by the project's trainer, the baseline beside it included; the last
two are made of the fifth. `training` is the seconds of that, the other seconds are of making the statistics, of the gates, of
compressing; shares are of processor seconds, as a machine that others work on makes clocks unfair. AUC is of held-out impressions
(200 draws of users for the interval of the difference to the start). Requests a second: exports in fresh processes that know
TensorFlow only, in turns.

To reach at the end: no loss of AUC, training in at most half the seconds of the start. `reached` says both, and beside the first
whether the interval lets a loss be told at all. Data: globo (clicks against DRAWN negatives; CHAMELEON, academic use) and
kuairand_pure (Gao et al., CIKM 2022, CC BY-SA 4.0), through ELASTIC_CTR_DATA. Models are kept in the workspace, with what
learning them took: after a change of the code take another one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from compression_parts.learned import learn
from compression_parts.worlds import World, drawn, globo, kuairand
from harness.options import chosen, print_json, progress, refusals
from whole_path_parts.path import Options, WholePath
from whole_path_parts.plot import plot_path
from whole_path_parts.report import rows_of, verdict
from whole_path_parts.walk import Walk

from pipelines.cli import console


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
    makers: dict[str, Callable[[], World]] = {
        "globo": lambda: globo(workspace / "globo", days, share, progress),
        "kuairand_pure": lambda: kuairand(workspace / "kuairand", progress),
        "drawn": lambda: drawn(workspace / "drawn", days=3),
    }
    names = chosen("drawn" if quick else data, makers, "--data")
    options, told = Options(dim, lasso, values_a_row, frequent, kept_bytes, energy), {}
    with refusals():
        _warm_up()
        for name in names:
            told[name] = _walked(
                makers[name](), workspace / f"{name}-path", options, (requests, rounds)
            )
            if plots:
                plot_path(
                    told[name]["rows"],
                    f"{name}: from massive to compact",
                    plots / f"whole-path-{name}.png",
                )
    _show(told, as_json)


def _walked(
    world: World, folder: Path, options: Options, serving: tuple[int, int]
) -> dict[str, Any]:
    path = WholePath(
        Walk.of(world, folder / "pieces"),
        folder,
        options,
        lambda text: progress(f"{world.name}: {text}"),
    )
    steps = list(path.steps())
    rows = rows_of(steps, path.heldout, *serving)
    return {"heldout": path.heldout.rows, "rows": rows, "reached": verdict(rows)}


def _warm_up() -> None:
    """Learn a few drawn impressions, so that what TensorFlow takes to start is not counted as the first model's."""
    with tempfile.TemporaryDirectory() as scratch:
        few = drawn(Path(scratch), rows=500)
        learn(few.schema, few.model, few.training, few.days, Path(scratch) / "models")


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
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
    for name, figures in told.items():
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
