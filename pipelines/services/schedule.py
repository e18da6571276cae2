"""When the pipelines run by themselves, and in which time zone their days begin: variables of the environment."""

from __future__ import annotations

import os
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from features.errors import InputError

SCHEDULE_VARIABLE = "ELASTIC_CTR_SCHEDULE"
PRETRAIN_SCHEDULE_VARIABLE = "ELASTIC_CTR_PRETRAIN_SCHEDULE"
TIMEZONE_VARIABLE = "ELASTIC_CTR_TIMEZONE"
DAILY = "0 0 * * *"
WEEKLY = "0 0 * * 1"


def schedule_cron() -> str:
    """Return the cron expression of the daily run (`ELASTIC_CTR_SCHEDULE`, default at midnight)."""
    return os.environ.get(SCHEDULE_VARIABLE) or DAILY


def pretrain_cron() -> str:
    """Return the cron expression of pretraining (`ELASTIC_CTR_PRETRAIN_SCHEDULE`, default at Monday's midnight)."""
    return os.environ.get(PRETRAIN_SCHEDULE_VARIABLE) or WEEKLY


def schedule_zone() -> ZoneInfo:
    """Return the zone in which days begin (`ELASTIC_CTR_TIMEZONE`, default UTC); raises InputError for an unknown one."""
    name = os.environ.get(TIMEZONE_VARIABLE) or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(f"{TIMEZONE_VARIABLE}={name!r} is no time zone; use a name such as Asia/Shanghai") from error
