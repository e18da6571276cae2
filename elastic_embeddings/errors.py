"""The errors that are raised on purpose, each with the exit code that a command line returns for it."""

from __future__ import annotations


class ElasticCtrError(Exception):
    """Base of every error raised on purpose. The message says what is wrong, where, and what to do."""

    exit_code = 1


class InputError(ElasticCtrError, ValueError):
    """The data or the configuration cannot be used as given; trying again will not help."""

    exit_code = 2
