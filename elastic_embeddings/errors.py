"""The errors that the library raises on purpose, each with the exit code of a command line."""

from __future__ import annotations


class ElasticCtrError(Exception):
    """Base of every error raised on purpose. The message says what is wrong and what to do."""

    exit_code = 1


class InputError(ElasticCtrError, ValueError):
    """The data or the configuration cannot be used as given; trying again will not help."""

    exit_code = 2
