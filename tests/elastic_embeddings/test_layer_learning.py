"""Training of the layer: as its table, as Keras, once per step, never without a backward pass."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import batches, click_model, elastic, saved_bytes, vectors

from elastic_embeddings.layers.layer import ElasticEmbedding
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable

RATE = 0.05


def _step(layer: ElasticEmbedding, keys: tf.Tensor, slope: tf.Tensor) -> None:
    """One custom step on the loss Σ slope · vectors², whose gradient is 2 · slope · vectors."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(slope * tf.square(layer(keys, training=True)))
    tape.gradient(loss, layer.trainable_weights)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_custom_loop_learns_what_the_table_learns_from_the_same_gradients(graph: bool) -> None:
    layer = ElasticEmbedding(4, optimizer=GroupAdam(RATE, l21=1e-3), seed=3)
    table = ElasticTable({"vectors": SlabSpec(4, GroupAdam(RATE, l21=1e-3))}, seed=3)
    step = tf.function(_step, reduce_retracing=True) if graph else _step
    rng = np.random.default_rng(1)
    for _ in range(20):
        keys, slope = rng.integers(-5, 5, 12), rng.normal(size=(12, 4)).astype(np.float32)
        step(layer, tf.constant(keys), tf.constant(slope))
        batch = table.prepare(keys)
        table.apply_gradients(batch, 2 * slope * table.lookup(keys))
    assert vectors(layer.table) == vectors(table)
    assert layer.table.step == 20


@pytest.mark.slow
def test_without_penalties_it_learns_as_the_keras_embedding_with_adam() -> None:
    rng = np.random.default_rng(2)
    x, y = (
        np.stack([rng.permutation(12).reshape(4, 3) for _ in range(60)]).reshape(-1, 3),
        rng.random((240, 1)),
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(
        4
    )  # every key occurs in every batch: no row is ever lazy
    ours = click_model(ElasticEmbedding(4, optimizer=GroupAdam(0.01, epsilon=1e-7)))
    stock = click_model(keras.layers.Embedding(12, 4))
    _show(elastic(ours), tf.constant(x[:4]))
    stock.layers[1].set_weights([elastic(ours).table.lookup(np.arange(12))])
    elastic(ours).table.discard()
    ours.fit(data, epochs=3, verbose=0)
    stock.fit(data, epochs=3, verbose=0)
    np.testing.assert_allclose(
        elastic(ours).table.lookup(np.arange(12)), stock.layers[1].get_weights()[0], atol=5e-6
    )
    np.testing.assert_allclose(
        ours.layers[-1].get_weights()[0], stock.layers[-1].get_weights()[0], atol=5e-6
    )


def _show(layer: ElasticEmbedding, keys: tf.Tensor) -> None:
    """Make the initial vectors of keys visible: a training pass that will not be learned."""
    layer(keys, training=True)


def test_a_training_pass_without_a_backward_pass_leaves_no_trace(tmp_path: Path) -> None:
    shown, plain = ElasticEmbedding(4, seed=1), ElasticEmbedding(4, seed=1)
    slope = tf.ones([3, 4])
    for start in range(5):
        _show(shown, tf.constant([90 + start, 1, 2]))
        for layer in (shown, plain):
            _step(layer, tf.constant([start, 1, start]), slope)
    _show(shown, tf.constant([70, 71]))
    assert saved_bytes(shown.table, tmp_path / "shown") == saved_bytes(
        plain.table, tmp_path / "plain"
    )


def test_a_backward_pass_counts_once() -> None:
    layer = ElasticEmbedding(4)
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(layer(tf.constant([1]), training=True))
    tape.gradient(loss, layer.trainable_weights)
    with pytest.raises(Exception, match="backward pass of an ElasticEmbedding came twice"):
        tape.gradient(loss, layer.trainable_weights)
    assert layer.table.step == 1


@pytest.mark.parametrize("both", [True, False])
def test_two_calls_in_one_step_are_refused_not_mixed_up(both: bool) -> None:
    layer = ElasticEmbedding(4)
    with tf.GradientTape() as tape:
        first, second = (tf.reduce_sum(layer(tf.constant([key]), training=True)) for key in (1, 2))
        loss = first + second if both else first
    with pytest.raises(Exception, match="call the layer once per step"):
        tape.gradient(loss, layer.trainable_weights)


def test_a_tape_that_does_not_watch_the_layer_does_not_learn() -> None:
    model = click_model(ElasticEmbedding(4))
    dense = model.layers[-1].trainable_weights
    for training in (None, True):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in dense])
            loss = tf.reduce_sum(model(tf.constant([[1, 2, 3]]), training=training))
        assert tape.gradient(loss, dense)[0] is not None
    assert elastic(model).table.step == 0


@pytest.mark.parametrize(("training", "steps"), [(None, 1), (True, 1), (False, 0)])
def test_a_tape_that_watches_the_layer_learns_unless_told_not_to(
    training: bool | None, steps: int
) -> None:
    layer = ElasticEmbedding(4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1]), training=training))
    tape.gradient(loss, layer.trainable_weights)
    assert (layer.table.step, layer.table.keys_seen) == (steps, steps)


def test_gradients_may_come_as_indexed_slices() -> None:
    layer = ElasticEmbedding(2, optimizer=GroupAdam(RATE))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(layer(tf.constant([1, 2]), training=True), [1, 1]))
    tape.gradient(loss, layer.trainable_weights)
    learned = ElasticTable({"vectors": SlabSpec(2, GroupAdam(RATE))})
    learned.apply_gradients(
        learned.prepare(np.array([1, 2])), np.array([[0, 0], [2, 2]], np.float32)
    )
    assert vectors(layer.table) == vectors(learned)


@pytest.mark.slow
@pytest.mark.parametrize("way", [{"run_eagerly": True}, {"steps_per_execution": 4}], ids=str)
def test_every_way_of_running_fit_gives_the_same(way: dict[str, object]) -> None:
    plain, other = click_model(ElasticEmbedding(4)), click_model(ElasticEmbedding(4), **way)
    for model in (plain, other):
        model.fit(batches(256), verbose=0)
    ours, theirs = vectors(elastic(plain).table), vectors(elastic(other).table)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-6)


def test_the_handle_stays_zero() -> None:
    model = click_model(ElasticEmbedding(4))
    model.fit(batches(128), verbose=0)
    assert elastic(model).get_weights() == [0.0]


def test_rows_in_tensorflow_variables_learn_the_same() -> None:
    here, there = (click_model(ElasticEmbedding(4, device=device)) for device in ("host", "device"))
    for model in (here, there):
        model.fit(batches(256), epochs=2, verbose=0)
    ours, theirs = vectors(elastic(here).table), vectors(elastic(there).table)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-5)


def test_it_learns_in_a_subclassed_model() -> None:
    class Clicks(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.logit = ElasticEmbedding(4), keras.layers.Dense(1)

        def call(self, keys: tf.Tensor) -> tf.Tensor:
            return self.logit(tf.reshape(self.embedding(keys), [-1, 12]))

    model = Clicks()
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    losses = model.fit(batches(), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.embedding.table.step == 80
