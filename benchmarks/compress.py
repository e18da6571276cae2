"""AUC against bytes: composed plans of compression, and each rival by itself, on real logs.

`python benchmarks/compress.py --json --plots FOLDER`. For each log one unpenalised Wide & Deep is
learned at widths 8, 16 and 32; the one that the choosing half of the held-out users likes best is
1×: keys, rows and dense weights, no optimizer slots:

    composed                what `search-compression` finds on the way down (rows, columns, bits,
                            kernels, units)
    group lasso, composed   the same, from the model of group lasso that the choosing users like
                            best
    strongest …, composed   the same, from the model of the strongest group lasso: the smallest
                            models
    …, fine-tuned           these at several sizes, and as they are, with dense weights that learn
                            the last day anew
    quantization            float16, int8, int4 alone
    group lasso             models learned with it, their zero rows gone
    magnitude pruning       as many rows of the unpenalised model, by length (the paper's test)
    hashing trick           models learned with 10, 100 and 1,000 values of a field to a row
    quotient and remainder  models learned with as many rows in two tables

Plans are chosen on one half of the users and reported on the other; intervals are of 200 draws of
users. `lossless_*`: the same model exported whole and without its zero rows, answered in processes
that know TensorFlow only. Data: globo (clicks against DRAWN negatives; CHAMELEON, academic use),
kuairand_pure (Gao et al., CIKM 2022, CC BY-SA 4.0) and frappe_x1 (Baltrunas et al. 2015, research
use; its test rows are held out), through ELASTIC_CTR_DATA. (A script named compression.py would be
imported in the place of the package by every other script of this folder.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from compress_curves import QUICK, SIZES, Curves, Tried, best_at, lossless, plot_curves, row
from harness.datasets import Dataset, drawn, frappe, globo, kuairand
from harness.frappe_data import FOLDER as FRAPPE
from harness.options import chosen, print_json, progress, refusals

from pipelines.cli import console


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Annotated[str, typer.Option(help="Comma-separated.")] = "kuairand_pure,frappe_x1,globo",
    workspace: Annotated[Path, typer.Option(help="Where days and models are kept; reused.")] = Path(
        "workspace-compression"
    ),
    days: Annotated[int, typer.Option(min=1, help="Of globo.")] = 3,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of globo's users.")] = 1.0,
    frappe_data: Annotated[
        Path, typer.Option("--frappe", help="The folder of frappe_x1.")
    ] = FRAPPE,
    plans: Annotated[int, typer.Option(min=1, help="That the search measures.")] = 150,
    plots: Annotated[Path | None, typer.Option(help="Folder for a picture of each log.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few drawn impressions in place of the data.")
    ] = False,
) -> None:
    """Learn, compress, compare, and print the curves."""
    makers: dict[str, Callable[[], Dataset]] = {
        "globo": lambda: globo(workspace / "globo", days, share, progress),
        "kuairand_pure": lambda: kuairand(workspace / "kuairand", progress),
        "frappe_x1": lambda: frappe(workspace / "frappe", frappe_data),
        "drawn": lambda: drawn(workspace / "drawn"),
    }
    names, tried = chosen("drawn" if quick else data, makers, "--data"), QUICK if quick else Tried()
    with refusals():
        results = {
            name: _figures(makers[name](), workspace / name, tried, plans, plots) for name in names
        }
    _show(results, as_json)


def _figures(
    dataset: Dataset, folder: Path, tried: Tried, plans: int, plots: Path | None
) -> dict[str, Any]:
    curves = Curves(dataset, folder, lambda text: progress(f"{dataset.name}: {text}"), tried)
    rows = [row(line, curves) for line in curves.lines(plans)]
    if plots:
        plot_curves(
            rows,
            f"{dataset.name}: what a smaller model costs",
            plots / f"compression-{dataset.name}.png",
        )
    return {
        "dim": curves.dim,
        "auc_choosing_by_width": {dim: bench.auc_choosing for dim, bench in curves.widths.items()},
        "bytes": curves.bench.bytes,
        **lossless(curves.sparse),
        "pareto": rows,
        "best_at": {ratio: best_at(rows, ratio) for ratio in SIZES},
    }


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    for name, figures in results.items():
        lines = [
            (f"{r}×", curve, *_words(one))
            for r, best in figures["best_at"].items()
            for curve, one in best.items()
        ]
        console.table(
            f"{name}, width {figures['dim']}", ("at least", "curve", "ratio", "AUC", "95 %"), lines
        )


def _words(one: Mapping[str, Any]) -> tuple[str, str, str]:
    interval = f"{-one['auc_drop_high']:+.4f} … {-one['auc_drop_low']:+.4f}"
    return f"{one['ratio']:.0f}×", f"{-one['auc_drop']:+.4f}", interval


if __name__ == "__main__":
    typer.run(main)
