"""Frappe's rows as what a model reads, with the keys that the pipeline gives to fields and crosses."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from frappe_peers.data import FIELDS, Split
from numpy.typing import NDArray

from crosses_parts.arms import Arm, Pair, cross_name, own_name
from features import keys
from training.data.columns import distinct_pairs
from training.data.inputs import Inputs


def inputs_of(arm: Arm, split: Split) -> Inputs:
    """Return the inputs of an arm: keys int64 [n, fields + crosses] in the schema's order, nothing else."""
    columns = [_field_keys(split, name) for name in arm.fields] + [
        _cross_keys(split, pair) for pair in arm.crosses
    ]
    nothing = np.zeros((len(split), 0), np.float32)
    return Inputs(
        keys=np.stack(columns, axis=1), lists=(), dense=nothing, cross=nothing, label=split.label
    )


def _field_keys(split: Split, name: str) -> NDArray[np.int64]:
    codes = _codes(split, name)
    return _keys(own_name(name), _tokens(np.arange(codes.max(initial=0) + 1)))[codes]


def _cross_keys(split: Split, pair: Pair) -> NDArray[np.int64]:
    """Hash each distinct pair once, as ingest's partitions are read (`training.data.examples`)."""
    codes, lefts, rights = distinct_pairs(*(_codes(split, name) for name in pair))
    return _keys(cross_name(pair), keys.cross_tokens([_tokens(lefts), _tokens(rights)]))[codes]


def _codes(split: Split, name: str) -> NDArray[np.int64]:
    return split.codes[:, FIELDS.index(name)].astype(np.int64)


def _tokens(codes: NDArray[np.int64]) -> tf.Tensor:
    return tf.strings.as_string(tf.constant(codes, tf.int64))


def _keys(vocabulary: str, tokens: tf.Tensor) -> NDArray[np.int64]:
    hashed: NDArray[np.int64] = keys.keys(vocabulary, tokens).numpy()
    return hashed
