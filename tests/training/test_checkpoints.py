"""Reading trained and compressed folders, and the small files in them."""

import json

import numpy as np
import pandas as pd
import pytest
from training_data import MODEL, SCHEMA, TRAINING

from elastic_embeddings import ElasticTable, GroupAdam, SlabSpec
from features.errors import InputError
from features.schema import Relation, Schema
from training.data.arrays import read_arrays, write_arrays
from training.data.scalers import Scaler, as_arrays, scalers_from_numbers, scalers_from_statistics
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import (
    Description,
    read_checkpoint,
    read_description,
    write_description,
)
from training.models.ctr import CtrModel
from training.models.encoding_inputs import write_encodings

DESCRIPTION = Description(
    SCHEMA,
    MODEL,
    TRAINING,
    {"price": Scaler(1.5, 0.1 + 0.2)},
    (Relation(left="user_id", right="item_id"),),
    12,
)


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with three admitted keys."""
    write_description(tmp_path, DESCRIPTION)
    write_arrays(tmp_path / "dense.npz", CtrModel(SCHEMA, MODEL, DESCRIPTION.relations).weights())
    write_encodings(tmp_path / "encodings.npz", {})
    table = ElasticTable(
        {"wide": SlabSpec(1, GroupAdam(), 0.5), "deep": SlabSpec(MODEL.dim, GroupAdam(), 0.5)}
    )
    keys = np.array([5, -2, 9], np.int64)
    table.apply(
        table.prepare(keys),
        {name: np.ones((3, slab.spec.dim)) for name, slab in table.slabs.items()},
    )
    table.save(tmp_path / "table")
    return tmp_path, table


def test_a_description_survives_the_disk(tmp_path):
    write_description(tmp_path, DESCRIPTION)
    assert read_description(tmp_path) == DESCRIPTION


def test_the_same_description_gives_the_same_bytes(tmp_path):
    many = Schema.model_validate(
        SCHEMA.model_dump() | {"forbidden": [f"outcome_{i}" for i in range(30)]}
    )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_description(tmp_path / name, Description(many, MODEL, TRAINING, {}, (), 0))
    assert (tmp_path / "a" / "model.json").read_bytes() == (
        tmp_path / "b" / "model.json"
    ).read_bytes()
    assert json.loads((tmp_path / "a" / "model.json").read_text())["schema"]["forbidden"] == sorted(
        many.forbidden
    )


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1}', "[1]"])
def test_an_unreadable_description_is_named(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json"):
        read_description(tmp_path)


def test_a_checkpoint_gives_rows_sorted_by_key(checkpoint):
    folder, table = checkpoint
    trained = read_checkpoint(folder)
    np.testing.assert_array_equal(trained.keys, [-2, 5, 9])
    for slab in ("wide", "deep"):
        np.testing.assert_array_equal(trained.vectors[slab], table.lookup(trained.keys, slab))


def compress(folder):
    """Turn a checkpoint's table into that of a compressed folder."""
    trained = read_checkpoint(folder)
    for path in (folder / "table").iterdir():
        path.unlink()
    np.save(folder / "table" / "keys.npy", trained.keys)
    for slab, rows in trained.vectors.items():
        np.save(folder / "table" / f"{slab}.npy", rows)
    return trained


def test_a_compressed_folder_reads_like_its_checkpoint(checkpoint):
    folder, _ = checkpoint
    before = compress(folder)
    after = read_checkpoint(folder)
    np.testing.assert_array_equal(after.keys, before.keys)
    assert {s: rows.tolist() for s, rows in after.vectors.items()} == {
        s: rows.tolist() for s, rows in before.vectors.items()
    }


def test_slabs_that_do_not_fit_the_keys_are_refused(checkpoint):
    folder, _ = checkpoint
    compress(folder)
    np.save(folder / "table" / "deep.npy", np.zeros((2, MODEL.dim), np.float32))
    with pytest.raises(InputError, match="3 keys"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    ["model.json", "dense.npz", "encodings.npz", "table/table.json", "table/deep.weights.npy"],
)
def test_a_missing_file_is_refused(checkpoint, name):
    folder, _ = checkpoint
    (folder / name).unlink()
    with pytest.raises(InputError, match=name.rsplit("/", 1)[-1].split(".", 1)[0]):
        read_checkpoint(folder)


def test_a_damaged_compressed_array_is_named(checkpoint):
    folder, _ = checkpoint
    compress(folder)
    (folder / "table" / "wide.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"wide\.npy"):
        read_checkpoint(folder)


def test_a_model_without_a_row_scores(checkpoint):
    from training_data import planted_day

    from training.data.examples import read_examples

    folder, _ = checkpoint
    compress(folder)
    np.save(folder / "table" / "keys.npy", np.zeros(0, np.int64))
    np.save(folder / "table" / "wide.npy", np.zeros((0, 1), np.float32))
    np.save(folder / "table" / "deep.npy", np.zeros((0, MODEL.dim), np.float32))
    examples = read_examples(planted_day(folder / "day", rows=20), SCHEMA, DESCRIPTION.relations)
    assert np.isfinite(Scorer.load(folder).score(examples)).all()


@pytest.mark.covers("F32")
def test_arrays_survive_the_disk_and_pickles_are_refused(tmp_path):
    arrays = {"b/c": np.arange(3), "a": np.array(2.5, np.float32)}
    write_arrays(tmp_path / "x.npz", arrays)
    read = read_arrays(tmp_path / "x.npz")
    assert sorted(read) == ["a", "b/c"]
    assert read["a"] == np.float32(2.5)
    np.savez(tmp_path / "evil.npz", x=np.array([{}], object))
    with pytest.raises(InputError, match="evil"):
        read_arrays(tmp_path / "evil.npz")


def test_scalers_of_numbers_by_hand():
    values = np.array([[1.0, 9.0], [3.0, 9.0], [100.0, 0.0]])
    present = np.array([[True, True], [True, True], [False, False]])
    assert scalers_from_numbers(("x", "constant"), values, present) == {
        "x": Scaler(2.0, 1.0),
        "constant": Scaler(9.0, 1.0),
    }


def test_a_number_that_is_never_there_is_left_alone():
    assert scalers_from_numbers(("x",), np.zeros((3, 1)), np.zeros((3, 1), bool)) == {
        "x": Scaler(0.0, 1.0)
    }


def test_numbers_too_large_to_measure_are_left_alone():
    assert (
        scalers_from_numbers(("x",), np.array([[1e308], [1.7e308]]), np.ones((2, 1), bool))["x"].std
        == 1.0
    )


def test_scalers_from_statistics_leave_out_what_is_unknown(tmp_path):
    frame = pd.DataFrame(
        {"field": ["x", "y", "id"], "mean": [1.0, None, None], "std": [0.0, None, None]}
    )
    frame.to_parquet(tmp_path / "fields.parquet")
    assert scalers_from_statistics(tmp_path, ("x", "y", "z")) == {"x": Scaler(1.0, 1.0)}


def test_missing_statistics_are_named(tmp_path):
    with pytest.raises(InputError, match=r"fields\.parquet"):
        scalers_from_statistics(tmp_path, ("x",))


def test_scalers_in_the_order_of_the_fields():
    means, stds = as_arrays({"b": Scaler(1.0, 2.0)}, ("a", "b"))
    np.testing.assert_array_equal([means, stds], [[0, 1], [1, 2]])
