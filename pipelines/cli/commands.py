"""The commands beside the chain: look, draft, score, clean up, and keep the two UIs running."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError
from features.partition import days_between, parse_partition
from pipelines.cli import console
from pipelines.cli.explain import explain_admission
from pipelines.cli.search_compression import search_compression
from pipelines.cli.select_features import select_features
from pipelines.cli.serve_check import serve_check
from pipelines.config import Config, default_workspace, load_config
from pipelines.demo.__main__ import demo
from pipelines.follow.command import follow
from pipelines.services.__main__ import down, up
from pipelines.stages.report import ARTIFACTS, day_report, days_with_artifacts, report_json
from pipelines.store.artifacts import Store
from pipelines.store.lineage import ancestry_text, champion

app = typer.Typer()

SHOWN_DAYS = 7
"""How many of the latest days and hours `status` shows."""

WorkspaceOption = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Where artifacts lie.")
]
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]
DayOption = Annotated[
    str, typer.Option("--date", "-d", help="The day or hour: YYYY-MM-DD or YYYY-MM-DDTHH.")
]

app.command("demo")(demo)
app.command("explain-admission")(explain_admission)
app.command("follow")(follow)
app.command("search-compression")(search_compression)
app.command("select-features")(select_features)
app.command("serve-check")(serve_check)
app.command("up")(up)
app.command("down")(down)


def _store(workspace: Path | None) -> Store:
    return Store(workspace or default_workspace())


@app.command()
def report(
    day: DayOption,
    workspace: WorkspaceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the figures of a day or hour."""
    figures = day_report(_store(workspace), parse_partition(day))
    if as_json:
        typer.echo(report_json(figures))
    else:
        seconds = figures.pop("seconds")
        console.table(f"{figures['date']}", ("figure", "value"), figures.items())
        console.table("seconds by stage", ("stage", "seconds"), seconds.items())


@app.command()
def status(workspace: WorkspaceOption = None) -> None:
    """Print which stages of which days and hours are committed, which model serves, and what tracking still waits."""
    from pipelines.tracking.journal import Journal

    store = _store(workspace)
    days = list(days_with_artifacts(store))[-SHOWN_DAYS:]
    rows = [
        [artifact, *("yes" if store.current(artifact, day) else "–" for day in days)]
        for artifact in ARTIFACTS
    ]
    console.table(
        f"workspace {store.workspace}",
        ("artifact", *(day.isoformat().partition("-")[2] for day in days)),
        rows,
    )
    serving = champion(store)
    console.say(
        f"champion: version {serving.metrics['model_version']} of {serving.day}"
        if serving
        else "champion: none yet"
    )
    console.say(
        f"tracking events that wait for MLflow: {sum(1 for _ in Journal(store.workspace).pending())}"
    )


@app.command()
def config(
    path: Annotated[
        Path | None, typer.Option("--config", "-c", help="Check this file and print it whole.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of the configuration.")
    ] = False,
) -> None:
    """Print the configuration's JSON schema, or check a file and print it with every default filled in."""
    if schema or path is None:
        typer.echo(json.dumps(Config.model_json_schema(), indent=1))
    else:
        typer.echo(load_config(path).model_dump_json(indent=1))


@app.command()
def init(
    data: Annotated[
        str, typer.Option("--data", help="File pattern of your log (CSV, CSV.gz, Parquet).")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the YAML here instead of printing it.")
    ] = None,
) -> None:
    """Draft the YAML from a sample of your log: kinds, ids, time, label; columns that look like outcomes are flagged."""
    from pipelines.cli.draft import draft

    text = draft(data)
    if out is None:
        typer.echo(text)
    elif out.exists():
        raise InputError(f"{out} exists already: name another file, or remove it")
    else:
        out.write_text(text, encoding="utf-8")
        console.say(
            f"wrote {out}: read its comments, then `elastic-ctr run --config {out} --from D1 --to D2`"
        )


@app.command()
def predict(
    config: ConfigOption,
    source: Annotated[
        Path,
        typer.Option(
            "--input", "-i", help="CSV, CSV.gz or Parquet with the log's feature columns."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write (default: standard output).")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Score rows with the champion: the input's rows in order, with a column `probability`."""
    from pipelines.cli.predict import predict_file

    home = workspace or default_workspace()
    scored = predict_file(load_config(config, workspace=home), Store(home), source)
    scored.to_csv(out if out else typer.get_text_stream("stdout"), index=False)


@app.command()
def clean(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Days to keep, with their hours.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Free the versions of all but the latest days; what a kept one or the champion was made from stays."""
    from pipelines.store.cleaning import clean as free

    freed = free(_store(workspace), keep)
    console.say(f"freed {freed.versions} versions, {console.format_bytes(freed.bytes)}")


@app.command()
def lineage(
    artifact: Annotated[str, typer.Option(help="The artifact, for instance export.")],
    day: DayOption,
    workspace: WorkspaceOption = None,
) -> None:
    """Print what an artifact was made from, as JSON."""
    version = _store(workspace).current(artifact, parse_partition(day))
    if version is None:
        raise InputError(f"no {artifact} of {day}; artifacts are {', '.join(ARTIFACTS)}")
    typer.echo(ancestry_text(_store(workspace), version))


@app.command()
def sync(config: ConfigOption, workspace: WorkspaceOption = None) -> None:
    """Send tracking events that waited for MLflow."""
    from pipelines.tracking.sync import Tracker

    home = workspace or default_workspace()
    sent = Tracker(home, load_config(config, workspace=home).tracking.experiment).sync()
    console.say(f"sent {sent} events")


@app.command()
def simulate(
    config: ConfigOption,
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")],
    last: Annotated[
        datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, included.")
    ],
    workspace: WorkspaceOption = None,
) -> None:
    """Write simulated days below `<workspace>/logs`."""
    from simulator.log import simulate_day

    home = workspace or default_workspace()
    settings = load_config(config, workspace=home).simulator
    if settings is None:
        raise InputError(f"{config} has no section `simulator`; conf/simulated.yaml shows one")
    for day in days_between(first.date(), last.date()):
        written = simulate_day(settings, day, home / "logs")
        console.say(
            f"{day}: {written.rows:,} impressions, {written.clicks:,} clicks in {written.seconds:.1f} s"
        )


@app.command()
def truth(
    config: ConfigOption,
    source: Annotated[
        Path, typer.Option("--input", "-i", help="Parquet of simulated impressions.")
    ],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", help="Parquet to write: the rows, with `true_probability`."),
    ],
) -> None:
    """Add the true click probability to simulated impressions: what only a simulator knows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from simulator.truth import true_probability

    settings = load_config(config).simulator
    if settings is None:
        raise InputError(
            f"{config} has no section `simulator`: only a simulated log has a known truth"
        )
    table = pq.read_table(source)
    pq.write_table(
        table.append_column("true_probability", pa.array(true_probability(settings, table))), out
    )
    console.say(f"wrote {out}: {table.num_rows:,} impressions")
