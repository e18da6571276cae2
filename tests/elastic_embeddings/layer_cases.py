"""Small models over elastic layers, and what tells two tables apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.layers.layer import ElasticEmbedding
from elastic_embeddings.table import ElasticTable

FIELDS = 3


def clicks(
    rows: int, keys: int = 200, seed: int = 5
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return keys int64 [rows, 3], few of them frequent, and labels of them, float32 [rows]."""
    rng = np.random.default_rng(seed)
    x = np.minimum(rng.zipf(1.3, (rows, FIELDS)), keys).astype(np.int64) * FIELDS + np.arange(
        FIELDS
    )
    return x, (x.sum(axis=1) % 3 == 0).astype(np.float32)


def batches(rows: int = 640, batch: int = 32) -> tf.data.Dataset:
    """Return a dataset of `clicks` in batches."""
    return tf.data.Dataset.from_tensor_slices(clicks(rows)).batch(batch)


def click_model(layer: keras.layers.Layer, **compiled: Any) -> keras.Model:
    """Return a compiled model: keys [b, 3] → the layer → one logit; always the same weights."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((FIELDS,), dtype="int64", name="keys")
    logit = keras.layers.Dense(1)(keras.layers.Flatten()(layer(inputs)))
    model = keras.Model(inputs, logit)
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True), **compiled
    )
    return model


def elastic(model: keras.Model) -> ElasticEmbedding:
    """Return the model's one elastic layer."""
    return next(layer for layer in model.layers if isinstance(layer, ElasticEmbedding))


def vectors(table: ElasticTable) -> dict[int, list[float]]:
    """Return the vector of every key of a table of one slab."""
    keys = table.keys()
    return dict(zip(keys.tolist(), table.lookup(keys).tolist(), strict=True))


def saved_bytes(table: ElasticTable, folder: Path) -> dict[str, bytes]:
    """Return what the table saves, by file."""
    table.save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def dense_weights(model: keras.Model) -> list[list[float]]:
    """Return the weights of the model's ordinary layers."""
    return [
        weight.numpy().tolist()
        for layer in model.layers
        if layer is not elastic(model)
        for weight in layer.weights
    ]
