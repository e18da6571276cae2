"""`elastic-ctr explain-admission`: compare admission policies on a day's keys, before training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.errors import InputError
from features.json_safe import json_safe
from features.partition import Partition, parse_partition
from features.schema import Schema
from pipelines.cli import console, options
from pipelines.config import default_workspace, load_config
from pipelines.store.artifacts import Store, Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from elastic_embeddings.admission.policies import Admission, ByField
    from elastic_embeddings.admission.replay import Explanation
    from elastic_embeddings.core.ragged import Ragged
    from training.settings import TrainingSettings

    Keys = dict[str, NDArray[np.int64] | Ragged]

_USUAL_COUNT = 10
"""Threshold if the configuration admits every key."""

_FIGURES = ("rows", "× offline", "events trained", "precision", "recall")

POLICY_KINDS = {
    "always": "a row at the first occurrence",
    "count": "a row at the k-th occurrence, counted exactly",
    "sketch": "a row at the k-th occurrence, counted in a sketch of --capacity keys",
    "plug-in": "a row when k occurrences in the pass are likely at the rate seen so far",
    "poisson": "like plug-in, with the rate estimated under a Gamma prior",
    "poisson-half": "like poisson, with a row when that probability exceeds one half",
    "configured": "the policy of training.admission",
}
"""What the kinds of `--policy` mean."""

_WITHOUT_COUNT = ("always", "configured")


def explain_admission(
    config: options.ConfigFile,
    day: options.Day,
    workspace: options.Workspace = None,
    field: Annotated[
        list[str],
        typer.Option(
            "--field", help="Explain this field only (repeatable; default: all id fields)."
        ),
    ] = [],  # noqa: B006
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy",
            help="KIND or KIND:COUNT, such as count:2 (repeatable). Kinds: always, count, sketch, "
            "plug-in, poisson, poisson-half, configured. Default: count:2, and count, sketch, "
            "plug-in and poisson at --min-count.",
        ),
    ] = [],  # noqa: B006
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Occurrences that make a key worth a row "
            f"(default: training.admission.min_count, or {_USUAL_COUNT}).",
        ),
    ] = None,
    capacity: Annotated[
        int, typer.Option(min=1, help="Number of keys in each of a sketch's two generations.")
    ] = 1 << 20,
    overrides: options.Overrides = [],  # noqa: B006
    as_json: options.Json = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Plot rows against events trained to this PNG file."),
    ] = None,
) -> None:
    """Compare admission policies on a day's keys.

    Reports rows, share of events trained, precision and recall by policy. Each policy reads the
    keys of a day or hour in batches of the training; nothing is trained. It is compared with the
    offline filter, which counts the whole day first and then keeps the keys that occur --min-count
    times. Poisson policies know the length of the day.
    """
    # 1. Read the day's keys.
    home = workspace or default_workspace()
    loaded = load_config(config, overrides, home)
    training = loaded.training
    version = _impressions(Store(home), parse_partition(day))
    configured = training.admission.min_count
    # A configuration that admits every key says nothing about what is worth a row.
    wanted = min_count or (configured if configured > 1 else _USUAL_COUNT)
    keys = _keys(version.path, loaded.features, field)
    # 2. Replay them under each policy.
    lines = _dry_run(keys, policy, wanted, capacity, training)
    # 3. Show the result.
    if plot is not None:
        from pipelines.cli.explain_plot import plot_policies

        totals = [line for line in lines if line.field is None]
        plot_policies(totals, wanted, str(version.day), plot)
    if as_json:
        document = {
            "date": str(version.day),
            "impressions": version.hash,
            "min_count": wanted,
            "batch_size": training.batch_size,
            "results": [{**asdict(x), "share_trained": x.share_trained} for x in lines],
        }
        typer.echo(json.dumps(json_safe(document), indent=1))
    else:
        console.heading(f"{version.day}: keys that occur {wanted} times or more are worth a row")
        _show(lines)


def _impressions(store: Store, day: Partition) -> Version:
    version = store.current("impressions", day)
    if version is None:
        ingested = ", ".join(map(str, store.days("impressions"))) or "none"
        raise InputError(
            f"{day} is not ingested in {store.workspace} (ingested: {ingested}); "
            "run `elastic-ctr ingest` for it first"
        )
    return version


def _keys(folder: Path, schema: Schema, wanted: Sequence[str]) -> Keys:
    """Return the keys of the wanted id fields, or of all, in the order of time."""
    from training.data.layout import FieldLayout

    layout = FieldLayout.of(schema)
    unknown = sorted(set(wanted) - set(layout.keyed))
    if unknown:
        raise InputError(
            f"--field {', '.join(unknown)}: the id fields are {', '.join(layout.keyed)}"
        )
    # Loads TensorFlow, so it is imported after the names are checked.
    from training.data.examples import read_examples

    examples = read_examples(folder, schema)
    # In the order of `layout.keyed`: single-valued fields first, then lists.
    columns = dict(zip(layout.keyed, [*examples.keys.T, *examples.lists], strict=True))
    return {name: keys for name, keys in columns.items() if name in wanted or not wanted}


def _dry_run(
    keys: Keys, names: Sequence[str], min_count: int, capacity: int, training: TrainingSettings
) -> tuple[Explanation, ...]:
    from elastic_embeddings.admission.replay import explain, traffic
    from training.fit.policies import admission

    stream = traffic(keys, training.batch_size)
    fields = stream.field_names
    # The configuration may name fields that are not explained here.
    min_counts = {n: count for n, count in training.admission.min_counts.items() if n in fields}
    configured = training.admission.model_copy(update={"min_counts": min_counts})
    inputs = PolicyInputs(
        min_count, stream.events_by_field(), capacity, admission(configured, fields)
    )
    chosen = policies(names or default_names(min_count), inputs)
    return explain(stream, chosen, min_count, training.seed)


@dataclass(frozen=True)
class PolicyInputs:
    """What policies are made from.

    Attributes:
        min_count: threshold of a policy whose name has no number.
        events: field name → its events in the pass, which is the horizon of Poisson policies.
        capacity: number of keys in each generation of a sketch.
        configured: the policy named `configured`.
    """

    min_count: int
    events: Mapping[str, int]
    capacity: int
    configured: Admission | ByField


def default_names(min_count: int) -> tuple[str, ...]:
    """Return the names of the policies that are compared by default."""
    counts = tuple(f"count:{k}" for k in sorted({2, min_count}))
    return counts + tuple(f"{kind}:{min_count}" for kind in ("sketch", "plug-in", "poisson"))


def policies(names: Sequence[str], inputs: PolicyInputs) -> dict[str, Admission | ByField]:
    """Return policies from names such as `poisson` or `count:2`, by their names with a number.

    Raises:
        InputError: a name has an unknown kind, or its number is not a positive integer.
    """
    made = {}
    for name in names:
        kind, _, number = name.partition(":")
        has_count = kind not in _WITHOUT_COUNT
        if kind not in POLICY_KINDS or (number and not (has_count and number.isdecimal())):
            kinds = "; ".join(f"{kind}: {what}" for kind, what in POLICY_KINDS.items())
            raise InputError(
                f"--policy {name!r}: expected KIND or KIND:COUNT, such as count:2. Kinds: {kinds}"
            )
        k = int(number) if number else inputs.min_count
        made[f"{kind}:{k}" if has_count else kind] = _policy(kind, k, inputs)
    return made


def _policy(kind: str, k: int, inputs: PolicyInputs) -> Admission | ByField:
    from elastic_embeddings.admission import policies as library
    from elastic_embeddings.admission.rate_models import PlugInRate

    match kind:
        case "always":
            return library.AlwaysAdmit()
        case "configured":
            return inputs.configured
        case "count":
            return library.CountAdmission(k)
        case "sketch":
            return library.SketchAdmission(k, inputs.capacity)
    # The horizon of a Poisson policy is the number of the field's events in the pass.
    prior = PlugInRate() if kind == "plug-in" else None
    by_field = {
        name: library.PoissonAdmission(
            k, prior=prior, until=max(events, 1), threshold_only=kind == "poisson-half", sketch=None
        )
        for name, events in inputs.events.items()
    }
    return library.ByField(by_field, library.AlwaysAdmit())


def _show(lines: Sequence[Explanation]) -> None:
    """Print a table of all fields together, and one by field if there are several."""
    title = f"{lines[0].events:,} events, {lines[0].keys:,} distinct keys"
    totals = [line for line in lines if line.field is None]
    console.table(title, ("policy", *_FIGURES), _rows(totals))
    names = list(dict.fromkeys(line.field for line in lines if line.field is not None))
    if len(names) < 2:
        return
    rows: list[list[Any]] = []
    for name in names:
        of_field = [line for line in lines if line.field == name]
        rows.append([f"{name} ({of_field[0].keys:,})", *[""] * len(_FIGURES)])
        rows += _rows(of_field)
    console.table("by field (distinct keys)", ("policy", *_FIGURES), rows)


def _rows(lines: Sequence[Explanation]) -> list[list[Any]]:
    """Return the cells of each line. The first line is the offline filter's."""

    def share(value: float) -> str | None:
        """Return a percentage."""
        return None if math.isnan(value) else f"{value:.1%}"

    rows = []
    for line in lines:
        ratio = f"{line.rows / lines[0].rows:.2f}" if lines[0].rows else None
        shares = (share(x) for x in (line.share_trained, line.precision, line.recall))
        rows.append([line.policy, line.rows, ratio, *shares])
    return rows
