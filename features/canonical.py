r"""The canonical form of a value: rules that ingest (Spark), serving (TensorFlow) and Python share.

A rule is a regular expression in the dialect that Java, RE2 and Python have in common, with the
anchors `\A` and `\z` (`$` also matches before a trailing newline in Java and Python, but not in
RE2). Values are not trimmed, case-folded or Unicode-normalised: `"007"`, `" 7"` and `"7"` are
three different values.
"""

from __future__ import annotations

import re
from typing import NamedTuple, SupportsFloat

NULL = ""
"""The null value. In a multi-valued field it is padding; in any other field it has its own key."""

SEPARATOR = "\x1f"
"""Joins a vocabulary's name and a token before hashing, and the parts of a cross."""

NULL_MARK = "\x1e"
"""Follows a vocabulary's name in the text whose hash is the key of null."""


INT64_LIMIT = 2.0**63
"""Integral floats below it are written as integers, others as floats."""


class Rule(NamedTuple):
    """Replaces a value that `pattern` matches as a whole by `replacement` (`{1}`: first group)."""

    pattern: str
    replacement: str


# Applied in order. A canonical value is not changed, so applying the rules twice is harmless.
RULES: tuple[Rule, ...] = (
    # pandas and Spark write a missing number as NaN.
    Rule(r"\A(?:nan|NaN)\z", NULL),
    # An integer column with missing values is stored as floats: 7 is written as 7.0.
    Rule(r"\A([-+]?[0-9]+)\.0+\z", "{1}"),
    # After the rule above, which turns -0.0 into -0.
    Rule(r"\A[-+]0+\z", "0"),
    # Python writes True, Java and JSON write true.
    Rule(r"\A(?:True|TRUE)\z", "true"),
    Rule(r"\A(?:False|FALSE)\z", "false"),
)

NOT_CANONICAL = "|".join(
    f"(?:{rule.pattern.removeprefix(chr(92) + 'A').removesuffix(chr(92) + 'z')})" for rule in RULES
)
"""Matches, as a whole, exactly the values that some rule changes. Has no anchors."""

NUMBER = r"\A[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\z"
"""A number in a numeric field; every other value counts as missing."""

EPOCH = r"\A-?[0-9]{1,18}\z"
"""A timestamp as a count of seconds, milliseconds or microseconds; 18 digits always fit int64."""

ISO = (
    r"\A([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?"
    r"(?:[.]([0-9]{1,9}))?(Z|[-+][0-9]{2}:?[0-9]{2})?\z"
)
"""An ISO time: date, time, optional fraction of a second, optional fixed offset."""


def float_text(value: SupportsFloat) -> str:
    """Return the spelling of a float, which ingest, follow mode and `predict` give ids.

    Integral values below 2⁶³ are written as integers, others as Python's `repr` does. `value` may
    be a NumPy scalar, whose own precision then decides the digits.

    >>> float_text(7.0), float_text(1.5e-5), float_text(12345678.9), float_text(1e22)
    ('7', '1.5e-05', '12345678.9', '1e+22')
    """
    number = float(value)
    if number.is_integer() and abs(number) < INT64_LIMIT:
        return str(int(number))
    # `str` of a NumPy scalar has the digits of its precision; it has another rule for exponents.
    return repr(float(str(value)))


def canonical(value: object) -> str:
    """Return the canonical form of one value; `None` becomes `NULL`.

    >>> canonical(1.0), canonical("007"), canonical(True), canonical(None)
    ('1', '007', 'true', '')
    """
    text = NULL if value is None else str(value)
    for rule in RULES:
        text = re.sub(python_pattern(rule.pattern), rule.replacement.replace("{1}", r"\1"), text)
    return text


def python_pattern(pattern: str) -> str:
    r"""Return a shared pattern for Python's `re`, whose end-of-text anchor is `\Z`."""
    return pattern.replace(r"\z", r"\Z")
