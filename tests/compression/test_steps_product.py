"""Rows as codes: decoding against NumPy, codebooks against random ones, exact if possible."""

import numpy as np
import pytest
import tensorflow as tf
from awkward_day import SCHEMA
from pydantic import ValidationError
from step_models import by_key, made_state

from compression.delta.write import delta_between
from compression.export.rows import StoredSlab
from compression.export.write import export
from compression.model import read_compact
from compression.pruning import compress
from compression.settings import CompressionSettings
from compression.steps.product import ProductPlan, ProductQuantization, encode_rows
from compression.steps.sequence import run_step
from compression.steps.settings import ProductCodes, PruneRows, Widths
from compression.steps.widths import WidthReduction
from features.errors import InputError, UnsoundError
from training.evaluation.scoring import Scorer
from training.packed.matrix import Form, Matrix
from training.packed.pq import Product
from training.packed.rows import Band, PackedSlab
from validation.model.requests import read_requests

FEW = {"kind": "product", "columns": 2, "codes": 16}


def drawn(rows=3000, width=6, seed=1):
    return np.random.default_rng(seed).standard_t(3, (rows, width)).astype(np.float32)


def applied(state, **given):
    step = ProductQuantization(ProductCodes(**given))
    return step.apply(state, step.fit(state))


def steps(*some):
    return CompressionSettings.model_validate({"steps": list(some)})


def lost(rows, product, counts):
    return float(np.sum(counts[:, None] * np.square(rows - product.rows())))


def test_a_row_is_the_entries_of_its_codes_one_after_the_other():
    book = np.arange(2 * 3 * 2, dtype=np.float16).reshape(2, 3, 2)
    book[:, 0] = 0
    product = Product(3, np.array([[2, 1], [0, 2], [0, 0]], np.uint8), book)
    assert product.rows().tolist() == [[4, 5, 8], [0, 0, 10], [0, 0, 0]]
    assert product.rows().dtype == np.float32
    assert product.nbytes == 6 + 2 * 12
    assert product.take(np.array([False, True, False])).rows().tolist() == [[0, 0, 10]]


@pytest.mark.parametrize(("width", "columns"), [(6, 2), (5, 2), (5, 8), (8, 1)])
def test_the_graph_reads_what_numpy_reads_and_row_zero_is_zero(width, columns):
    product = encode_rows(
        drawn(600, width), np.ones(600, np.int64), ProductCodes(columns=columns, codes=32)
    )
    slab = PackedSlab(
        (
            Band(product),
            Band(product, np.ones((width, width), np.float32)),
            Band(Matrix.of(drawn(9, width), Form.INT8)),
        )
    )
    found = StoredSlab(slab)(tf.range(1210)).numpy()
    np.testing.assert_allclose(
        found, np.concatenate([np.zeros((1, width)), slab.rows()]), rtol=1e-6, atol=1e-5
    )
    np.testing.assert_array_equal(
        found[:601], np.concatenate([np.zeros((1, width)), product.rows()])
    )
    assert StoredSlab(slab)(tf.zeros([0], tf.int32)).shape == (0, width)


def test_rows_pruned_after_coding_leave_the_others_as_they_were():
    state = made_state()
    whole = applied(state, columns=2, codes=16)
    some = run_step(whole, PruneRows(by="norm", keep=0.5))[0]
    for name, rows in some.model.tables.items():
        kept = np.isin(whole.model.tables[name].keys, rows.keys)
        assert 0 < len(rows.keys) < len(kept)
        for slab, vectors in rows.vectors().items():
            np.testing.assert_array_equal(vectors, whole.model.tables[name].vectors()[slab][kept])


def test_codebooks_lose_less_than_random_ones_and_each_code_is_the_nearest():
    rows, counts = drawn(), np.random.default_rng(2).zipf(1.6, 3000).clip(max=500)
    found = encode_rows(rows, counts, ProductCodes(columns=2, codes=32))
    for seed in range(5):
        draw = np.random.default_rng(seed)
        book = np.stack(
            [
                rows[draw.choice(3000, 32, p=counts / counts.sum()), 2 * p : 2 * p + 2]
                for p in range(3)
            ]
        )
        book[:, 0] = 0
        book = book.astype(np.float16)
        assert lost(rows, found, counts) < 0.8 * lost(
            rows, Product(6, nearest(rows, book), book), counts
        )
    book, others = found.codebook.astype(np.float64), nearest(rows, found.codebook)
    pieces = rows.reshape(3000, 3, 2)
    far, least = (
        np.sum((pieces - book[np.arange(3), codes]) ** 2, axis=2) for codes in (found.codes, others)
    )
    np.testing.assert_allclose(far, least, rtol=1e-9, atol=1e-12)


def nearest(rows, book):
    """The code of each piece by all distances, uint8 [n, m]."""
    pieces = rows.astype(np.float64).reshape(len(rows), *book.shape[::2])
    distances = np.sum((pieces[:, :, None] - book.astype(np.float64)) ** 2, axis=3)
    return distances.argmin(axis=2).astype(np.uint8)


def test_rows_that_are_read_often_come_out_better():
    rows, often = drawn(2000, 2), np.arange(2000) < 200
    codes = ProductCodes(columns=2, codes=16)
    plain = encode_rows(rows, np.ones(2000, np.int64), codes)
    weighted = encode_rows(rows, np.where(often, 1000, 1), codes)
    assert lost(rows[often], weighted.take(often), np.ones(200)) < 0.8 * lost(
        rows[often], plain.take(often), np.ones(200)
    )


def test_few_values_and_zero_rows_are_exact():
    draw = np.random.default_rng(3)
    values = draw.normal(size=(255, 2)).astype(np.float16).astype(np.float32)
    rows = values[draw.integers(0, 255, (5000, 2))].reshape(5000, 4)
    rows[::7] = 0
    product = encode_rows(rows, np.ones(5000, np.int64), ProductCodes(columns=2))
    np.testing.assert_array_equal(product.rows(), rows)
    assert product.codebook.shape == (2, 256, 2)
    state = made_state(rows=2000)
    before, after = by_key(state, "deep"), by_key(applied(state, columns=2, codes=16), "deep")
    zero = [key for key, row in before.items() if not row.any()]
    assert len(zero) == 200
    assert all(not after[key].any() for key in zero)


def test_bytes_are_those_of_codes_and_codebooks_and_what_is_no_smaller_is_float16():
    state = made_state(rows=2000)
    step = ProductQuantization(ProductCodes(columns=4, codes=32))
    plan = step.fit(state)
    after = step.apply(state, plan).model
    assert (
        plan
        == ProductPlan.model_validate_json(plan.model_dump_json())
        == ProductPlan(pieces={"deep": (2,), "wide": (1,)})
    )
    assert after.nbytes == 8 * 2000 + (2 * 2000 + 2 * 32 * 4 * 2) + (2000 + 32 * 2)
    small = made_state(rows=30)
    assert step.fit(small).pieces == {"deep": (0,), "wide": (0,)}
    assert (
        step.apply(small, step.fit(small)).model.tables[""].slabs["deep"].only_matrix().form
        is Form.FLOAT16
    )


def test_bands_have_codebooks_of_their_own_and_keep_their_projections():
    widths = WidthReduction(Widths(quantiles=(0.5,), ranks=(2, 4)))
    state = made_state(rows=4000, width=8)
    state = widths.apply(state, widths.fit(state))
    before, after = (
        w.model.tables[""].slabs["deep"].bands for w in (state, applied(state, columns=2, codes=16))
    )
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.projection, old.projection)
        assert new.matrix.codes.shape == (len(old.matrix), old.matrix.width // 2)
        assert np.corrcoef(new.rows().ravel(), old.rows().ravel())[0, 1] > 0.8


def test_many_rows_are_sampled_by_weight_and_the_seed_says_how():
    rows, counts = drawn(6000, 2), np.random.default_rng(4).zipf(1.6, 6000)
    codes = ProductCodes(columns=2, codes=16)  # 6,000 > 16 · 256
    found = encode_rows(rows, counts, codes)
    assert found.codebook.tobytes() == encode_rows(rows, counts, codes).codebook.tobytes()
    assert (
        found.codebook.tobytes()
        != encode_rows(rows, counts, ProductCodes(columns=2, codes=16, seed=1)).codebook.tobytes()
    )
    alike = encode_rows(rows, np.ones(6000, np.int64), codes)
    assert lost(rows, found, counts) < lost(rows, alike, counts)


@pytest.fixture(scope="module")
def folders(learned, tmp_path_factory):
    """A checkpoint of groups, and what step product made of it."""
    full, small = learned("grouped"), tmp_path_factory.mktemp("small")
    return (
        full,
        small,
        compress(full, steps({"kind": "prune_rows", "keep": 0.9}, FEW, {"kind": "dense"}), small),
    )


def test_it_is_served_in_a_fresh_process_as_it_is_scored_in_both_forms(
    folders, partition, trained_on, compare_served, tmp_path
):
    full, small, compressed = folders
    expected = Scorer.load(small).score(trained_on)
    requests, forms = read_requests(partition, SCHEMA), {}
    for form in ("rows", "vectors"):
        (tmp_path / form).mkdir()
        export(small, tmp_path / form, form)
        report = compare_served(tmp_path / form / "saved_model", requests, expected, (1, 7, 512))
        assert report.max_abs_diff <= 1e-6
        forms[form] = report.serving.answers
    for size, answers in forms[
        "rows"
    ].items():  # two graphs, whose sums TensorFlow may take in another order
        np.testing.assert_allclose(
            answers.probability, forms["vectors"][size].probability, rtol=0, atol=2.5e-7
        )
    assert np.abs(expected - Scorer.load(full).score(trained_on)).max() > 1e-4
    assert max(pieces for (pieces,) in compressed.steps[1].plan["pieces"].values()) >= 2


@pytest.mark.slow
def test_it_comes_back_from_its_folder_and_the_same_settings_make_the_same_bytes(folders, tmp_path):
    full, small, report = folders
    compress(full, steps({"kind": "prune_rows", "keep": 0.9}, FEW, {"kind": "dense"}), tmp_path)
    for path in small.rglob("*.*"):
        assert (tmp_path / path.relative_to(small)).read_bytes() == path.read_bytes()
    again = read_compact(small)
    assert again.nbytes == report.steps[-1].bytes_after
    assert any(isinstance(slab.bands[0].matrix, Product) for slab in again.slabs().values())


def test_a_delta_is_refused_and_the_message_names_the_cure(folders):
    model = read_compact(folders[1])
    with pytest.raises(
        InputError, match=r"codes of a codebook.*without the steps widths and product"
    ):
        delta_between(model, model)


def test_values_that_half_precision_cannot_hold_are_unsound():
    state = made_state(rows=2000)
    for value in (np.nan, 1e30):
        bad = state.with_slabs({"": {"deep": PackedSlab.of(np.full((2000, 6), value, np.float32))}})
        with pytest.raises(UnsoundError, match="rows of deep"):
            applied(bad, columns=2, codes=16)


def test_damaged_codes_are_refused():
    codes, book = np.zeros((4, 2), np.uint8), np.zeros((2, 3, 2), np.float16)
    for wrong in (
        (4, codes + 3, book),
        (5, codes, book),
        (4, codes[:, :1], book),
        (4, codes.astype(np.int32), book),
        (4, codes, book + 1),
        (4, codes, book[0]),
    ):
        with pytest.raises(InputError, match="compress this day again"):
            Product(*wrong)


def test_a_table_without_rows_stays_one():
    empty = made_state(rows=30).take({"": np.zeros(30, bool)})
    assert applied(empty).model.rows == 0


def test_two_forms_of_the_rows_are_refused():
    with pytest.raises(ValidationError, match="use one of the two"):
        steps({"kind": "quantize"}, {"kind": "product"})
    with pytest.raises(ValidationError, match="widths comes after product"):
        steps({"kind": "product"}, {"kind": "widths", "ranks": [2]})
