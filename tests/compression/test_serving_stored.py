"""Stored forms read the same in the graph and in NumPy, in both forms of the table."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from awkward_day import SCHEMA

from compression.export.rows import StoredMatrix, StoredSlab
from compression.export.write import export
from compression.model import CompactModel, read_compact, write_compact
from compression.pruning import without_zero_rows
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import DESCRIPTION, read_checkpoint
from training.packed.dense import pack_dense
from training.packed.matrix import Form, Matrix
from training.packed.rows import Band, PackedRows, PackedSlab
from validation.model.requests import read_requests
from validation.serving.measure import serve


def drawn(rows, width, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("width", [1, 5, 8])
def test_a_gathered_row_is_what_numpy_reads_and_row_zero_is_zero(form, width):
    matrix = Matrix.of(drawn(6, width), form)
    found = StoredMatrix(matrix).gather(tf.constant([0, 6, 1, 1])).numpy()
    np.testing.assert_array_equal(
        found, np.concatenate([np.zeros((1, width)), matrix.rows()[[5, 0, 0]]])
    )


def test_bands_of_other_widths_read_as_in_numpy():
    slab = PackedSlab(
        (
            Band(Matrix.of(drawn(3, 4), Form.FLOAT16)),
            Band(Matrix.of(drawn(4, 2), Form.INT4), drawn(2, 4)),
        )
    )
    found = StoredSlab(slab)(tf.range(8)).numpy()
    np.testing.assert_allclose(
        found, np.concatenate([np.zeros((1, 4)), slab.rows()]), rtol=1e-6, atol=1e-6
    )


def stored(checkpoint, form):
    """The checkpoint's model with shuffled rows, deep ones in two bands, and packed kernels."""
    whole = CompactModel.of(read_checkpoint(checkpoint))
    rows = whole.tables[""]
    order = np.random.default_rng(5).permutation(len(rows.keys))
    deep, cut = rows.slabs["deep"].rows()[order], len(order) // 3
    bands = (
        Band(Matrix.of(deep[:cut], form)),
        Band(Matrix.of(deep[cut:, :2], form), np.eye(2, deep.shape[1], dtype=np.float32)),
    )
    slabs = {
        "deep": PackedSlab(bands),
        "wide": PackedSlab.of(rows.slabs["wide"].rows()[order], Form.FLOAT16),
    }
    return replace(
        whole, tables={"": PackedRows(rows.keys[order], slabs)}, dense=pack_dense(whole.dense, form)
    )


@pytest.mark.parametrize("form", list(Form))
def test_a_stored_model_scores_as_it_is_served_in_a_fresh_process(
    form, checkpoint, partition, trained_on, compare_served, tmp_path
):
    (tmp_path / "compressed").mkdir()
    write_compact(stored(checkpoint, form), checkpoint / DESCRIPTION, tmp_path / "compressed")
    export(tmp_path / "compressed", tmp_path)
    expected = Scorer.load(tmp_path / "compressed").score(trained_on)
    report = compare_served(
        tmp_path / "saved_model", read_requests(partition, SCHEMA), expected, (7, 512)
    )
    assert report.max_abs_diff <= 1e-6
    assert (
        np.abs(expected - Scorer.load(checkpoint).score(trained_on)).max() > 1e-4
    )  # half of the columns are removed


def test_it_comes_back_from_its_folder_in_its_stored_form(checkpoint, tmp_path):
    model = stored(checkpoint, Form.INT8)
    write_compact(model, checkpoint / DESCRIPTION, tmp_path)
    again = read_compact(tmp_path)
    assert (again.rows, again.nbytes) == (model.rows, model.nbytes)
    assert [b.matrix.form for b in again.tables[""].slabs["deep"].bands] == [Form.INT8, Form.INT8]
    whole = CompactModel.of(read_checkpoint(checkpoint))
    assert again.nbytes < 0.6 * whole.nbytes


def test_the_vectors_form_answers_the_same_bits(
    compressed, exported, partition, warm_python, tmp_path
):
    export(compressed, tmp_path, form="vectors")
    requests = read_requests(partition, SCHEMA)
    vectors, rows = (
        serve(folder / "saved_model", requests, python=warm_python)
        for folder in (tmp_path, exported[0])
    )
    for size, answers in rows.answers.items():
        np.testing.assert_array_equal(vectors.answers[size].probability, answers.probability)


def test_the_lossless_cut_answers_the_same_bits_at_every_batch_size(
    checkpoint, exported, partition, warm_python, tmp_path
):
    """The whole checkpoint, zero rows included, against the cut, in fresh processes."""
    assert export(checkpoint, tmp_path).rows > exported[1].rows
    requests = read_requests(partition, SCHEMA)
    whole, cut = (
        serve(folder / "saved_model", requests, python=warm_python)
        for folder in (tmp_path, exported[0])
    )
    for size, answers in whole.answers.items():
        np.testing.assert_array_equal(cut.answers[size].probability, answers.probability)


def test_zero_rows_go_and_others_stay(checkpoint):
    whole = CompactModel.of(read_checkpoint(checkpoint))
    cut = without_zero_rows(whole)
    zero = np.all(np.concatenate(list(whole.tables[""].vectors().values()), axis=1) == 0, axis=1)
    assert zero.sum() > 10
    assert cut.tables[""].keys.tolist() == whole.tables[""].keys[~zero].tolist()
