"""Stored rows: FBGEMM's formulas, zero rows exact, and back from a file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features.errors import InputError
from training.packed.dense import dense_nbytes, pack_dense, read_dense, unpacked, write_dense
from training.packed.matrix import Form, Matrix, dequantize, pack_nibbles, quantize, unpack_nibbles
from training.packed.rows import Band, PackedRows, PackedSlab, read_rows, write_rows

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 9)),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


def fbgemm_row(row, bits):
    """The published formula, a value at a time, in Python floats where FBGEMM has float32."""
    most = 2**bits - 1
    low = float(np.float16(min(row)))
    scale = float(np.float16(np.float32(np.float32(max(row)) - np.float32(low)) / np.float32(most)))
    if scale <= 0 or np.isinf(np.float32(1) / np.float32(scale)):
        scale = 1.0
    codes = [
        min(
            max(round(float(np.float32(np.float32(x) - np.float32(low)) / np.float32(scale))), 0),
            most,
        )
        for x in row
    ]
    return codes, scale, low


@given(ROWS, st.sampled_from([2, 4, 8]))
def test_codes_and_scales_are_those_of_the_published_formula(rows, bits):
    codes, scales = quantize(rows, bits)
    for row, code, (scale, low) in zip(rows.tolist(), codes.tolist(), scales.tolist(), strict=True):
        assert (code, scale, low) == fbgemm_row(row, bits)


@given(ROWS, st.sampled_from([4, 8]))
def test_the_error_is_half_a_step_and_what_halves_are_rounded_by(rows, bits):
    codes, scales = quantize(rows, bits)
    step = scales[:, :1].astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    bound = step / 2 + (2**bits) * step * 2.0**-11 + largest * 2.0**-10 + 1e-6
    assert np.all(np.abs(dequantize(codes, scales) - rows) <= bound)


def test_a_known_row():
    codes, scales = quantize(np.array([[-1.0, 0.0, 0.5, 2.75]], np.float32), 4)
    assert codes.tolist() == [[0, 4, 6, 15]]
    assert scales.tolist() == [[0.25, -1.0]]
    assert dequantize(codes, scales).tolist() == [[-1.0, 0.0, 0.5, 2.75]]


@pytest.mark.parametrize("form", list(Form))
def test_a_zero_row_and_a_constant_row_of_halves_stay_exact(form):
    rows = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [-2, -2, -2], [0, 0, 0]], np.float32)
    stored = Matrix.of(rows, form)
    assert stored.rows().tolist() == rows.tolist()
    assert stored.rows().dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_what_half_precision_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError, match="half precision"):
        quantize(np.array([[1.0, bad]], np.float32), 8)


@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(0, 5), st.integers(1, 9)), elements=st.integers(0, 15)
    )
)
def test_two_codes_a_byte_and_back(codes):
    packed = pack_nibbles(codes)
    assert packed.shape == (len(codes), -(-codes.shape[1] // 2))
    assert unpack_nibbles(packed, codes.shape[1]).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("form", "row_bytes"), [("float32", 64), ("float16", 32), ("int8", 20), ("int4", 12)]
)
def test_bytes_of_a_row_of_sixteen_are_the_published_ones(form, row_bytes):
    assert Matrix.of(np.ones((10, 16), np.float32), Form(form)).nbytes == 10 * row_bytes


def test_arrays_of_another_form_are_refused():
    good = Matrix.of(np.ones((2, 4), np.float32), Form.INT8)
    with pytest.raises(InputError, match="do not fit"):
        Matrix(Form.INT4, 4, good.values, good.scales)
    with pytest.raises(InputError, match="do not fit"):
        Matrix(Form.INT8, 4, good.values, good.scales[:1])


def banded():
    draw = np.random.default_rng(1)
    wide = Band(Matrix.of(draw.normal(size=(3, 4)).astype(np.float32), Form.INT8))
    narrow = Band(
        Matrix.of(draw.normal(size=(2, 2)).astype(np.float32), Form.INT4),
        draw.normal(size=(2, 4)).astype(np.float32),
    )
    return PackedSlab((wide, narrow))


def test_bands_follow_one_another_and_a_projection_widens():
    slab = banded()
    first, second = slab.bands
    assert (slab.width, len(slab)) == (4, 5)
    np.testing.assert_array_equal(slab.rows()[:3], first.matrix.rows())
    np.testing.assert_allclose(slab.rows()[3:], second.matrix.rows() @ second.projection)
    kept = np.array([True, False, True, False, True])
    # A product of fewer rows may be summed in another order.
    np.testing.assert_allclose(slab.take(kept).rows(), slab.rows()[kept], rtol=1e-6)


def test_rows_come_back_from_their_files(tmp_path):
    plain = PackedSlab.of(np.arange(5, dtype=np.float32)[:, None])
    rows = PackedRows(np.array([5, -1, 3, 9, 2**62]), {"deep": banded(), "wide": plain})
    write_rows(tmp_path / "table", rows)
    assert sorted(p.name for p in (tmp_path / "table").iterdir()) == [
        "deep.npz",
        "keys.npy",
        "wide.npy",
    ]
    again = read_rows(tmp_path / "table")
    assert again.keys.tolist() == rows.keys.tolist()
    for name, slab in rows.slabs.items():
        np.testing.assert_array_equal(again.slabs[name].rows(), slab.rows())
        assert again.slabs[name].nbytes == slab.nbytes


def test_a_slab_of_another_length_or_a_lost_array_is_refused(tmp_path):
    with pytest.raises(InputError, match="4 keys but"):
        PackedRows(np.arange(4), {"deep": banded()})
    write_rows(tmp_path, PackedRows(np.arange(5), {"deep": banded()}))
    arrays = banded().arrays()
    arrays.pop("1/scales")
    np.savez(tmp_path / "deep.npz", **arrays)
    with pytest.raises(InputError, match="1/scales"):
        read_rows(tmp_path)


@pytest.mark.parametrize("form", list(Form))
def test_kernels_are_packed_and_come_back_from_their_file(form, tmp_path):
    draw = np.random.default_rng(3)
    weights = {
        "bias": np.float32(0.5).reshape(()),
        "deep/0/kernel": draw.normal(size=(6, 5)).astype(np.float32),
        "deep/out": draw.normal(size=5).astype(np.float32),
    }
    packed = pack_dense(weights, form)
    write_dense(tmp_path / "dense.npz", packed)
    again = read_dense(tmp_path / "dense.npz")
    assert dense_nbytes(again) == dense_nbytes(packed) <= dense_nbytes(weights)
    for name, weight in unpacked(packed).items():
        np.testing.assert_array_equal(unpacked(again)[name], weight)
    np.testing.assert_array_equal(unpacked(again)["deep/out"], weights["deep/out"])
    assert np.abs(unpacked(again)["deep/0/kernel"] - weights["deep/0/kernel"]).max() < 0.3
