"""Which pretrained encodings a day or hour uses.

They are made every few days, from a graph of days that ended before their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from features.errors import InputError
from features.partition import HOURS_PER_DAY, is_before, parse_partition, same_kind, start_h
from features.redaction import redacted
from pipelines.stages.stage import Context, Inputs, config_section
from pipelines.store.artifacts import Version

ARTIFACT = "encodings"
_SECTIONS = ("graph", "pretraining")


def recent_encodings(context: Context) -> Version | None:
    """Return the last encodings of an earlier day if they are still valid, or None.

    They are valid if they were made with the current settings of graph and pretraining and are
    younger than `pretraining.every_days`.
    """
    last = next((v for v in _until_now(context) if v.day != context.day), None)
    if last is None or any(
        last.commit["config"].get(n) != redacted(config_section(context.config, n))
        for n in _SECTIONS
    ):
        return None
    # They must also be younger than the time span of their graph, so that the first encodings,
    # which are made from little data, are soon replaced.
    limit_h = min(
        context.config.pretraining.every_days * HOURS_PER_DAY, last.metrics.get("graph_hours", 0)
    )
    return last if start_h(context.day) - start_h(last.day) < limit_h else None


def encodings_for(context: Context) -> Inputs:
    """Return the last encodings of which a relation passed its gate, the day's own included.

    Raises:
        InputError: their graph holds impressions of the day or of later days.
    """
    usable = (v for v in _until_now(context) if v.metrics.get("relations_used", 0) > 0)
    version = next(usable, None)
    if version is None:
        return {}
    last_day = version.metrics["graph_last_day"]
    if last_day is not None and not is_before(parse_partition(last_day), context.day):
        raise InputError(
            f"{version.path}: the graph of these encodings holds impressions up to {last_day}, so "
            f"they know clicks of {context.day}: run `elastic-ctr cross-graph` and "
            f"`elastic-ctr pretrain` for {context.day} again"
        )
    return {"encodings": version}


def _until_now(context: Context) -> Iterator[Version]:
    """Yield the encodings of days and hours that begin no later than this one, latest first."""
    store, now = context.store, context.day
    begun = [day for day in store.days(ARTIFACT) if start_h(day) <= start_h(now)]
    for day in sorted(begun, key=lambda day: (start_h(day), same_kind(day, now)), reverse=True):
        version = store.current(ARTIFACT, day)
        if version is not None:
            yield version
