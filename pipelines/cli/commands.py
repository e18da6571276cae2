"""Commands other than stages: reports, drafts, predictions, simulation, clean-up, follow mode."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError, NoDataError
from features.partition import (
    Partition,
    days_between,
    in_order,
    parse_partition,
    partitions_between,
    same_kind,
)
from features.redaction import redact
from pipelines.cli import console, options
from pipelines.cli.check import check
from pipelines.cli.explain import explain_admission
from pipelines.cli.lift import lift
from pipelines.cli.rollback import block, rollback
from pipelines.cli.search_compression import search_compression
from pipelines.cli.select_features import select_features
from pipelines.cli.serve_check import serve_check
from pipelines.config import Config, default_workspace, load_config
from pipelines.demo.__main__ import demo
from pipelines.demo.quickstart import quickstart
from pipelines.services.__main__ import down, up
from pipelines.stages.freshness import Freshness
from pipelines.stages.ingest import changed_tables, table_digests
from pipelines.stages.registry import artifacts, make_stage
from pipelines.stages.report import day_report, days_with_artifacts, report_json
from pipelines.store.artifacts import Store
from pipelines.store.lineage import ancestry_text, champions, read_blocked
from pipelines.tracking.champion import known_champion, known_models
from simulator.settings import SimulatorSettings

app = typer.Typer()

STATUS_DAYS = 7
"""How many of the latest days and hours `status` shows."""

app.command("check")(check)
app.command("demo")(demo)
app.command("quickstart")(quickstart)
app.command("explain-admission")(explain_admission)
app.command("lift")(lift)
app.command("search-compression")(search_compression)
app.command("select-features")(select_features)
app.command("serve-check")(serve_check)
app.command("rollback")(rollback)
app.command("block")(block)
app.command("up")(up)
app.command("down")(down)


@app.command()
def report(
    day: options.Day,
    config: options.ConfigToCompare = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
) -> None:
    """Print the metrics of a day or hour; exit code 4: nothing of it is committed."""
    store, partition = options.open_store(workspace), parse_partition(day)
    if partition not in days_with_artifacts(store):
        raise NoDataError(
            f"nothing of {day} is committed in {store.workspace}: `elastic-ctr status` lists the "
            "days that are there, `elastic-ctr check` says which are missing"
        )
    figures = day_report(store, partition)
    stale, tables = _stale(config, workspace, [partition]), dict[str, str]()
    if config:
        here = options.stage_context(config, workspace, [], partition)
        tables = table_digests(here.config.source)
    if as_json:
        reasons = {artifact: reason for (artifact, _), reason in stale.items()}
        typer.echo(report_json({**figures, "stale": reasons} if config else figures))
    else:
        seconds, revisions = figures.pop("seconds"), figures.pop("revisions")
        console.table(f"{figures['date']}", ("figure", "value"), figures.items())
        console.table("seconds by stage", ("stage", "seconds"), seconds.items())
        if len(revisions) > 1:
            console.info(f"stages ran with different source code: {', '.join(revisions)}")
        if figures["days_missing"]:
            console.info(
                f"trained over a hole: no sound checkpoint of the {figures['days_missing']:.3g} "
                "days before"
            )
        for (artifact, _), reason in stale.items():
            console.info(f"stale: {artifact}: {reason}")
        for path in changed_tables(store.current("impressions", partition), tables):
            console.info(f"side table {path} changed since the day was ingested")


@app.command()
def status(config: options.ConfigToCompare = None, workspace: options.Workspace = None) -> None:
    """Print committed artifacts and the serving model.

    Shows the artifacts of the latest days, and how many tracking events wait for MLflow.
    """
    from pipelines.tracking.journal import TrackingJournal

    store = options.open_store(workspace)
    there = list(days_with_artifacts(store))
    if not there:
        raise NoDataError(
            f"nothing is committed in {store.workspace}: run the chain (`elastic-ctr run`), or "
            "name another folder with --workspace"
        )
    # A day without anything in between is shown too.
    alike = [day for day in there if same_kind(day, there[-1])]
    others = [day for day in there if not same_kind(day, there[-1])]
    days = in_order([*partitions_between(alike[0], alike[-1]), *others])[-STATUS_DAYS:]
    stale = _stale(config, workspace, days)
    rows = [
        [artifact, *(_cell(store, artifact, day, stale) for day in days)]
        for artifact in artifacts()
    ]
    # Month and day are enough for the head of a column.
    heads = [day.isoformat().partition("-")[2] for day in days]
    console.table(f"workspace {store.workspace}", ("artifact", *heads), rows)
    for model in known_models(store):
        console.info(f"champion of {model}: {known_champion(store, model, console.warning)}")
    if not known_models(store):
        # A workspace of an earlier release has decisions and no copy of MLflow's answer.
        decided = next(champions(store), None)
        champion = (
            f"version {decided.metrics.get('model_version')} of {decided.day}" if decided else ""
        )
        by = ", by the decisions of this workspace; MLflow was not asked"
        console.info(f"champion: {champion + by if decided else 'none yet'}")
    for name, entry in read_blocked(store).items():
        console.info(f"blocked: version {name} of {entry['day']}: {entry['reason']}")
    for damaged in store.damaged():
        console.info(f"set aside because it was damaged: {damaged.relative_to(store.workspace)}")
    journal = TrackingJournal(store.workspace)
    console.info(f"tracking events that wait for MLflow: {len(journal.pending())}")
    for path, reason in journal.refused().items():
        shown = path.relative_to(store.workspace)
        console.info(f"tracking event set aside: {shown} ({reason.splitlines()[0]})")


def _cell(
    store: Store, artifact: str, day: Partition, stale: Collection[tuple[str, Partition]]
) -> str:
    if (artifact, day) in stale:
        return "stale"
    return "yes" if store.current(artifact, day) else "–"


def _stale(
    config: Path | None, workspace: Path | None, days: list[Partition]
) -> dict[tuple[str, Partition], str]:
    """Return the reason for each stale artifact of some days; nothing without a configuration."""
    if config is None:
        return {}
    freshness = Freshness(options.stage_context(config, workspace, [], days[0]))
    return {
        (make_stage(name).artifact, day): reason
        for day in days
        for name, reason in freshness.stale_stages(day)
    }


@app.command()
def config(
    path: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Validate this file and print it with all defaults."),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of the configuration.")
    ] = False,
) -> None:
    """Validate a configuration, or print its schema."""
    if schema or path is None:
        typer.echo(json.dumps(Config.model_json_schema(), indent=1))
    else:
        typer.echo(redact(load_config(path).model_dump_json(indent=1)))


@app.command()
def init(
    data: Annotated[
        str, typer.Option("--data", help="Log files (CSV, CSV.gz, Parquet), such as 'logs/*.csv'.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the YAML to this file (default: print it).")
    ] = None,
) -> None:
    """Draft a configuration from your log.

    Reads a sample and recognises the label, the time, ids and the kind of each column, and forbids
    columns that look like outcomes.
    """
    from pipelines.cli.draft import draft

    text = draft(data)
    if out is None:
        typer.echo(text)
    # Never overwritten: the user may have edited it.
    elif out.exists():
        raise InputError(f"{out} exists already: choose another file, or remove it")
    else:
        out.write_text(text, encoding="utf-8")
        console.info(
            f"wrote {out}: check it, then `elastic-ctr run --config {out} --from DAY --to DAY`"
        )


@app.command()
def predict(
    config: options.ConfigFile,
    source: Annotated[
        Path,
        typer.Option(
            "--input", "-i", help="CSV, CSV.gz or Parquet with the log's feature columns."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write this CSV file (default: standard output)."),
    ] = None,
    workspace: options.Workspace = None,
) -> None:
    """Score rows with the serving model.

    The output has the rows of the input in their order, with a column `probability`. A value that
    a spreadsheet would run as a formula (`=…`, `+…`, `-…`, `@…`, unless it is a number) begins
    with an apostrophe.
    """
    from pipelines.cli.predict import escape_formulas, predict_file

    home = workspace or default_workspace()
    scored = predict_file(load_config(config, workspace=home), Store(home), source)
    escape_formulas(scored).to_csv(out if out else typer.get_text_stream("stdout"), index=False)


@app.command()
def clean(
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="Number of latest days to keep, with their hours.")
    ],
    workspace: options.Workspace = None,
) -> None:
    """Delete the artifacts of all but the latest days.

    Artifacts that a kept artifact or the serving model was made from are kept as well.
    """
    from pipelines.store.cleaning import clean as delete_old

    freed = delete_old(options.open_store(workspace), keep)
    console.info(f"freed {freed.versions} versions, {console.format_bytes(freed.bytes)}")


@app.command()
def lineage(
    artifact: Annotated[str, typer.Option(help="Name of the artifact, for example export.")],
    day: options.Day,
    workspace: options.Workspace = None,
) -> None:
    """Print what an artifact was made from, as JSON."""
    store = options.open_store(workspace)
    version = store.current(artifact, parse_partition(day))
    if version is None:
        raise InputError(f"no {artifact} of {day}; the artifacts are {', '.join(artifacts())}")
    typer.echo(ancestry_text(store, version))


@app.command()
def sync(config: options.ConfigFile, workspace: options.Workspace = None) -> None:
    """Send unsent tracking events to MLflow."""
    from pipelines.tracking.sync import Tracker

    home = workspace or default_workspace()
    sent = Tracker(home, load_config(config, workspace=home).tracking.experiment).sync()
    console.info(f"sent {sent} events")


@app.command()
def follow(
    config: options.ConfigFile,
    watch: Annotated[
        Path,
        typer.Option(
            "--watch",
            help="Folder into which complete files (.parquet, .csv, .csv.gz) are renamed.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to publish to (default: WORKSPACE/follow).")
    ] = None,
    every: Annotated[
        float | None,
        typer.Option("--every", help="Seconds between micro-batches (default: follow.every_s)."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Process the files that are there and exit.")
    ] = False,
    workspace: options.Workspace = None,
    overrides: options.Overrides = [],  # noqa: B006
) -> None:
    """Train on log files as they arrive.

    Each change of the model is published. Starts from the last sound checkpoint of the workspace,
    or where an earlier process stopped. Writes to --out: full/ (exports), deltas/, quarantine/,
    state/ and batches.jsonl. SIGTERM or Ctrl-C stops it after the current micro-batch, with
    everything saved. Exit code 3: a micro-batch was unsound and was not published; the message
    names its files.
    """
    # Imported here: it loads the training, which takes seconds that `--help` should not.
    from pipelines.follow.follow import FollowJob, FollowProcess

    home = workspace or default_workspace()
    changed = [*overrides, *([f"follow.every_s={every}"] if every else [])]
    job = FollowJob(load_config(config, changed, home), Store(home), watch, out or home / "follow")
    stop = threading.Event()
    # Only a flag is set: the current micro-batch is finished and everything is saved.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with FollowProcess(job, console.info) as process:
        process.run(stop, once)


@app.command()
def simulate(
    config: options.ConfigFile,
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")],
    last: Annotated[
        datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, inclusive.")
    ],
    workspace: options.Workspace = None,
) -> None:
    """Write simulated days to WORKSPACE/logs."""
    from simulator.log import simulate_day

    home = workspace or default_workspace()
    settings = _simulator_settings(config, home)
    for day in days_between(first.date(), last.date()):
        written = simulate_day(settings, day, home / "logs")
        counts = f"{written.rows:,} impressions, {written.clicks:,} clicks"
        console.info(f"{day}: {counts} in {written.seconds:.1f} s")


@app.command()
def truth(
    config: options.ConfigFile,
    source: Annotated[
        Path, typer.Option("--input", "-i", help="Parquet file of simulated impressions.")
    ],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", help="Parquet to write, with a column `true_probability`."),
    ],
) -> None:
    """Add true probabilities to simulated clicks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from simulator.truth import true_probability

    settings = _simulator_settings(config, default_workspace())
    table = pq.read_table(source)
    probability = pa.array(true_probability(settings, table))
    pq.write_table(table.append_column("true_probability", probability), out)
    console.info(f"wrote {out}: {table.num_rows:,} impressions")


def _simulator_settings(config: Path, workspace: Path) -> SimulatorSettings:
    settings = load_config(config, workspace=workspace).simulator
    if settings is None:
        raise InputError(f"{config} has no section `simulator`; conf/simulated.yaml has an example")
    return settings
