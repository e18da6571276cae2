"""The errors this project raises on purpose, each with the exit code that the CLI returns for it."""

from __future__ import annotations

from elastic_embeddings.errors import ElasticCtrError, InputError

__all__ = ["ElasticCtrError", "InputError", "NoDataError", "RetryableError", "UnsoundError"]


class NoDataError(InputError):
    """The source holds no record for the requested day; an orchestrator skips such a day."""

    exit_code = 4


class UnsoundError(ElasticCtrError):
    """The data or the model is not fit for use (a gate failed, a NaN, a parity break)."""

    exit_code = 3


class RetryableError(ElasticCtrError):
    """Trouble of the surroundings (a server away, a lock held); the same call may succeed later."""

    exit_code = 75
