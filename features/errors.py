"""The errors that this project raises on purpose, with the exit codes that the CLI returns."""

from __future__ import annotations

from elastic_embeddings.errors import ElasticCtrError, InputError

__all__ = ["ElasticCtrError", "InputError", "NoDataError", "RetryableError", "UnsoundError"]


class NoDataError(InputError):
    """The source has no record for the requested day; an orchestrator skips such a day."""

    exit_code = 4


class UnsoundError(ElasticCtrError):
    """The data or the model is not fit for use: a gate failed, a NaN, a parity break."""

    exit_code = 3


class RetryableError(ElasticCtrError):
    """An external condition failed (server down, lock held); the same call may succeed later."""

    exit_code = 75
