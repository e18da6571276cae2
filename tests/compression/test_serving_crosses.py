"""Cross features in the exported model: an MLP over half-precision encodings, a table of pairs."""

import shutil

import numpy as np
import numpy_reference
import pytest
from awkward_day import RELATIONS, SCHEMA, draw_columns, write_partition

from compression.export.write import export
from compression.pruning import compress
from compression.settings import CompressionSettings
from training.data.examples import read_examples
from training.evaluation.scoring import Scorer
from training.models.encoding_inputs import (
    Encoding,
    PairTable,
    pair_keys,
    read_encodings,
    sorted_nodes,
    write_encodings,
)
from validation.model.requests import read_requests


def perceptron(pairs, draw):
    """Every second node is known, in half precision; every third pair has a correction."""
    sides = [np.unique(keys)[::2] for keys in pairs.T]
    left, right = (
        sorted_nodes(
            k, draw.normal(0, 0.5, (len(k), 3)), draw.normal(0, 0.2, len(k)), np.dtype("float16")
        )
        for k in sides
    )
    shapes = [(9, 4), (4,), (4, 1), (1,)]
    weights = [draw.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    some = np.unique(pairs, axis=0)[::3]
    corrections = PairTable.of(some, draw.normal(size=len(some)), 0.0, np.dtype("float16"))
    return Encoding(
        left, right, -1.25, ((weights[0], weights[1]), (weights[2], weights[3])), corrections
    )


def table(pairs, draw):
    """Every second pair is known."""
    keys = np.unique(pair_keys(pairs[:, 0], pairs[:, 1]))[::2]
    return PairTable(keys, draw.normal(size=len(keys)).astype(np.float32), 0.75)


@pytest.fixture(scope="module")
def crossed(checkpoint, trained_on, tmp_path_factory):
    """The awkward checkpoint with both relations encoded."""
    folder, draw = tmp_path_factory.mktemp("crossed") / "checkpoint", np.random.default_rng(6)
    shutil.copytree(checkpoint, folder)
    encodings = (make(trained_on.pairs[:, i], draw) for i, make in enumerate((perceptron, table)))
    write_encodings(
        folder / "encodings.npz", dict(zip((r.name for r in RELATIONS), encodings, strict=True))
    )
    return folder


def test_both_survive_the_disk_and_compression(crossed, tmp_path):
    compress(crossed, CompressionSettings(), tmp_path)
    before, after = (read_encodings(folder / "encodings.npz") for folder in (crossed, tmp_path))
    first, second = (relation.name for relation in RELATIONS)
    assert after[first].left.vectors.dtype == np.float16
    assert [len(layer) for layer in after[first].network] == [2, 2]
    np.testing.assert_array_equal(after[first].corrections.keys, before[first].corrections.keys)
    np.testing.assert_array_equal(after[first].corrections.values, before[first].corrections.values)
    assert after[first].corrections.nbytes == 10 * after[first].corrections.rows > 0
    np.testing.assert_array_equal(after[second].keys, before[second].keys)
    assert after[second].nbytes == 12 * len(after[second].keys)


def test_the_trained_model_reads_them_as_the_formula_says(crossed, trained_on):
    expected = numpy_reference.probabilities(crossed, trained_on)
    np.testing.assert_allclose(Scorer.load(crossed).score(trained_on), expected, rtol=0, atol=1e-6)


def test_the_export_gives_the_same_in_a_fresh_process(crossed, compare_served, tmp_path):
    """On a day of other draws, so that known and unknown nodes and pairs meet."""
    for name in ("compressed", "export"):
        (tmp_path / name).mkdir()
    compress(crossed, CompressionSettings(), tmp_path / "compressed")
    export(tmp_path / "compressed", tmp_path / "export")
    partition = write_partition(tmp_path / "day", draw_columns(300, seed=11))
    expected = Scorer.load(crossed).score(read_examples(partition, SCHEMA, RELATIONS))
    parity = compare_served(
        tmp_path / "export" / "saved_model", read_requests(partition, SCHEMA), expected, (1, 64)
    )
    assert parity.max_abs_diff <= 1e-6


def test_what_they_say_reaches_the_probability(crossed, checkpoint, trained_on):
    assert (
        np.abs(
            Scorer.load(crossed).score(trained_on) - Scorer.load(checkpoint).score(trained_on)
        ).max()
        > 1e-3
    )
