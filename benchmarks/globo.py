"""Globo news clicks against drawn negatives, day by day: elastic against hashed rows, hourly
against daily learning, and crosses.

`python benchmarks/globo.py --json --plot FILE.png`. Every variant scores an hour (or a day) with
the model as it is then and learns it after, once. The first day is learned and not judged. Variants
(`globo_systems.py`):

    elastic       a row for every id, learned by the hour, with the declared crosses
    hashed        a fixed hashed table of the bytes that `elastic` had at its largest; hashed_rows:
                  of as many rows
    small         rows from the second occurrence on, let go after two idle days; small_hashed:
                  hashed, in its bytes
    daily         as `elastic`, a day learned when it is over; daily_hashed: hashed, in the bytes of
                  `elastic`
    relations     a relation network in place of the declared crosses; no_crosses: neither
    usual_betas   as `elastic`, rows learned with Adam's usual betas

The log has clicks only: the other impressions are DRAWN (`conf/globo.yaml`), so an AUC says how
well clicks are distinguished from such draws, nothing else. Data: Globo.com (CHAMELEON, de Souza
Pereira Moreira et al. 2018; academic, non-commercial), found through ELASTIC_CTR_DATA. Days are
ingested once by the real stage, from the files that can hold them. A learned variant is kept by its
settings and days: after a change of the code take another workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from globo_systems import (
    COLUMNS,
    VARIANTS,
    Day,
    Known,
    Run,
    Size,
    drawn,
    drawn_schema,
    figures,
    kept,
    lines,
    plot_hours,
    read_day,
    recipe,
    run,
    stream_figures,
)
from harness.globo_files import files_of, moments, narrowed
from harness.options import chosen, print_json, progress, refusals

from features.partition import days_between
from features.schema import Schema
from pipelines.cli import console
from pipelines.config import load_config
from pipelines.stages.chain import run_stage
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store

_CONFIG = Path(__file__).parents[1] / "conf" / "globo.yaml"
_QUICK_BATCH = 64
_PLOTTED = {"elastic": "learned by the hour", "daily": "learned by the day"}


@dataclass(frozen=True)
class Data:
    """What all variants are taken through; `description` says what it was made of."""

    days: Sequence[Day]
    schema: Schema
    description: Sequence[str]


@dataclass(frozen=True)
class Maker:
    """Makes variants, or reads those that were made before from `folder`."""

    data: Data
    folder: Path
    seed: int
    batch: int

    def run(self, name: str) -> Run:
        """Return the run of a variant, that of the variant which sets its size first."""
        variant = VARIANTS[name]
        like = self.run(variant.like).size if variant.like else None
        learned = recipe(variant, self.data.schema, self.seed, self.batch)
        description = [
            asdict(variant),
            like and asdict(like),
            self.data.description,
            learned.model.model_dump(),
            learned.training.model_dump(),
        ]
        return kept(self.folder, name, description, lambda: self._made(name, like))

    def _made(self, name: str, like: Size | None) -> Run:
        def report(text: str) -> None:
            """Report the progress of this variant."""
            progress(f"{name}: {text}")

        return run(
            VARIANTS[name], like, self.data.days, self.data.schema, self.seed, self.batch, report
        )


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    days: Annotated[int, typer.Option(min=2, help="How many days; the first is not judged.")] = 6,
    first: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="The first day.")
    ] = datetime(2017, 10, 2),
    workspace: Annotated[
        Path, typer.Option(help="Where days and variants are kept; reused.")
    ] = Path("workspace-globo"),
    plot: Annotated[
        Path | None, typer.Option(help="PNG to draw of hourly and daily learning.")
    ] = None,
    variants: Annotated[str, typer.Option("--arms", help="Comma-separated; all by default.")] = "",
    share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Of the users, the same ones every day.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 17,
    batch: Annotated[int, typer.Option(min=1, help="Impressions a step.")] = 512,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few drawn impressions in place of the data.")
    ] = False,
) -> None:
    """Take every variant through the days, and print its figures."""
    asked = chosen(variants, VARIANTS, "--arms") or tuple(VARIANTS)
    with refusals():
        data = _drawn(days) if quick else _read(first.date(), days, share, workspace)
    made = Maker(data, workspace / "arms", seed, _QUICK_BATCH if quick else batch)
    runs = {name: made.run(name) for name in asked}
    if plot:
        plot_hours(
            data.days, {words: made.run(name).probability for name, words in _PLOTTED.items()}, plot
        )
    _show(
        {
            "stream": stream_figures(data.days),
            "arms": {name: figures(runs[name], data.days) for name in asked},
        },
        as_json,
    )


def _drawn(count: int) -> Data:
    schema = drawn_schema()
    return Data(list(drawn(count, schema)), schema, [f"drawn {count}"])


def _read(first: date, count: int, share: float, workspace: Path) -> Data:
    config, known = load_config(_CONFIG, [], workspace), Known()
    days, description = [], [f"share {share}"]
    times = moments(config, first)
    for day in days_between(first, first + timedelta(days=count - 1)):
        files = files_of(times, config.source, config.features, day)
        version = run_stage(
            "ingest", Context(narrowed(config, files), day, Store(workspace))
        ).version
        days.append(read_day(version.path, config.features, day, known, share))
        description.append(version.digest)
        progress(f"{day}: {len(days[-1]):,} impressions from {len(files)} files")
    return Data(days, config.features, description)


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    console.table(
        "Globo, drawn negatives: mean progressive AUC of a day",
        ("arm", *COLUMNS),
        lines(results["arms"]),
    )
    console.info(str(results["stream"]))


if __name__ == "__main__":
    typer.run(main)
