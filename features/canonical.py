r"""One spelling per value: the rules that ingest (Spark), serving (TensorFlow) and Python all interpret.

A rule is a regular expression in the dialect that Java, RE2 and Python share, with `\A` and `\z` as anchors
(`$` would match before a trailing newline in Java and Python but not in RE2). Nothing else about a value is touched:
no trimming, no case folding, no Unicode normalisation, so `"007"`, `" 7"` and `"7"` stay three values.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NULL = ""
"""A null value; multi-valued fields use it as padding, in every other field it is a value with a key of its own."""


SEPARATOR = "\x1f"
"""Stands between a vocabulary's name and a token in what a key is the hash of, and between the parts of a cross."""

NULL_MARK = "\x1e"
"""Follows a vocabulary's name in what a null's key is the hash of."""


class Rule(NamedTuple):
    """Rewrite every value that `pattern` matches as a whole to `replacement` (`{1}` is the first group)."""

    pattern: str
    replacement: str


RULES: tuple[Rule, ...] = (
    Rule(r"\A(?:nan|NaN)\z", NULL),
    Rule(r"\A([-+]?[0-9]+)\.0+\z", "{1}"),
    Rule(r"\A[-+]0+\z", "0"),
    Rule(r"\A(?:True|TRUE)\z", "true"),
    Rule(r"\A(?:False|FALSE)\z", "false"),
)
"""Applied in order. Idempotent: a canonical value is left as it is."""

NOT_CANONICAL = "|".join(
    f"(?:{rule.pattern.removeprefix(chr(92) + 'A').removesuffix(chr(92) + 'z')})" for rule in RULES
)
"""What some rule matches as a whole: these values, and no others, have another canonical spelling. Without anchors."""

NUMBER = r"\A[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\z"
"""What counts as a number in a numeric field; anything else is missing."""

EPOCH = r"\A-?[0-9]{1,18}\z"
"""What counts as an epoch in a timestamp given as a count of seconds, milliseconds or microseconds."""

ISO = (
    r"\A([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?"
    r"(?:[.]([0-9]{1,9}))?(Z|[-+][0-9]{2}:?[0-9]{2})?\z"
)
"""What counts as an ISO time: date, time, optional fraction, optional fixed offset."""


def canonical(value: object) -> str:
    """Return the canonical spelling of one value; `None` becomes `NULL`.

    >>> canonical(1.0), canonical("007"), canonical(True), canonical(None)
    ('1', '007', 'true', '')
    """
    text = NULL if value is None else str(value)
    for rule in RULES:
        text = re.sub(python_pattern(rule.pattern), rule.replacement.replace("{1}", r"\1"), text)
    return text


def python_pattern(pattern: str) -> str:
    r"""Spell a shared pattern for Python's `re`, whose end-of-text anchor is `\Z`."""
    return pattern.replace(r"\z", r"\Z")
