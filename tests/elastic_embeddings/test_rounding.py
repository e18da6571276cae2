"""16-bit storage: all bit patterns, all random bits, steps smaller than half a spacing."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from optimizer_executions import HostRows, RowBatch, batches

from elastic_embeddings.core.native import compiled
from elastic_embeddings.optimizers.row_storage import (
    decode,
    encode,
    key_stream,
    narrow_bfloat16,
    narrow_float16,
    random_bits,
    rounding_salt,
    storage_dtype,
    widen_bfloat16,
    widen_float16,
)
from elastic_embeddings.optimizers.rules import GroupAdagrad, GroupAdam

KINDS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
EVERY_NOISE = np.arange(1 << 16, dtype=np.uint32)
EVERY_PATTERN = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


@compiled
def _narrow_bfloat16(values, noise, out):
    for i in range(len(out)):
        out[i] = narrow_bfloat16(values[i], noise[i])


@compiled
def _narrow_float16(values, noise, out):
    for i in range(len(out)):
        out[i] = narrow_float16(values[i], noise[i])


@compiled
def _widen_bfloat16(bits, out):
    for i in range(len(out)):
        out[i] = widen_bfloat16(bits[i])


@compiled
def _widen_float16(bits, out):
    for i in range(len(out)):
        out[i] = widen_float16(bits[i])


@compiled
def _draws(salt, rows, columns, out):
    for r in range(rows):
        for c in range(columns):
            out[r, c] = random_bits(key_stream(salt, r), c)


def narrow(values, noise, kind):
    values = np.broadcast_to(np.asarray(values, np.float32), noise.shape)
    out = np.empty(noise.shape, np.uint16)
    {"bfloat16": _narrow_bfloat16, "float16": _narrow_float16}[kind](
        np.ascontiguousarray(values), noise, out
    )
    return out


def widen(bits, kind):
    out = np.empty(bits.shape, np.float32)
    {"bfloat16": _widen_bfloat16, "float16": _widen_float16}[kind](bits, out)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_pattern_is_read_as_what_it_stands_for(kind):
    np.testing.assert_array_equal(
        widen(EVERY_PATTERN, kind), EVERY_PATTERN.view(KINDS[kind]).astype(np.float32)
    )
    np.testing.assert_array_equal(
        decode(EVERY_PATTERN, kind), EVERY_PATTERN.view(KINDS[kind]).astype(np.float32)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0, 1, 30_000, 65_535])
def test_representable_values_are_written_exactly_whatever_the_draw(kind, noise):
    values = widen(EVERY_PATTERN, kind)
    written = narrow(values, np.full(len(values), noise, np.uint32), kind)
    np.testing.assert_array_equal(np.isnan(widen(written, kind)), np.isnan(values))
    known = ~np.isnan(values)
    np.testing.assert_array_equal(written[known], EVERY_PATTERN[known])


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_all_draws_is_the_value_itself(kind):
    """Exactly if as many random bits are used as dropped; else within 2^-16 of a spacing."""
    rng = np.random.default_rng(1)
    for value in np.float32(rng.normal(0, 1, 40) * 10.0 ** rng.uniform(-4, 3, 40)):
        written = widen(narrow(value, EVERY_NOISE, kind), kind).astype(np.float64)
        assert len(np.unique(written)) <= 2
        assert written.mean() == pytest.approx(float(value), rel=1e-12)
    for value in np.float32(rng.uniform(-6e-5, 6e-5, 20)) if kind == "float16" else ():
        assert widen(narrow(value, EVERY_NOISE, kind), kind).astype(
            np.float64
        ).mean() == pytest.approx(value, abs=2.0**-40)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_values_never_become_infinite(kind):
    largest = np.finfo(np.float32).max
    for value in (largest, -largest, float(ml_dtypes.finfo(KINDS[kind]).max) * 1.0001):
        assert np.isfinite(widen(narrow(value, EVERY_NOISE, kind), kind)).all()
        assert np.isfinite(decode(encode(np.float32([value]), kind), kind)).all()
    for value in (np.inf, -np.inf):
        assert (widen(narrow(value, EVERY_NOISE[:4], kind), kind) == value).all()


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_is_to_nearest_and_decoding_its_inverse(kind):
    values = np.float32(np.random.default_rng(2).normal(0, 1, 1000))
    stored = encode(values, kind)
    assert stored.dtype == storage_dtype(kind) == np.uint16
    np.testing.assert_array_equal(stored, values.astype(KINDS[kind]).view(np.uint16))
    np.testing.assert_array_equal(encode(decode(stored, kind), kind), stored)


def test_float32_is_stored_as_it_is():
    values = np.float32([[1.1, -2.2]])
    assert storage_dtype("float32") == np.float32
    np.testing.assert_array_equal(decode(encode(values, "float32"), "float32"), values)


def test_draws_are_uniform_and_differ_by_row_column_step_and_seed():
    draws = {}
    for seed, step in ((1, 1), (1, 2), (2, 1), (-1, 1)):
        draws[seed, step] = np.empty((500, 64), np.uint32)
        _draws(rounding_salt(seed, step), 500, 64, draws[seed, step])
    first = draws[1, 1]
    buckets = np.bincount(first.ravel() >> 10, minlength=64)
    chi_square = ((buckets - 500) ** 2 / 500).sum()
    assert (
        30 < chi_square < 110
    )  # 63 degrees of freedom: outside once in 5,000 seeds, and the seed is fixed
    assert np.abs(np.corrcoef(first.T) - np.eye(64)).max() < 0.25
    for other in draws.values():
        assert other is first or (other == first).mean() < 0.001


def alike_rows(storage, seed=3, rows=4000, steps=150):
    """Rows that all learn the same gradient, in steps of about 1/40 of bfloat16's spacing at 1."""
    optimizer = GroupAdam(1e-4)
    table = HostRows(optimizer, np.ones((rows, 4), np.float32), storage, seed)
    places = np.arange(1, rows + 1, dtype=np.int32)
    ones = np.ones((rows, 4), np.float32)
    for t in range(1, steps + 1):
        table.learn(RowBatch(places, places - 1, ones, np.full(rows, t, np.int32)), t)
    return table.weights[1:]


@pytest.mark.slow
def test_steps_below_half_a_spacing_add_up_in_bfloat16():
    """Rounding to nearest would leave every weight at 1."""
    exact, stored = alike_rows("float32"), alike_rows("bfloat16")
    assert exact[0, 0] == pytest.approx(1 - 150e-4, abs=1e-4)
    assert stored.mean() == pytest.approx(float(exact.mean()), abs=1e-3)
    assert 0 < stored.std() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "optimizer"), [("bfloat16", GroupAdam(0.02)), ("float16", GroupAdagrad(0.05))]
)
def test_a_16_bit_slab_learns_as_a_float32_one_within_its_precision(storage, optimizer):
    """Adam's second moments underflow in float16, so float16 is tested with Adagrad."""
    rng = np.random.default_rng(4)
    start = rng.uniform(-0.3, 0.3, (100, 4)).astype(np.float32)
    optimizer = replace(optimizer, l21=0.05)
    wide, narrow_ = HostRows(optimizer, start), HostRows(optimizer, start, storage)
    for t, batch in enumerate(batches(rng, 100, 4, 100), start=1):
        wide.learn(batch, t)
        narrow_.learn(batch, t)
    error = np.abs(narrow_.weights - wide.weights)
    assert error.mean() < 0.1 * np.abs(wide.weights).mean()
    assert not narrow_.stored[0][0].any()


def test_rounding_does_not_depend_on_how_a_batch_is_cut_but_on_the_seed():
    rng = np.random.default_rng(5)
    start = rng.uniform(-0.3, 0.3, (300, 4)).astype(np.float32)
    optimizer = replace(GroupAdam(0.02), l21=0.05)
    runs = [
        HostRows(optimizer, start, "bfloat16", seed, ranges)
        for seed, ranges in ((1, 1), (1, 5), (2, 1))
    ]
    for t, batch in enumerate(batches(rng, 300, 4, 10), start=1):
        for each in runs:
            each.learn(batch, t)
    same, other = runs[1], runs[2]
    for mine, its in zip(runs[0].stored, same.stored, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert (runs[0].stored[0] != other.stored[0]).mean() > 0.05
