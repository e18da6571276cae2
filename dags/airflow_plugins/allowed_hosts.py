"""Refuse requests to Airflow that name a foreign host.

A web page whose name is made to point at 127.0.0.1 (DNS rebinding) would reach Airflow through the
browser of a user of this machine; its requests carry the page's own host name.
"""

from __future__ import annotations

import os
from typing import ClassVar

from airflow.plugins_manager import AirflowPlugin
from starlette.middleware.trustedhost import TrustedHostMiddleware

HOSTS_VARIABLE = "ELASTIC_CTR_ALLOWED_HOSTS"
"""Names, separated by commas, under which a proxy offers Airflow."""


class AllowedHosts(AirflowPlugin):
    """A check of the `Host` header before everything else."""

    name = "elastic_ctr_allowed_hosts"
    fastapi_root_middlewares: ClassVar[list[dict[str, object]]] = [
        {
            "name": "allowed hosts",
            "middleware": TrustedHostMiddleware,
            "args": [],
            "kwargs": {
                "allowed_hosts": [
                    "127.0.0.1",
                    "localhost",
                    *filter(None, os.environ.get(HOSTS_VARIABLE, "").split(",")),
                ]
            },
        }
    ]
