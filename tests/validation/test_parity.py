"""The serving process: its input, its answers, its errors. The model is made of stock ops."""

import ast
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import validation.model.parity_worker as worker
from features.errors import InputError, UnsoundError
from features.schema import Schema
from validation.model.check import check_parity, compare
from validation.model.requests import RawRequests, read_requests
from validation.serving.measure import serve

SCHEMA = Schema.model_validate(
    {
        "label": "click",
        "user": "uid",
        "item": "iid",
        "timestamp": {"column": "ts"},
        "fields": [
            {"kind": "categorical", "name": "user_id"},
            {"kind": "multi_valued", "name": "tags"},
            {"kind": "categorical", "name": "Input"},
        ],
    }
)
COLUMNS = {
    "user_id": ["", "ü", "a\x00", "名前名前", "x" * 999, "1", "12", "123", "1234", "12345"],
    "tags": [[], ["a"], ["b", "b"], [], ["\x00", "é", "c"], ["a"] * 9, [], [], ["t"], ["u", "v"]],
    "Input": ["1", None, "", "nul\x00", "5", "6", "7", "8", "9", "10"],
}
REQUESTS = RawRequests.of(SCHEMA, COLUMNS)


def true_probability(weight=0.25):
    """The model's answers counted by hand: bytes of the user, values present, and a weight."""
    users = [len(u.encode()) for u in COLUMNS["user_id"]]
    tags = [len(t) for t in COLUMNS["tags"]]
    inputs = [len((i or "").encode()) for i in COLUMNS["Input"]]
    logit = np.array(users) / 100 - weight * np.array(tags) + np.array(inputs) / 10
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


class ByHand(tf.Module):
    """A model whose answer depends on every byte of a request."""

    def __init__(self, weight):
        super().__init__()
        self.weight = tf.Variable(weight, dtype=tf.float32)

    def probability(self, inputs):
        users, given = (
            tf.cast(tf.strings.length(inputs[name]), tf.float32) for name in ("user_id", "Input")
        )
        present = tf.reduce_sum(tf.cast(inputs["tags"] != "", tf.float32), axis=1)
        return tf.sigmoid(users / 100 - self.weight * present + given / 10)


def save(folder, weight=0.25):
    model = ByHand(weight)
    specs = {
        name: tf.TensorSpec([None, None] if name == "tags" else [None], tf.string, name)
        for name in COLUMNS
    }
    function = tf.function(
        lambda inputs: {"probability": model.probability(inputs)}, input_signature=[specs]
    )
    tf.saved_model.save(model, str(folder), signatures={"serving_default": function})
    return folder


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("by_hand"))


@pytest.fixture(scope="session")
def served(saved_model, fresh_process):
    return serve(saved_model, REQUESTS, (1, 3, 16), max_calls=4)


@pytest.fixture(scope="session")
def report(served):
    return compare(served, true_probability())


def answer_here(saved_model, requests, folder, size):
    """The worker's answers without the cost of a process."""
    requests.save(folder / "requests.npz")
    worker.main(str(saved_model), str(folder / "requests.npz"), str(folder), "300", str(size))
    with np.load(folder / "answers.npz", allow_pickle=False) as arrays:
        return arrays[f"probability_{size}"]


def with_answers(served, probability):
    """The report of a model that gave these answers to all requests."""
    return replace(served, answers={16: replace(served.answers[16], probability=probability)})


@pytest.mark.covers("monitoring-3")
def test_the_answers_are_the_expected_ones_at_every_batch_size(report):
    assert report.max_abs_diff < 1e-6
    assert report.rows_by_batch_size == {1: 4, 3: 10, 16: 10}
    assert report.serving.probability.dtype == np.float32
    np.testing.assert_allclose(report.serving.probability, true_probability(), atol=1e-6)


def test_small_batches_are_sampled_over_the_whole_file_and_the_largest_answers_all(served):
    assert served.answers[1].positions.tolist() == [0, 3, 6, 9]
    assert served.answers[16].positions.tolist() == list(range(10))
    np.testing.assert_allclose(
        served.answers[1].probability, true_probability()[[0, 3, 6, 9]], atol=1e-6
    )
    assert len(served.probability) == 10


@pytest.mark.covers("monitoring-6")
def test_costs_are_measured(served):
    assert served.load_s > 0
    assert served.peak_rss_bytes > 50e6
    assert served.peak_rss_bytes > served.model_rss_bytes >= 0
    for answers in served.answers.values():
        assert 0 < answers.p50_ms <= answers.p99_ms < 60_000
    assert {size: a.calls for size, a in served.answers.items()} == {1: 4, 3: 4, 16: 1}
    assert {"Sigmoid", "StringLength", "ReadVariableOp"} <= set(served.op_types)


def test_the_report_is_plain_json(report):
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["rows"] == {"1": 4, "3": 10, "16": 10}
    assert set(document["serving"]["latency"]["1"]) == {"calls", "p50_ms", "p99_ms", "per_second"}


@pytest.mark.covers("F28")
def test_a_tampered_weight_is_noticed(tmp_path, served):
    tampered = answer_here(save(tmp_path / "off", 0.2501), REQUESTS, tmp_path, 16)
    assert compare(with_answers(served, tampered), true_probability()).max_abs_diff > 1e-5


@pytest.mark.covers("monitoring-5")
def test_a_model_that_answers_nan_does_not_pass(tmp_path, served):
    broken = compare(
        with_answers(served, answer_here(save(tmp_path / "nan", math.nan), REQUESTS, tmp_path, 16)),
        true_probability(),
    )
    assert math.isnan(broken.max_abs_diff)
    assert broken.as_dict()["max_abs_diff"] == {"16": None}


def test_one_wrong_expectation_among_many_is_noticed(served):
    expected = true_probability()
    expected[6] += 1e-3
    differences = compare(served, expected).max_abs_diff_by_batch_size
    assert differences == {size: pytest.approx(1e-3, rel=1e-2) for size in (1, 3, 16)}


def test_a_nan_at_one_batch_size_is_not_hidden_by_the_others(report):
    assert math.isnan(
        replace(report, max_abs_diff_by_batch_size={1: 1e-9, 3: math.nan, 16: 0.0}).max_abs_diff
    )
    assert math.isnan(replace(report, max_abs_diff_by_batch_size={}).max_abs_diff)


def test_an_answer_too_few_does_not_pass(served):
    assert math.isnan(
        compare(with_answers(served, served.probability[:-1]), true_probability()).max_abs_diff
    )


def test_no_requests_prove_nothing(saved_model, served, tmp_path):
    none = RawRequests.of(SCHEMA, {name: [] for name in COLUMNS})
    assert answer_here(saved_model, none, tmp_path, 8).shape == (0,)
    empty = replace(
        served.answers[16], positions=np.empty(0, np.int64), probability=np.empty(0, np.float32)
    )
    assert math.isnan(
        compare(replace(served, answers={8: empty}), np.empty(0, np.float32)).max_abs_diff
    )


def test_each_request_needs_an_expected_probability(saved_model):
    with pytest.raises(InputError, match="10 requests but expected"):
        check_parity(saved_model, REQUESTS, np.zeros(9, np.float32))


@pytest.mark.process
def test_a_model_that_cannot_be_served_is_unsound_and_says_why(saved_model):
    renamed = RawRequests(REQUESTS.table.rename_columns(["usr_id", "tags", "Input"]))
    with pytest.raises(UnsoundError, match=r"cannot be served(?s:.*)user_id"):
        check_parity(saved_model, renamed, true_probability(), (4,))


def test_the_worker_imports_tensorflow_numpy_and_the_standard_library_only():
    tree = ast.parse(Path(worker.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"tensorflow", "numpy"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(st.none() | TEXT, st.lists(TEXT, max_size=4)), min_size=1, max_size=20))
def test_the_file_gives_back_every_byte(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("file") / "requests.npz"
    columns = {
        "user_id": [v for v, _ in values],
        "tags": [t for _, t in values],
        "Input": ["x"] * len(values),
    }
    RawRequests.of(SCHEMA, columns).save(path)
    read = worker.DecodedRequests(path)
    assert read.rows == len(values)
    assert read.columns["user_id"] == [(v or "").encode() for v, _ in values]
    assert read.columns["tags"] == [[t.encode() for t in tags] for _, tags in values]


def test_slices_of_a_larger_table_are_written_as_they_are(tmp_path):
    RawRequests(REQUESTS.table.slice(2, 3)).save(tmp_path / "slice.npz")
    read = worker.DecodedRequests(tmp_path / "slice.npz")
    assert read.columns["user_id"] == [b"a\x00", "名前名前".encode(), b"x" * 999]
    assert read.columns["tags"] == [[b"b", b"b"], [], [b"\x00", "é".encode(), b"c"]]


def test_lists_are_padded_to_the_longest_of_their_batch(tmp_path):
    REQUESTS.save(tmp_path / "r.npz")
    read = worker.DecodedRequests(tmp_path / "r.npz")
    assert read.batch(0, 3)["tags"].numpy().tolist() == [[b"", b""], [b"a", b""], [b"b", b"b"]]
    assert read.batch(6, 8)["tags"].shape == (2, 0)
    assert read.batch(6, 8)["tags"].dtype == tf.string


def partition(folder):
    table = pa.table(
        {
            "record_id": [50, 40, 30],
            "user_id": ["a", "b", ""],
            "tags": [["x"], [], ["y", "z"]],
            "Input": ["1", "2", "3"],
        }
    )
    (folder / "impressions").mkdir()
    pq.write_table(table.slice(0, 2), folder / "impressions" / "part-0.parquet")
    pq.write_table(table.slice(2), folder / "impressions" / "part-1.parquet")
    return folder


def test_requests_are_the_logged_strings_of_the_records_asked_for(tmp_path):
    whole = read_requests(partition(tmp_path), SCHEMA)
    assert whole.table.to_pydict() == {
        "user_id": ["a", "b", ""],
        "tags": [["x"], [], ["y", "z"]],
        "Input": ["1", "2", "3"],
    }
    some = read_requests(tmp_path, SCHEMA, np.array([30, 50]))
    assert some.table.to_pydict() == {
        "user_id": ["", "a"],
        "tags": [["y", "z"], ["x"]],
        "Input": ["3", "1"],
    }


def test_a_record_of_another_day_is_refused(tmp_path):
    with pytest.raises(InputError, match="1 of 2 records"):
        read_requests(partition(tmp_path), SCHEMA, np.array([30, 31]))


@pytest.mark.slow
def test_a_partition_without_a_field_is_refused(tmp_path):
    wider = Schema.model_validate(
        SCHEMA.model_dump()
        | {"fields": [*SCHEMA.model_dump()["fields"], {"kind": "categorical", "name": "city"}]}
    )
    with pytest.raises(InputError, match="city"):
        read_requests(partition(tmp_path), wider)
    with pytest.raises(InputError, match="run `ingest`"):
        read_requests(tmp_path / "nowhere", SCHEMA)
