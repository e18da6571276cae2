"""`elastic-ctr lift`: what the serving model earns, compared with plain models and chance."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from features.errors import InputError
from features.partition import day_of, folder_of
from features.schema import Categorical, MultiValued, Numeric
from pipelines.cli import console, options
from pipelines.cli.predict import score_rows
from pipelines.follow.raw_rows import normalize
from pipelines.stages.chain import track_result
from pipelines.stages.stage import Context, no_report
from pipelines.tracking.champion import Champion, serving_champion, version_of
from simulator.settings import SimulatorSettings

if TYPE_CHECKING:
    import pandas as pd

    from validation.lift.simulated import SimulatedExperiment

REPORT, PLOT = "lift.json", "lift.png"
ELASTIC, COMPRESSED = "elastic", "compressed"

_DAYS = 7
"""The plain models learn from so many days at most."""

_HOUR = "hour of the day"


def lift(
    config: options.ConfigFile,
    visits: Annotated[int, typer.Option(min=1000, help="Visits of the experiment.")] = 50_000,
    workspace: options.Workspace = None,
    out: options.Out = None,
    overrides: options.Overrides = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Compare the champion with plain models and chance in a simulated experiment.

    The experiment is on the day after the champion's. Users are in buckets; in each visit an arm
    chooses among the same kind of candidates, and clicks are drawn from the true probabilities.
    Arms: random, logistic regression and boosted trees trained on the same days, their fusion, the
    champion, and the model before its compression if it was compressed. Reports clicks per
    impression (pvCTR) and users with a click (uvCTR) with 95 % intervals and the true lift.
    Needs a simulated log. Writes lift.json and lift.png (default: to WORKSPACE/lift/dt=DAY).
    """
    from validation.lift.simulated import RANDOM, run_experiment

    store, started_ms = options.open_store(workspace), int(time.time() * 1000)
    partition = options.day_or_champion("champion", store)
    report = no_report if as_json else console.info
    context = options.stage_context(config, workspace, overrides, partition, report)
    world = context.config.simulator
    if world is None:
        raise InputError(
            f"{config}: no section `simulator`; the lift of a real log needs a live test or logged "
            "propensities, which this command does not read yet"
        )
    # 1. Visits that nobody trained on, each with all its candidates.
    rows, users, probability = _candidates(context, world, visits)
    # 2. Each arm's scores.
    scores = {**_plain_scores(context, rows), **_model_scores(context, rows)}
    shaped = {name: score.reshape(probability.shape) for name, score in scores.items()}
    # 3. The experiment.
    from validation.lift.plain_models import FUSION

    salt, controls = f"{context.config.name} {context.day}", (RANDOM, FUSION)
    result = run_experiment(users, probability, shaped, controls, salt, world.seed)
    folder = out or store.workspace / "lift" / folder_of(context.day)
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(result.as_dict(), indent=1)
    (folder / REPORT).write_text(document + "\n", encoding="utf-8")
    plot_lift(result, context.config.name, folder / PLOT)
    metrics = {
        f"{each.metric}/{_slug(each.arm)}_vs_{_slug(each.control)}{end}": value
        for each in result.lifts
        for end, value in (("", each.lift), ("_low", each.low), ("_high", each.high))
    }
    files = (folder / REPORT, folder / PLOT)
    track_result(context, "lift", started_ms, metrics, {"visits": str(visits)}, files)
    if as_json:
        typer.echo(document)
    else:
        _show(result)
        console.info(f"wrote {REPORT} and {PLOT} to {folder}")


def _slug(arm: str) -> str:
    return arm.replace(" ", "_")


def _candidates(
    context: Context, world: SimulatorSettings, visits: int
) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.float64]]:
    from simulator.impressions import candidate_rows
    from simulator.world import World

    day = day_of(context.day) + timedelta(days=1)
    drawn = candidate_rows(World(world), day, visits)
    context.report(f"{visits:,} visits of {day} with {drawn.probability.shape[1]} candidates each")
    rows = drawn.table.to_pandas()
    users = rows["user_id"].to_numpy()[:: drawn.probability.shape[1]]
    return rows, users, drawn.probability


def _plain_scores(context: Context, rows: pd.DataFrame) -> Mapping[str, NDArray[np.float64]]:
    import pandas as pd

    from validation.lift.plain_models import PlainModels

    schema, logs = context.config.features, context.store.workspace / "logs"
    fields = schema.column_fields()
    ids = [schema.source_column(f) for f in fields if isinstance(f, Categorical | MultiValued)]
    numbers = [schema.source_column(f) for f in fields if isinstance(f, Numeric)]
    last = day_of(context.day)
    days = [last - timedelta(days=back) for back in reversed(range(_DAYS))]
    paths = [path for day in days if (path := logs / f"dt={day.isoformat()}").is_dir()]
    if not paths:
        raise InputError(f"no simulated log up to {last} in {logs}: `elastic-ctr run` a day first")
    columns = [*ids, *numbers, "timestamp_ms", schema.label]
    log = pd.concat([pd.read_parquet(path, columns=columns) for path in paths])
    context.report(f"plain models: training on {len(log):,} impressions of {len(paths)} days")
    plain = PlainModels([*ids, _HOUR], numbers)
    plain.fit(_with_hour(log), log[schema.label].to_numpy() == 1)
    return plain.probabilities(_with_hour(rows))


def _with_hour(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{_HOUR: rows["timestamp_ms"] // 3_600_000 % 24})


def _model_scores(context: Context, rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Score candidates with the champion and, if it is a compression, with what was compressed."""
    model, store = context.config.tracking.registered_model, context.store
    champion = serving_champion(store, model)
    models: dict[str, Champion | None] = {ELASTIC: champion}
    before = version_of(store, model, champion.replaced) if champion and champion.replaced else None
    if before and champion and before.checkpoint(store) == champion.checkpoint(store):
        models = {ELASTIC: before, COMPRESSED: champion}
    scores, raw = {}, normalize(rows, context.config.source)
    for name, of in models.items():
        export = of.export(store) if of else None
        if export is None:
            raise InputError(f"the export of {of} is not in {store.workspace}: restore it")
        context.report(f"scoring {len(rows):,} candidates with {of}")
        scores[name] = score_rows(export.path / "saved_model", context.config.features, raw)
    return scores


def _show(result: SimulatedExperiment) -> None:
    from validation.lift.simulated import RANDOM

    quality = sorted(result.auc.items(), key=lambda each: each[1])
    console.table("AUC on random candidates", ("arm", "AUC"), quality)
    for metric, meaning in (("pvctr", "clicks per impression"), ("uvctr", "users with a click")):
        rows = []
        controls = list(dict.fromkeys(each.control for each in result.lifts))
        for arm, count in result.visits.items():
            own = next(x for x in result.lifts if x.metric == metric and arm in (x.arm, x.control))
            value = own.value if own.arm == arm else own.control_value
            cells = []
            for control in controls:
                if arm in (control, RANDOM):
                    cells += ["", ""]
                    continue
                found = result.find(metric, arm, control)
                cells.append(f"{found.lift:+.1%} ({found.low:+.1%} to {found.high:+.1%})")
                cells.append(f"{result.true_lift(found):+.1%}")
            rows.append((arm, f"{count:,}", f"{value:.4f}", *cells))
        heads = [head for control in controls for head in (f"lift over {control}, 95 %", "true")]
        console.table(f"{metric}: {meaning}", ("arm", "visits", metric, *heads), rows)


def plot_lift(result: SimulatedExperiment, name: str, path: Path) -> None:
    """Plot pvCTR's lift over the fusion and over random: estimate, interval and truth.

    Args:
        result: the experiment.
        name: name of the model, for the subtitle.
        path: PNG file to write.
    """
    from matplotlib.ticker import MaxNLocator

    from features.plotting import BLUE, RED, figure_file, plain_axes, title
    from validation.lift.plain_models import FUSION

    of = [x for x in result.lifts if x.metric == "pvctr"]
    controls = list(dict.fromkeys(each.control for each in of))
    best = list(result.visits)[-1]
    found = result.find("pvctr", best, FUSION)
    finding = f"{best}: {found.lift:+.1%} clicks per impression over the fusion"
    subject = f"{name}; simulated experiment, {sum(result.visits.values()):,} visits; bars: 95 %"
    with figure_file(path, (9.5, 4.4)) as figure:
        for number, control in enumerate(controls):
            axes = plain_axes(figure, (1, len(controls), number + 1))
            lines = [each for each in of if each.control == control and each.arm != "random"]
            heights = range(len(lines), 0, -1)
            axes.set_ylim(0.5, len(lines) + 0.5)
            axes.hlines(heights, [x.low for x in lines], [x.high for x in lines], color=BLUE, lw=2)
            axes.plot([x.lift for x in lines], heights, "o", color=BLUE, label="estimate")
            truths = [result.true_lift(x) for x in lines]
            axes.plot(truths, heights, "|", color=RED, ms=16, mew=2, label="truth")
            axes.set_yticks(list(heights), [x.arm for x in lines])
            axes.set_xlabel(f"lift over {control}")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.axvline(0, color="#888888", lw=1)
            if number == 0:
                title(axes, finding, subject)
            else:
                axes.legend(frameon=False)
