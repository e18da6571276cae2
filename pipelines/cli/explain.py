"""`elastic-ctr explain-admission`: which keys of a committed day (hour) would get a row, by policy, before training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from features.errors import InputError
from features.partition import Partition, parse_partition
from features.schema import Schema
from pipelines.cli import console
from pipelines.config import default_workspace, load_config
from pipelines.store.artifacts import Store, Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from elastic_embeddings.admission.dry_run import Explanation
    from elastic_embeddings.admission.policies import Admission, ByField
    from elastic_embeddings.core.ragged import Ragged
    from training.settings import TrainingSettings

    Keys = dict[str, NDArray[np.int64] | Ragged]

_USUAL_COUNT = 10
_FIGURES = ("rows", "× offline", "events trained", "precision", "recall")

_ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]
_Day = Annotated[
    str,
    typer.Option(
        "--date", "-d", help="A day or hour that is ingested: YYYY-MM-DD or YYYY-MM-DDTHH."
    ),
]
_Workspace = Annotated[Path | None, typer.Option("--workspace", "-w", help="Where artifacts lie.")]
_Fields = Annotated[
    list[str],
    typer.Option("--field", help="Only this field (repeatable; default: every id field)."),
]
_Policies = Annotated[
    list[str],
    typer.Option(
        "--policy",
        help="KIND or KIND:COUNT (repeatable): always, count, sketch, plug-in, poisson, poisson-half, configured. "
        "Default: count:2, and count, sketch, plug-in and poisson at --min-count.",
    ),
]
_MinCount = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1,
        help=f"Sightings that make a key worth a row (default: training.admission.min_count, or {_USUAL_COUNT}).",
    ),
]
_Capacity = Annotated[
    int, typer.Option(min=1, help="Keys that a sketch holds in each of its two generations.")
]
_Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Override a key: --set training.batch_size=64 (repeatable)."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Plot = Annotated[
    Path | None, typer.Option("--plot", help="Draw rows against events trained into this PNG.")
]


def explain_admission(
    config: _ConfigFile,
    day: _Day,
    workspace: _Workspace = None,
    field: _Fields = [],  # noqa: B006
    policy: _Policies = [],  # noqa: B006
    min_count: _MinCount = None,
    capacity: _Capacity = 1 << 20,
    overrides: _Overrides = [],  # noqa: B006
    as_json: _Json = False,
    plot: _Plot = None,
) -> None:
    """Dry-run admission policies over a day or hour: rows, share of events trained, precision and recall.

    Each policy streams the day's keys in training's batches; nothing is trained. It is compared with the offline filter,
    which counts the whole day first and then keeps the keys seen --min-count times. Poisson rules know the day's length.
    """
    home = workspace or default_workspace()
    loaded = load_config(config, overrides, home)
    version = _impressions(Store(home), parse_partition(day))
    wanted = min_count or _min_count(loaded.training.admission.min_count)
    lines = _dry_run(
        _keys(version.path, loaded.features, field), policy, wanted, capacity, loaded.training
    )
    facts = {"date": str(version.day), "impressions": version.hash, "min_count": wanted}
    if plot is not None:
        from pipelines.cli.explain_plot import plot_policies

        plot_policies(
            [line for line in lines if line.field is None], wanted, str(version.day), plot
        )
    if as_json:
        typer.echo(
            json.dumps(
                {
                    **facts,
                    "batch_size": loaded.training.batch_size,
                    "results": [_record(x) for x in lines],
                },
                indent=1,
            )
        )
    else:
        _show(lines, f"{facts['date']}: keys seen {wanted} times or more are worth a row")


def _impressions(store: Store, day: Partition) -> Version:
    version = store.current("impressions", day)
    if version is None:
        ingested = ", ".join(map(str, store.days("impressions"))) or "none"
        raise InputError(
            f"{day} is not ingested in {store.workspace} (ingested: {ingested}); run `elastic-ctr ingest` for it first"
        )
    return version


def _min_count(configured: int) -> int:
    """A configuration that admits every key says nothing of what would be worth a row."""
    return configured if configured > 1 else _USUAL_COUNT


def _keys(folder: Path, schema: Schema, wanted: Sequence[str]) -> Keys:
    """Return the keys of each id field that is wanted, or of all; in the order of time."""
    from training.data.layout import Layout

    layout = Layout.of(schema)
    unknown = sorted(set(wanted) - set(layout.keyed))
    if unknown:
        raise InputError(
            f"--field {', '.join(unknown)}: the id fields are {', '.join(layout.keyed)}"
        )
    from training.data.examples import (
        read_examples,  # TensorFlow, and so not before the names are known to be right
    )

    examples = read_examples(folder, schema)
    columns = dict(zip(layout.keyed, [*examples.keys.T, *examples.lists], strict=True))
    return {name: keys for name, keys in columns.items() if name in wanted or not wanted}


def _dry_run(
    keys: Keys, names: Sequence[str], min_count: int, capacity: int, training: TrainingSettings
) -> tuple[Explanation, ...]:
    from elastic_embeddings.admission.dry_run import explain, traffic
    from pipelines.cli.explain_policies import Setting, default_names, policies

    stream = traffic(keys, training.batch_size)
    setting = Setting(
        min_count, stream.events_by_field(), capacity, _configured(training, stream.field_names)
    )
    chosen = policies(names or default_names(min_count), setting)
    return explain(stream, chosen, min_count, training.seed)


def _configured(training: TrainingSettings, fields: Sequence[str]) -> Admission | ByField:
    """Return the policy of the configuration, of which only what concerns these fields counts."""
    from training.fit.policies import admission

    min_counts = {
        name: count for name, count in training.admission.min_counts.items() if name in fields
    }
    return admission(training.admission.model_copy(update={"min_counts": min_counts}), fields)


def _record(line: Explanation) -> dict[str, Any]:
    """One line of the JSON; what is not a number is null."""
    record = {**asdict(line), "share_trained": line.share_trained}
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in record.items()
    }


def _show(lines: Sequence[Explanation], heading: str) -> None:
    """Print a table of all fields together, and one by field where there are several."""
    console.heading(heading)
    together = [line for line in lines if line.field is None]
    title = f"{lines[0].events:,} events, {lines[0].keys:,} distinct keys"
    console.table(
        title, ("policy", *_FIGURES), [[line.policy, *_cells(line, lines[0])] for line in together]
    )
    names = list(dict.fromkeys(line.field for line in lines if line.field is not None))
    if len(names) > 1:
        rows = [
            row
            for name in names
            for row in _field_rows([line for line in lines if line.field == name])
        ]
        console.table("by field (distinct keys)", ("policy", *_FIGURES), rows)


def _field_rows(lines: Sequence[Explanation]) -> list[list[Any]]:
    """A field's name and number of keys on a row of their own, then its policies, the offline filter first."""
    head = [f"{lines[0].field} ({lines[0].keys:,})", *[""] * len(_FIGURES)]
    return [head, *([line.policy, *_cells(line, lines[0])] for line in lines)]


def _cells(line: Explanation, offline: Explanation) -> list[Any]:
    times = f"{line.rows / offline.rows:.2f}" if offline.rows else None
    return [
        line.rows,
        times,
        *(_share(x) for x in (line.share_trained, line.precision, line.recall)),
    ]


def _share(value: float) -> str | None:
    return None if math.isnan(value) else f"{value:.1%}"
