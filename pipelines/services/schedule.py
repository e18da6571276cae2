"""When scheduled runs start, for days or hours, in which time zone: environment variables."""

from __future__ import annotations

import os
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from features.errors import InputError

SCHEDULE_VARIABLE = "ELASTIC_CTR_SCHEDULE"
PRETRAIN_SCHEDULE_VARIABLE = "ELASTIC_CTR_PRETRAIN_SCHEDULE"
COMPRESS_SCHEDULE_VARIABLE = "ELASTIC_CTR_COMPRESS_SCHEDULE"
TIMEZONE_VARIABLE = "ELASTIC_CTR_TIMEZONE"
PARTITION_VARIABLE = "ELASTIC_CTR_PARTITION"

# A run starts when its day or hour has ended, unless another schedule is given.
CRONS = {"day": "0 0 * * *", "hour": "0 * * * *"}
WEEKLY = "0 0 * * 1"
WEEKLY_LATER = "0 6 * * 1"


def schedule_cron() -> str:
    """Return the cron expression of `daily_retrain` (`ELASTIC_CTR_SCHEDULE`)."""
    return os.environ.get(SCHEDULE_VARIABLE) or CRONS["hour" if runs_by_hour() else "day"]


def runs_by_hour() -> bool:
    """Whether a run is of an hour (`ELASTIC_CTR_PARTITION`: `day`, the default, or `hour`).

    Raises:
        InputError: the variable has another value.
    """
    kind = os.environ.get(PARTITION_VARIABLE) or "day"
    if kind not in CRONS:
        raise InputError(f"{PARTITION_VARIABLE}={kind!r}: write day or hour")
    return kind == "hour"


def pretrain_cron() -> str:
    """Return the cron expression of pretraining, by default Mondays at midnight."""
    return os.environ.get(PRETRAIN_SCHEDULE_VARIABLE) or WEEKLY


def compress_cron() -> str:
    """Return the cron expression of compressing the champion, by default Mondays at 6."""
    return os.environ.get(COMPRESS_SCHEDULE_VARIABLE) or WEEKLY_LATER


def schedule_zone() -> ZoneInfo:
    """Return the time zone in which days begin (`ELASTIC_CTR_TIMEZONE`, default UTC).

    Raises:
        InputError: there is no such time zone.
    """
    name = os.environ.get(TIMEZONE_VARIABLE) or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(
            f"{TIMEZONE_VARIABLE}={name!r} is no time zone; use a name such as Asia/Shanghai"
        ) from error
