"""When the pipelines run by themselves, by the day or by the hour, in which time zone: variables of the environment."""

from __future__ import annotations

import os
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from features.errors import InputError

SCHEDULE_VARIABLE = "ELASTIC_CTR_SCHEDULE"
PRETRAIN_SCHEDULE_VARIABLE = "ELASTIC_CTR_PRETRAIN_SCHEDULE"
COMPRESS_SCHEDULE_VARIABLE = "ELASTIC_CTR_COMPRESS_SCHEDULE"
TIMEZONE_VARIABLE = "ELASTIC_CTR_TIMEZONE"
PARTITION_VARIABLE = "ELASTIC_CTR_PARTITION"
CRONS = {"day": "0 0 * * *", "hour": "0 * * * *"}
"""When a run of each kind of partition is due, unless the schedule is given: as the partition ends."""
WEEKLY = "0 0 * * 1"
WEEKLY_LATER = "0 6 * * 1"


def schedule_cron() -> str:
    """Return the cron expression of the runs (`ELASTIC_CTR_SCHEDULE`; default as each day, or hour, ends)."""
    return os.environ.get(SCHEDULE_VARIABLE) or CRONS["hour" if runs_by_hour() else "day"]


def runs_by_hour() -> bool:
    """Whether a run is of an hour (`ELASTIC_CTR_PARTITION`: `day`, the default, or `hour`); raises InputError for else."""
    kind = os.environ.get(PARTITION_VARIABLE) or "day"
    if kind not in CRONS:
        raise InputError(f"{PARTITION_VARIABLE}={kind!r}: write day or hour")
    return kind == "hour"


def pretrain_cron() -> str:
    """Return the cron expression of pretraining (`ELASTIC_CTR_PRETRAIN_SCHEDULE`, default at Monday's midnight)."""
    return os.environ.get(PRETRAIN_SCHEDULE_VARIABLE) or WEEKLY


def compress_cron() -> str:
    """Return the cron expression of compressing the champion (`ELASTIC_CTR_COMPRESS_SCHEDULE`, default Mondays at 6)."""
    return os.environ.get(COMPRESS_SCHEDULE_VARIABLE) or WEEKLY_LATER


def schedule_zone() -> ZoneInfo:
    """Return the zone in which days begin (`ELASTIC_CTR_TIMEZONE`, default UTC); raises InputError for an unknown one."""
    name = os.environ.get(TIMEZONE_VARIABLE) or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(
            f"{TIMEZONE_VARIABLE}={name!r} is no time zone; use a name such as Asia/Shanghai"
        ) from error
