"""Keras files keep the rows; a frozen copy gives the same vectors with TensorFlow alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import batches, click_model, clicks, elastic, saved_bytes

from elastic_embeddings.admission.policies import CountAdmission
from elastic_embeddings.layers.frozen import FrozenEmbedding, frozen
from elastic_embeddings.layers.layer import ElasticEmbedding
from elastic_embeddings.optimizers.rules import GroupAdam
from features.errors import InputError

FOREIGN = np.array([[10**9, -1, -(2**63)], [2**63 - 1, 0, 1]])


def _layer() -> ElasticEmbedding:
    return ElasticEmbedding(
        4, optimizer=GroupAdam(0.05, l21=1e-3), admission=CountAdmission(2), seed=7
    )


def _trained() -> keras.Model:
    model = click_model(_layer())
    model.fit(batches(), verbose=0)
    return model


@pytest.mark.slow
def test_a_model_file_keeps_rows_state_counts_and_goes_on_as_if_never_saved(tmp_path: Path) -> None:
    model = _trained()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(clicks(64)[0], verbose=0), model.predict(clicks(64)[0], verbose=0)
    )
    for each in (model, again):
        each.fit(batches(), verbose=0)
    assert saved_bytes(elastic(again).table, tmp_path / "a") == saved_bytes(
        elastic(model).table, tmp_path / "b"
    )


def test_a_weights_file_keeps_the_rows(tmp_path: Path) -> None:
    model, again = _trained(), click_model(_layer())
    model.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    assert saved_bytes(elastic(again).table, tmp_path / "a") == saved_bytes(
        elastic(model).table, tmp_path / "b"
    )


def test_batches_prepared_ahead_are_in_no_file(tmp_path: Path) -> None:
    model = _trained()
    before = saved_bytes(elastic(model).table, tmp_path / "before")
    elastic(model).table.prepare(np.arange(10_000, 10_010), ahead=True)
    model.save_weights(tmp_path / "model.weights.h5")
    again = click_model(_layer())
    again.load_weights(tmp_path / "model.weights.h5")
    assert saved_bytes(elastic(again).table, tmp_path / "a") == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    _trained().save_weights(path)
    with h5py.File(path, "r+") as file:
        found = list[h5py.Dataset]()
        file.visititems(
            lambda name, item: found.append(item) if name.endswith("vectors.weights.npy") else None
        )
        found[0][-1] ^= 1
    with pytest.raises(ValueError, match=r"vectors\.weights\.npy differs from its checksum"):
        click_model(_layer()).load_weights(path)


def test_weights_without_a_table_are_refused(tmp_path: Path) -> None:
    click_model(keras.layers.Embedding(700, 4)).save_weights(tmp_path / "stock.weights.h5")
    with pytest.raises(ValueError, match="no elastic table"):  # Keras wraps the InputError
        click_model(_layer()).load_weights(tmp_path / "stock.weights.h5")


@pytest.mark.slow
def test_a_frozen_model_gives_the_same_and_stays_when_the_model_goes_on(tmp_path: Path) -> None:
    model = _trained()
    copy, keys = frozen(model), np.concatenate([clicks(64)[0], FOREIGN])
    before = model.predict(keys, verbose=0)
    model.fit(batches(), verbose=0)
    np.testing.assert_allclose(copy.predict(keys, verbose=0), before, rtol=1e-6)
    copy.save(tmp_path / "frozen.keras")
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / "frozen.keras").predict(keys, verbose=0),
        before,
        rtol=1e-6,
    )


def test_frozen_vectors_are_exactly_those_of_the_table() -> None:
    layer = elastic(_trained())
    keys = tf.constant(np.concatenate([clicks(640)[0], FOREIGN]))
    np.testing.assert_array_equal(FrozenEmbedding.of(layer)(keys), layer(keys))


def test_the_extreme_keys_are_found_where_they_have_a_row_and_only_there() -> None:
    layer = ElasticEmbedding(2)
    keys = tf.constant([-(2**63), 2**63 - 1, 5])
    unknown = FrozenEmbedding.of(_learned(layer, keys[1:]))
    assert not np.any(unknown(keys)[0])
    np.testing.assert_array_equal(FrozenEmbedding.of(_learned(layer, keys))(keys), layer(keys))
    assert np.all(layer(keys) != 0)


def test_fields_lists_and_widths_freeze_too() -> None:
    layer = ElasticEmbedding(
        {"deep": 3, "wide": 1}, combiner="mean", padding=0, share={"home": "city", "work": "city"}
    )
    inputs = {
        "home": tf.constant([1, 2]),
        "work": tf.constant([[2, 0], [3, 4]]),
        "age": tf.ragged.constant([[7], []], tf.int64),
    }
    ours, theirs = _learned(layer, inputs)(inputs), FrozenEmbedding.of(layer)(inputs)
    for width, field in [(w, f) for w in ("deep", "wide") for f in inputs]:
        np.testing.assert_array_equal(theirs[width][field], ours[width][field])


def test_an_empty_table_freezes_to_zeros() -> None:
    layer = ElasticEmbedding(2)
    layer.build((None, 3))
    assert not np.any(FrozenEmbedding.of(layer)(tf.constant(FOREIGN)))


def test_an_export_runs_in_a_process_that_knows_tensorflow_alone(
    warm_python: Path, tmp_path: Path
) -> None:
    model = _trained()
    keys = np.concatenate([clicks(64)[0], FOREIGN])
    frozen(model).export(str(tmp_path / "served"), verbose=False)
    served = _served(warm_python, tmp_path / "served", keys)
    np.testing.assert_allclose(served, model.predict(keys, verbose=0), rtol=1e-5, atol=1e-6)


def test_an_export_that_would_need_this_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frozen"):
        _trained().export(str(tmp_path / "served"), verbose=False)


def test_an_elastic_layer_inside_a_nested_model_is_not_frozen_silently() -> None:
    inputs = keras.Input((3,), dtype="int64")
    with pytest.raises(InputError, match=r"FrozenEmbedding\.of"):
        frozen(keras.Model(inputs, click_model(_layer())(inputs)))


def _learned(layer: ElasticEmbedding, inputs: object) -> ElasticEmbedding:
    """The layer after one step on the inputs, so that their keys have rows."""
    with tf.GradientTape() as tape:
        loss = tf.add_n(
            [tf.reduce_sum(part) for part in tf.nest.flatten(layer(inputs, training=True))]
        )
    tape.gradient(loss, layer.trainable_weights)
    return layer


def _served(python: Path, folder: Path, keys: np.ndarray) -> list[list[float]]:
    """What an export answers in a new process, outside of this repository."""
    code = """
import json, sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
answer = served.serve(tf.constant(json.loads(sys.argv[2]), tf.int64)).numpy().tolist()
assert not any(name.split(".")[0] in ("training", "features", "numba") for name in sys.modules)
print(json.dumps(answer))
"""
    command = [python, "-c", code, str(folder), json.dumps(keys.tolist())]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)
