"""What every task gets, in whichever DAG. A file of its own: importing a DAG file would register its DAG twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

DEFAULT_ARGUMENTS: dict[str, Any] = {
    "owner": "elastic-ctr",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
}
