"""When the daily pipeline runs by itself, and in which time zone its days begin: two variables of the environment."""

from __future__ import annotations

import os
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from features.errors import InputError

SCHEDULE_VARIABLE = "ELASTIC_CTR_SCHEDULE"
TIMEZONE_VARIABLE = "ELASTIC_CTR_TIMEZONE"
DAILY = "0 0 * * *"


def schedule_cron() -> str:
    """Return the cron expression of the daily run (`ELASTIC_CTR_SCHEDULE`, default at midnight)."""
    return os.environ.get(SCHEDULE_VARIABLE) or DAILY


def schedule_zone() -> ZoneInfo:
    """Return the zone in which days begin (`ELASTIC_CTR_TIMEZONE`, default UTC); raises InputError for an unknown one."""
    name = os.environ.get(TIMEZONE_VARIABLE) or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(f"{TIMEZONE_VARIABLE}={name!r} is no time zone; use a name such as Asia/Shanghai") from error
