"""The served model gives the trained one's probabilities, in a fresh process, at any batch size."""

import re
import shutil

import numpy as np
import numpy_reference
import pytest
import tensorflow as tf
from awkward_day import RELATIONS, SCHEMA, draw_columns, write_partition
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from compression.export.write import export
from compression.pruning import compress
from compression.settings import CompressionSettings
from training.data.examples import read_examples
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from validation.model.check import check_parity
from validation.model.requests import RawRequests, read_requests


@pytest.fixture(scope="session")
def loaded(exported):
    return tf.saved_model.load(str(exported[0] / "saved_model"))


@pytest.fixture(scope="session")
def serve(loaded):
    """Answer Python lists, or ready tensors, in this process."""

    def answer(columns):
        return loaded.signatures["serving_default"](**tensors(columns))["probability"].numpy()

    return answer


def tensors(columns):
    def tensor(values):
        if isinstance(values, tf.Tensor):
            return values
        if isinstance(values[0], str):
            return tf.constant(values, tf.string)
        width = max(map(len, values))
        return tf.reshape(
            tf.constant([v + [""] * (width - len(v)) for v in values], tf.string),
            [len(values), width],
        )

    return {name: tensor(values) for name, values in columns.items()}


def rows_of(columns, rows):
    return {name: [values[i] for i in rows] for name, values in columns.items()}


@pytest.fixture(scope="session")
def expected(compressed, trained_on):
    """The NumPy reference, float32 [530]."""
    return numpy_reference.probabilities(compressed, trained_on).astype(np.float32)


@pytest.fixture(scope="session")
def parity(exported, expected, partition, fresh_process):
    """The export in a fresh process, against the NumPy reference."""
    return check_parity(
        exported[0] / "saved_model", read_requests(partition, SCHEMA), expected, (1, 7, 512)
    )


def test_parity_in_a_fresh_process_at_every_batch_size(parity, expected):
    assert set(parity.max_abs_diff_by_batch_size) == {1, 7, 512}
    assert parity.rows_by_batch_size[512] == len(expected) == 530
    assert parity.rows_by_batch_size[1] == 300
    assert parity.rows_by_batch_size[7] == 530
    assert parity.max_abs_diff <= 1e-6
    assert np.std(expected) > 0.05  # else agreeing would be easy


def test_parity_with_the_trainers_own_scores(parity, compressed, trained_on):
    scored = Scorer.load(compressed).score(trained_on)
    np.testing.assert_allclose(parity.serving.probability, scored, rtol=0, atol=1e-6)


def test_another_day_with_users_never_seen_among_the_known_ones(serve, compressed, tmp_path):
    columns = draw_columns(60, seed=9)
    columns["user_id"] = [
        f"never seen {i}" if i % 2 else user for i, user in enumerate(columns["user_id"])
    ]
    examples = read_examples(write_partition(tmp_path / "new", columns), SCHEMA, RELATIONS)
    np.testing.assert_allclose(
        serve(columns), numpy_reference.probabilities(compressed, examples), rtol=0, atol=1e-6
    )


def test_the_graph_holds_one_lookup_of_rows_and_two_of_each_relation(parity, loaded):
    ops = parity.serving.op_types
    assert "LookupTableFindV2" in ops
    assert not [op for op in ops if "PyFunc" in op or not hasattr(tf.raw_ops, op)]
    nodes = [n.op for n in loaded.signatures["serving_default"].graph.as_graph_def().node]
    inner = [
        n.op
        for f in loaded.signatures["serving_default"].graph.as_graph_def().library.function
        for n in f.node_def
    ]
    assert (nodes + inner).count("LookupTableFindV2") == 3


def test_the_signature_is_that_of_the_contract(exported, loaded):
    signature = loaded.signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    assert set(specs) == set(exported[1].inputs) == {f.name for f in SCHEMA.column_fields()}
    assert {name for name, spec in specs.items() if spec.shape.rank == 2} == {"tags", "brands"}
    assert all(spec.dtype == tf.string for spec in specs.values())
    output = signature.structured_outputs["probability"]
    assert (output.dtype, output.shape.as_list()) == (tf.float32, [None])


def stacked(columns):
    """The same requests with all single-valued fields in one tensor, in the schema's order."""
    given = tensors(columns)
    singles = [f.name for f in SCHEMA.column_fields() if f.name not in ("tags", "brands")]
    return {"values": tf.stack([given[name] for name in singles], axis=1)} | {
        name: given[name] for name in ("tags", "brands")
    }


@pytest.mark.parametrize("rows", [1, 32, 200])
def test_all_single_valued_fields_in_one_tensor_give_the_same_to_the_bit(serve, loaded, rows):
    columns = draw_columns(rows, seed=11)
    answers = loaded.signatures["serving_stacked"](**stacked(columns))["probability"].numpy()
    np.testing.assert_array_equal(answers, serve(columns))
    assert rows == 1 or np.std(answers) > 0.05


def test_too_few_columns_are_refused_and_no_requests_get_no_answers(loaded):
    given = stacked(draw_columns(4, seed=11))
    none = {name: values[:0] for name, values in given.items()}
    assert loaded.signatures["serving_stacked"](**none)["probability"].shape == (0,)
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        loaded.signatures["serving_stacked"](**(given | {"values": given["values"][:, 1:]}))


def test_an_empty_batch_gets_an_empty_answer(serve):
    for width in (0, 3):
        empty = {f.name: tf.zeros([0], tf.string) for f in SCHEMA.column_fields()}
        empty |= {name: tf.zeros([0, width], tf.string) for name in ("tags", "brands")}
        assert serve(empty).shape == (0,)


def test_padding_changes_nothing(serve):
    columns = draw_columns(20, seed=3)
    padded = columns | {
        name: [[*v, "", "", ""] for v in columns[name]] for name in ("tags", "brands")
    }
    between = columns | {"tags": [[x for t in v for x in ("", t)] for v in columns["tags"]]}
    np.testing.assert_array_equal(serve(padded), serve(columns))
    np.testing.assert_array_equal(serve(between), serve(columns))


def test_a_value_has_one_spelling_at_serving_too(serve):
    columns = draw_columns(8, seed=4)
    canonical = columns | {"user_id": ["1", "1", "true", "", "7", "0", "007", "x"]}
    raw = columns | {"user_id": ["1.0", "1.000", "True", "NaN", "7.0", "-0", "007", "x"]}
    np.testing.assert_array_equal(serve(raw), serve(canonical))


def test_a_request_does_not_depend_on_its_neighbours(serve):
    columns = draw_columns(30, seed=6)
    whole = serve(columns)
    alone = np.concatenate([serve(rows_of(columns, [i])) for i in range(30)])
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-6)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(serve(rows_of(columns, order)), whole[order], rtol=0, atol=1e-6)


def test_a_wrong_input_name_gives_tensorflows_own_error(loaded):
    given = tensors(draw_columns(2, seed=3))
    given["usr_id"] = given.pop("user_id")
    with pytest.raises(TypeError, match="user_id"):
        loaded.signatures["serving_default"](**given)


@pytest.mark.slow
def test_exporting_again_and_again_gives_the_same_model(exported, compressed, tmp_path):
    """Table, rows and weights are the same bytes; the graph differs in numbers of functions."""
    again = export(compressed, tmp_path)
    assert (again.rows, again.bytes_variables) == (exported[1].rows, exported[1].bytes_variables)
    for path in (exported[0] / "saved_model" / "variables").iterdir():
        assert (
            tmp_path / "saved_model" / "variables" / path.name
        ).read_bytes() == path.read_bytes()
    assert _graph(tmp_path) == _graph(exported[0])


def _graph(folder):
    saved = saved_model_pb2.SavedModel.FromString(
        (folder / "saved_model" / "saved_model.pb").read_bytes()
    )
    text = text_format.MessageToString(saved.meta_graphs[0].graph_def)
    return sorted(re.sub(r"_[0-9]+|\"[0-9]+\"", "", text).splitlines())


def test_the_size_follows_the_rows_and_not_the_table_that_was_trained(
    exported, checkpoint, compressed, tmp_path
):
    report, trained = exported[1], read_checkpoint(compressed)
    assert report.rows == len(trained.keys)
    assert report.bytes_exported == sum(
        p.stat().st_size for p in (exported[0] / "saved_model").rglob("*") if p.is_file()
    )
    assert export(checkpoint, tmp_path).bytes_variables > report.bytes_variables


def test_the_zero_rows_are_not_in_the_exported_table(loaded, checkpoint, compressed):
    """Of the exported hash table itself: it holds the kept keys, and not one key of a zero row."""
    kept, before = read_checkpoint(compressed).keys, read_checkpoint(checkpoint).keys
    handle = loaded.tables[""]._index._table.resource_handle
    keys, rows = tf.raw_ops.LookupTableExportV2(
        table_handle=handle, Tkeys=tf.int64, Tvalues=tf.int32
    )
    assert sorted(keys.numpy().tolist()) == kept.tolist()
    assert sorted(rows.numpy().tolist()) == list(range(1, len(kept) + 1))
    assert len(set(before.tolist()) - set(keys.numpy().tolist())) > 0.05 * len(before)


@pytest.mark.slow
def test_a_model_without_rows_or_encodings_can_be_exported(compressed, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(compressed, bare)
    for name in ("keys", "wide", "deep"):
        array = np.load(bare / "table" / f"{name}.npy")
        np.save(bare / "table" / f"{name}.npy", array[:0])
    np.savez(bare / "encodings.npz")
    assert export(bare, tmp_path).rows == 0
    requests = RawRequests.of(SCHEMA, draw_columns(3, seed=2))
    answers = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"](
        **tensors(draw_columns(3, seed=2))
    )
    assert len(requests) == len(answers["probability"]) == 3
    assert np.isfinite(answers["probability"]).all()


def test_parity_catches_one_changed_weight(
    compressed, partition, expected, compare_served, tmp_path
):
    """A model whose bias is off by 1e-4 is not the model that was trained."""
    tampered = tmp_path / "tampered"
    tampered.mkdir()
    compress(compressed, CompressionSettings(), tampered)
    with np.load(tampered / "dense.npz") as stored:
        dense = {name: stored[name] for name in stored.files}
    np.savez(tampered / "dense.npz", **(dense | {"bias": dense["bias"] + np.float32(1e-4)}))
    export(tampered, tmp_path)
    report = compare_served(
        tmp_path / "saved_model", read_requests(partition, SCHEMA), expected, (512,)
    )
    assert report.max_abs_diff > 1e-5
