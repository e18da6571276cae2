"""The few functions that formulas need, with one name for numbers, tensors and compiled code.

A formula written with these, + - * / and ** is one text with three executions: Python floats, TensorFlow graphs (GPU
included) and numba kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from numba.extending import overload, register_jitable

inlined = register_jitable(forceinline=True)
"""Make a function callable from compiled code and part of its caller there; from Python it is what it was."""

Value = Any
"""A Python number, a tensor, or a scalar inside a kernel."""


def sqrt(value: Value) -> Value:
    """Return √value."""
    return math.sqrt(value) if isinstance(value, float) else tf.sqrt(value)


def cos(value: Value) -> Value:
    """Return the cosine of an angle in radians."""
    return math.cos(value) if isinstance(value, float) else tf.cos(value)


def where(condition: Value, yes: Value, no: Value) -> Value:
    """Return `yes` where the condition holds, else `no`."""
    return tf.where(condition, yes, no) if tf.is_tensor(condition) else (yes if condition else no)


def maximum(a: Value, b: Value) -> Value:
    """Return the larger of both."""
    return where(a > b, a, b)


def minimum(a: Value, b: Value) -> Value:
    """Return the smaller of both."""
    return where(a < b, a, b)


@overload(sqrt, strict=False)  # the annotations of the two differ
def _compiled_sqrt(value: Value) -> Callable[..., Value]:
    return lambda value: math.sqrt(value)


@overload(where, strict=False)  # the annotations of the two differ
def _compiled_where(condition: Value, yes: Value, no: Value) -> Callable[..., Value]:
    return lambda condition, yes, no: yes if condition else no


@overload(maximum, strict=False)  # the annotations of the two differ
def _compiled_maximum(a: Value, b: Value) -> Callable[..., Value]:
    return lambda a, b: a if a > b else b


@overload(minimum, strict=False)  # the annotations of the two differ
def _compiled_minimum(a: Value, b: Value) -> Callable[..., Value]:
    return lambda a, b: a if a < b else b
