"""What a command found, told to the tracking server: journalled first, sent if MLflow is there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from pipelines.stages.chain import sync
from pipelines.stages.stage import Context
from pipelines.tracking.journal import Event, Journal


def track_result(
    context: Context,
    command: str,
    started_ms: int,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    files: tuple[Path, ...],
) -> None:
    """Journal a command's result as an event of the context's day or hour.

    Args:
        context: whose configuration and day it is of.
        command: as it is called.
        started_ms: when it began, epoch milliseconds.
        metrics: its figures.
        params: what it was asked for.
        files: what it wrote; the first is its report, whose content names the version.
    """
    event = Event(
        pipeline=context.config.name,
        day=context.day.isoformat(),
        stage=command,
        version=hashlib.sha256(files[0].read_bytes()).hexdigest()[:16],
        status="FINISHED",
        started_ms=started_ms,
        ended_ms=int(time.time() * 1000),
        metrics=dict(metrics),
        params=dict(params),
        tags={"config.name": context.config.name},
        artifacts=tuple(map(str, files)),
    )
    Journal(context.store.workspace).append(event)
    sync(context)
