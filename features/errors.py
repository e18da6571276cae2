"""The errors this project raises on purpose, each with the exit code that the CLI returns for it."""

from __future__ import annotations


class ElasticCtrError(Exception):
    """Base of every error raised on purpose. The message says what is wrong, where, and what to do."""

    exit_code = 1


class InputError(ElasticCtrError):
    """The data or the configuration cannot be used as given; trying again will not help."""

    exit_code = 2


class NoDataError(InputError):
    """The source holds no record for the requested day; an orchestrator skips such a day."""

    exit_code = 4


class UnsoundError(ElasticCtrError):
    """The data or the model is not fit for use (a gate failed, a NaN, a parity break)."""

    exit_code = 3


class RetryableError(ElasticCtrError):
    """Trouble of the surroundings (a server away, a lock held); the same call may succeed later."""

    exit_code = 75
