"""Which pretrained encodings a day uses: they are made every few days, from a graph of days strictly before."""

from __future__ import annotations

from datetime import timedelta

from features.errors import InputError
from pipelines.artifacts import Version
from pipelines.stages.stage import Context, config_section

ARTIFACT = "encodings"
_SECTIONS = ("graph", "pretraining")


def young_encodings(context: Context) -> Version | None:
    """Return the last encodings of a day before, when they are good enough for this one; None: make new ones.

    They are when the settings of graph and pretraining were the same, and they are younger than `pretraining.every_days`; also
    younger than their graph had days, so that the first ones, made of little, are soon made again.
    """
    last = context.store.latest_before(ARTIFACT, context.day)
    if last is None or any(last.commit["config"].get(n) != config_section(context.config, n) for n in _SECTIONS):
        return None
    age_days = (context.day - last.day).days
    return last if age_days < min(context.config.pretraining.every_days, last.metrics.get("graph_days", 0)) else None


def encodings_for(context: Context) -> Version | None:
    """Return the encodings that the day's training reads: the last ones, its own included, with a relation that passed its gate.

    None: there are none.

    Raises:
        InputError: their graph holds impressions of the day, or of days after it.
    """
    tomorrow = context.day + timedelta(days=1)
    version = context.store.latest_before(ARTIFACT, tomorrow, lambda v: v.metrics.get("relations_used", 0) > 0)
    if version is not None:
        refuse_future(version, context)
    return version


def refuse_future(version: Version, context: Context) -> None:
    """Raise InputError when the encodings' graph knows clicks of the day that is to be learned."""
    last_day = version.metrics["graph_last_day"]
    if last_day is not None and last_day >= context.day.isoformat():
        raise InputError(
            f"{version.path}: the graph of these encodings holds impressions up to {last_day}, so they know clicks of "
            f"{context.day}: run `elastic-ctr cross-graph` and `elastic-ctr pretrain` for {context.day} again"
        )
