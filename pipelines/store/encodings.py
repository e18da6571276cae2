"""Which pretrained encodings a day or hour uses: they are made every few days, from a graph of what lay strictly before."""

from __future__ import annotations

from collections.abc import Iterator

from features.errors import InputError
from features.partition import HOURS_PER_DAY, is_before, parse_partition, same_kind, start_h
from pipelines.stages.stage import Context, config_section
from pipelines.store.artifacts import Version

ARTIFACT = "encodings"
_SECTIONS = ("graph", "pretraining")


def young_encodings(context: Context) -> Version | None:
    """Return the last encodings before this day's own, when they are good enough for it; None: make new ones.

    They are when the settings of graph and pretraining were the same, and they are younger than `pretraining.every_days`; also
    younger than the time that their graph covers, so that the first ones, made of little, are soon made again.
    """
    last = next((version for version in _by_now(context) if version.day != context.day), None)
    if last is None or any(
        last.commit["config"].get(n) != config_section(context.config, n) for n in _SECTIONS
    ):
        return None
    most_h = min(
        context.config.pretraining.every_days * HOURS_PER_DAY, last.metrics.get("graph_hours", 0)
    )
    return last if start_h(context.day) - start_h(last.day) < most_h else None


def encodings_for(context: Context) -> Version | None:
    """Return the encodings that training reads: the last ones, the day's own included, with a relation that passed its gate.

    None: there are none.

    Raises:
        InputError: their graph holds impressions of the day, or of days after it.
    """
    version = next((v for v in _by_now(context) if v.metrics.get("relations_used", 0) > 0), None)
    if version is not None:
        refuse_future(version, context)
    return version


def refuse_future(version: Version, context: Context) -> None:
    """Raise InputError when the encodings' graph knows clicks of the day that is to be learned."""
    last_day = version.metrics["graph_last_day"]
    if last_day is not None and not is_before(parse_partition(last_day), context.day):
        raise InputError(
            f"{version.path}: the graph of these encodings holds impressions up to {last_day}, so they know clicks of "
            f"{context.day}: run `elastic-ctr cross-graph` and `elastic-ctr pretrain` for {context.day} again"
        )


def _by_now(context: Context) -> Iterator[Version]:
    """Yield the encodings of days and hours that begin no later than this one, the latest first: their graphs lie before it."""
    store, now = context.store, context.day
    begun = [day for day in store.days(ARTIFACT) if start_h(day) <= start_h(now)]
    for day in sorted(begun, key=lambda day: (start_h(day), same_kind(day, now)), reverse=True):
        version = store.current(ARTIFACT, day)
        if version is not None:
            yield version
