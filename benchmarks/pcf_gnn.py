"""Cross features for the click model: none, the table of the statistic, PCF-GNN, a plain factorisation, node biases.

`python benchmarks/pcf_gnn.py --json`. One small click model (`pcf_gnn_parts/arms.py`, Wide & Deep, one pass) is taken through
the slices of a log; before each slice the cross features are made anew from the slices before it, as the stage makes them, gate
included; the slice is scored and then learned. Means over the judged slices, by data set and input:

    auc           of all impressions
    auc_seen      of those whose pairs of all relations are edges of the graph; auc_unseen: the others; share_seen
    bytes         of the cross features as they serve
    relations     held-out weighted R² of each, that of node biases, and why it was refused, if it was

Data: globo (clicks against DRAWN negatives; CHAMELEON, academic use), kuairand_pure (Gao et al., CIKM 2022, CC BY-SA 4.0), both
through ELASTIC_CTR_DATA; MovieLens-1M (rating of at least 4; Harper and Konstan, TiiS 2015, research use) where `--movielens`
names its folder (`conf/movielens_1m.yaml` says where from). Figures are kept by arm in the workspace: after a change of the code
take another one.

`--peer`: edges a second of training, ours and that of DGL's GraphSAGE (mean aggregation, the same edges, layers, fan-outs and
batches), in an environment that is made below the workspace from `pcf_gnn_parts/requirements`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from harness.options import chosen, print_json, progress, refusals
from pcf_gnn_parts.arms import ARMS
from pcf_gnn_parts.learning import take
from pcf_gnn_parts.throughput import Load, throughput
from pcf_gnn_parts.worlds import World, drawn, globo, kuairand, movielens

from pipelines.cli import console

_COLUMNS = ("auc", "auc_seen", "auc_unseen", "share_seen", "bytes")


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Annotated[
        str, typer.Option(help="Comma-separated: globo, kuairand_pure, movielens_1m.")
    ] = "globo,kuairand_pure",
    movielens_folder: Annotated[
        Path, typer.Option("--movielens", help="Holds ml-1m.inter and its side files.")
    ] = Path("ml-1m"),
    workspace: Annotated[
        Path, typer.Option(help="Where days and figures are kept; reused.")
    ] = Path("workspace-pcf-gnn"),
    arms: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = ",".join(ARMS),
    days: Annotated[int, typer.Option(min=2, help="Of globo, the first one not judged.")] = 3,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of globo's users.")] = 0.25,
    window: Annotated[
        int,
        typer.Option(
            min=1, help="Slices before that a graph is of: days, twelfths of Globo's days."
        ),
    ] = 7,
    peer: Annotated[
        bool, typer.Option("--peer", help="Only edges a second, ours and DGL's.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few drawn impressions in place of the data.")
    ] = False,
) -> None:
    """Take every input through the data, and print the figures."""
    if peer:
        print_json(throughput(Load(), workspace))
        return
    makers: dict[str, Callable[[], World]] = {
        "globo": lambda: globo(workspace / "globo", days, share, progress),
        "kuairand_pure": lambda: kuairand(workspace / "kuairand", 14, share, progress),
        "movielens_1m": lambda: movielens(movielens_folder, workspace, 15, progress),
        "drawn": lambda: drawn(4),
    }
    tried, names = (
        chosen(arms, ARMS, "--arms"),
        chosen("drawn" if quick else data, makers, "--data"),
    )
    with refusals():
        told = {
            name: _figures(
                makers[name], name, tried, window, workspace / f"{name}-{days}-{share}-{window}"
            )
            for name in names
        }
    _show(told, as_json)


def _figures(
    make: Callable[[], World], name: str, arms: tuple[str, ...], window: int, folder: Path
) -> dict[str, Any]:
    """Figures by arm; those that are kept are read, and the data only if one is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    world = make() if any(not (folder / f"{arm}.json").is_file() for arm in arms) else None
    for arm in arms:
        path = folder / f"{arm}.json"
        if world and not path.is_file():
            scores = take(
                world, ARMS[arm], window, lambda text, arm=arm: progress(f"{name}, {arm}: {text}")
            )
            path.write_text(json.dumps(scores.figures()), encoding="utf-8")
    return {arm: json.loads((folder / f"{arm}.json").read_text(encoding="utf-8")) for arm in arms}


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    for name, by_arm in told.items():
        lines = [
            (arm, *(str(figures[column]) for column in _COLUMNS)) for arm, figures in by_arm.items()
        ]
        console.table(
            f"{name}: cross features given to one click model", ("input", *_COLUMNS), lines
        )


if __name__ == "__main__":
    typer.run(main)
