"""The dataset line: the same bytes with and without it, whatever runs ahead of what."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import batches, click_model, clicks, dense_weights, elastic, saved_bytes

from elastic_embeddings.admission.policies import CountAdmission
from elastic_embeddings.eviction import Eviction, Idle, LeastFrequent
from elastic_embeddings.layers.layer import ElasticEmbedding
from elastic_embeddings.layers.prefetch import PreparedQueue, prefetch_keys
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable
from features.errors import InputError

Saved = dict[str, bytes]


def _model() -> keras.Model:
    """A model whose table admits late, prunes, and evicts every third step."""
    return click_model(
        ElasticEmbedding(
            4,
            optimizer=GroupAdam(0.05, l21=1e-3),
            admission=CountAdmission(2),
            eviction=Eviction((Idle(steps=4), LeastFrequent(60)), every=3),
            seed=7,
        )
    )


class _Saves(keras.callbacks.Callback):
    """Saves the table in the middle of every epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.saved = folder, list[Saved]()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if batch % 4 == 1:
            self.saved.append(
                saved_bytes(elastic(self.model).table, self.folder / str(len(self.saved)))
            )


def _trained(
    folder: Path, line: Callable[[keras.Model], tf.data.Dataset], **fit: int
) -> list[object]:
    """Everything that could differ after two epochs with validation, evictions and saves."""
    model, saves = _model(), _Saves(folder)
    model.fit(
        line(model),
        epochs=2,
        validation_data=clicks(64, seed=8),
        callbacks=[saves],
        verbose=0,
        **fit,
    )
    assert elastic(model).table.step == 2 * fit.get("steps_per_epoch", 10)
    return [*saves.saved, saved_bytes(elastic(model).table, folder / "end"), dense_weights(model)]


@pytest.mark.slow
@pytest.mark.parametrize("fit", [{}, {"steps_per_epoch": 7}], ids=["whole", "stopped early"])
def test_with_the_line_every_save_has_the_same_bytes(fit: dict[str, int], tmp_path: Path) -> None:
    data = batches(320).repeat() if fit else batches(320)
    without = _trained(tmp_path / "without", lambda _: data, **fit)
    assert len(without) > 3
    for depth in (1, 8):
        line = _trained(
            tmp_path / str(depth), lambda model, d=depth: prefetch_keys(data, model, depth=d), **fit
        )
        assert line == without


def test_nothing_is_prepared_twice_and_nothing_in_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    ahead = list[bool]()
    prepare = elastic(model).table.prepare
    monkeypatch.setattr(
        elastic(model).table,
        "prepare",
        lambda *a, **k: ahead.append(k.get("ahead", False)) or prepare(*a, **k),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for x, y in prefetch_keys(batches(), model):
            model.train_on_batch(x, y)
    assert ahead == [True] * 20


def test_a_loop_that_skips_batches_passes_them_over(tmp_path: Path) -> None:
    plain, ahead = _model(), _model()
    for model, dataset in ((plain, batches()), (ahead, prefetch_keys(batches(), ahead, depth=4))):
        for number, (x, y) in enumerate(dataset):
            if number % 3 != 1:
                model.train_on_batch(x, y)
    assert saved_bytes(elastic(ahead).table, tmp_path / "a") == saved_bytes(
        elastic(plain).table, tmp_path / "p"
    )


def test_looking_at_the_dataset_before_and_between_changes_nothing(tmp_path: Path) -> None:
    plain, ahead = _model(), _model()
    plain.fit(batches(), epochs=1, verbose=0)
    line = prefetch_keys(batches(), ahead)
    next(iter(line))
    ahead.fit(line, epochs=1, verbose=0)
    list(line.take(3))
    assert saved_bytes(elastic(ahead).table, tmp_path / "a") == saved_bytes(
        elastic(plain).table, tmp_path / "p"
    )


@pytest.mark.slow
def test_other_batches_than_prepared_give_the_same_and_a_warning(tmp_path: Path) -> None:
    plain, ahead = _model(), _model()
    for x, y in batches():
        plain.train_on_batch(x + 1, y)
    with warnings.catch_warnings(record=True) as caught:
        for x, y in prefetch_keys(batches(), ahead):
            ahead.train_on_batch(x + 1, y)
    assert (
        len([w for w in caught if "other batches than prefetch_keys prepared" in str(w.message)])
        == 1
    )
    assert saved_bytes(elastic(ahead).table, tmp_path / "a") == saved_bytes(
        elastic(plain).table, tmp_path / "p"
    )


def test_an_abandoned_pass_prepares_nothing_more() -> None:
    model = _model()
    line = prefetch_keys(batches(), model, depth=1)
    old, new = iter(line), iter(line)
    next(old)
    model.train_on_batch(*next(new))
    for x, y in old:
        del x, y
    elastic(model).table.discard()
    for x, y in new:
        model.train_on_batch(x, y)
    assert elastic(model).table.step == 20


def test_only_the_last_pass_that_started_prepares() -> None:
    table = ElasticTable({"vectors": SlabSpec(2)})
    queue, (old, new, late) = PreparedQueue(table), np.arange(6).reshape(3, 2)
    first, second = queue.put(0, old, None), queue.put(0, new, None)
    assert queue.put(first, late, None) == first != second
    assert queue.take(new, None) is not None
    assert queue.take(late, None) is None


def test_a_batch_is_found_behind_those_that_were_skipped() -> None:
    queue, keys = PreparedQueue(ElasticTable({"vectors": SlabSpec(2)})), np.arange(6).reshape(3, 2)
    number = 0
    for row in keys:
        number = queue.put(number, row, None)
    found = queue.take(keys[2], None)
    assert found is not None
    np.testing.assert_array_equal(found.keys, keys[2])


@pytest.mark.slow
def test_fields_weights_and_what_lies_before_the_layer_are_traced() -> None:
    user, item = (keras.Input((), dtype="int64", name=name) for name in ("user", "item"))
    layer = ElasticEmbedding(4)
    parts = layer({"who": user, "what": keras.ops.mod(item, 10)})
    model = keras.Model(
        {"user": user, "item": item},
        keras.layers.Dense(1)(keras.layers.Concatenate()(list(parts.values()))),
    )
    model.compile("adam", "mse")
    x, y = clicks(64)
    data = tf.data.Dataset.from_tensor_slices(
        ({"user": x[:, 0], "item": x[:, 1]}, y, np.ones(64))
    ).batch(16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*other batches.*")
        model.fit(prefetch_keys(data, model), epochs=2, verbose=0)
    assert layer.table.step == 8
    assert len(layer.table) == len(np.unique(x[:, 0])) + len(np.unique(x[:, 1] % 10))


def test_a_custom_loop_names_what_the_layer_is_called_with() -> None:
    layer = ElasticEmbedding(4)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*other batches.*")
        for x, _ in prefetch_keys(batches(), inputs={layer: lambda x: x[:, :2]}):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x[:, :2], training=True))
            tape.gradient(loss, layer.trainable_weights)
    assert layer.table.step == 20


def test_the_dataset_keeps_its_length_and_elements() -> None:
    model = _model()
    line = prefetch_keys(batches(), model)
    assert int(line.cardinality()) == 20
    assert line.element_spec == batches().element_spec
    for ours, plain in zip(line, batches(), strict=True):
        np.testing.assert_array_equal(ours[0], plain[0])


def test_what_cannot_be_traced_is_refused_with_a_hint() -> None:
    inner = click_model(ElasticEmbedding(4))
    inputs = keras.Input((3,), dtype="int64")
    with pytest.raises(InputError, match="inputs="):
        prefetch_keys(batches(), keras.Model(inputs, inner(inputs)))
    with pytest.raises(InputError, match="no ElasticEmbedding"):
        prefetch_keys(batches(), click_model(keras.layers.Embedding(700, 4)))
    with pytest.raises(InputError, match="give the model"):
        prefetch_keys(batches())


def test_a_model_that_scales_its_loss_is_refused() -> None:
    model = _model()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    with pytest.raises(InputError, match="mixed_bfloat16"):
        prefetch_keys(batches(), model)
