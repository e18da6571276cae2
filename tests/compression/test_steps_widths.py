"""Fewer columns: the best that a projection can do, against NumPy's SVD; bands, zero rows, keys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from step_models import by_key, made_state

from compression.steps.settings import Widths
from compression.steps.widths import WidthReduction, WidthsPlan


def reduced(state, **given):
    step = WidthReduction(Widths(**given))
    plan = step.fit(state)
    return step.apply(state, plan), plan


def best(rows, counts, rank):
    """The rank-r rows that lose least, weighted by counts, from a singular value decomposition."""
    roots = np.sqrt(counts)[:, None]
    u, s, v = np.linalg.svd(roots * rows.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] / roots, float(np.sum(s[:rank] ** 2) / np.sum(s**2))


@given(st.integers(1, 4), st.integers(0, 30))
@settings(deadline=None, max_examples=25)
def test_one_band_is_the_weighted_svd(rank, seed):
    state = made_state(rows=80, seed=seed)
    after, plan = reduced(state, ranks=(rank,))
    expected, energy = best(
        state.model.tables[""].slabs["deep"].rows(), state.row_stats[""].counts, rank
    )
    found = np.array([by_key(after, "deep")[key] for key in state.model.tables[""].keys.tolist()])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert plan.tables[""].energy["deep"][0] == pytest.approx(energy)
    assert after.model.tables[""].slabs["deep"].bands[0].matrix.width == rank


def test_bands_are_cut_by_counts_and_each_has_its_own_svd():
    state = made_state(rows=300)
    after, plan = reduced(state, quantiles=(0.5, 0.9), ranks=(1, 2, 3))
    bands, counts = plan.tables[""], state.row_stats[""].counts
    low, high = bands.cuts
    assert low >= np.quantile(counts, 0.5)
    assert high >= np.quantile(counts, 0.9)
    rows, found = state.model.tables[""].slabs["deep"].rows(), by_key(after, "deep")
    keys = state.model.tables[""].keys
    for band, rank in (
        (counts < low, 1),
        ((counts >= low) & (counts < high), 2),
        (counts >= high, 3),
    ):
        assert band.any()
        got = np.array([found[key] for key in keys[band].tolist()])
        np.testing.assert_allclose(got, best(rows[band], counts[band], rank)[0], atol=2e-5)
    assert bands.rows == (
        int((counts < low).sum()),
        int(((counts >= low) & (counts < high)).sum()),
        int((counts >= high).sum()),
    )


def test_zero_rows_stay_zero_to_the_bit_and_narrow_slabs_as_they_are():
    state = made_state(rows=200)
    after, _ = reduced(state, quantiles=(0.6,), ranks=(1, 2))
    before, found = by_key(state, "deep"), by_key(after, "deep")
    zero = [key for key, row in before.items() if not row.any()]
    assert len(zero) == 20
    assert all(not found[key].any() for key in zero)
    assert {k: v.tolist() for k, v in by_key(after, "wide").items()} == {
        k: v.tolist() for k, v in by_key(state, "wide").items()
    }


def test_facts_follow_their_rows():
    state = made_state(rows=200)
    after, _ = reduced(state, quantiles=(0.6,), ranks=(1, 2))
    before = dict(
        zip(state.model.tables[""].keys.tolist(), state.row_stats[""].counts.tolist(), strict=True)
    )
    assert (
        dict(
            zip(
                after.model.tables[""].keys.tolist(),
                after.row_stats[""].counts.tolist(),
                strict=True,
            )
        )
        == before
    )
    assert after.model.tables[""].keys.tolist() != state.model.tables[""].keys.tolist()


@given(st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=25)
def test_energy_takes_the_fewest_columns_that_hold_it(share):
    state = made_state(rows=80)
    _, plan = reduced(state, energy=share)
    rank = plan.tables[""].ranks["deep"][0]
    rows, counts = state.model.tables[""].slabs["deep"].rows(), state.row_stats[""].counts
    assert best(rows, counts, rank)[1] >= share - 1e-9
    assert rank == 1 or best(rows, counts, rank - 1)[1] < share


def test_equal_counts_leave_bands_empty_and_full_rank_leaves_rows_as_they_are():
    state = made_state(rows=50, counts=np.ones(50))
    after, plan = reduced(state, quantiles=(0.5,), ranks=(2, 6))
    assert plan.tables[""].rows == (0, 50)
    slab = after.model.tables[""].slabs["deep"]
    assert slab.is_plain()  # a projection of full rank would make it larger
    np.testing.assert_array_equal(slab.rows(), state.model.tables[""].slabs["deep"].rows())


def test_a_table_without_rows_stays_one():
    empty = made_state(rows=30).take({"": np.zeros(30, bool)})
    for options in ({"ranks": (2,)}, {"quantiles": (0.5,), "ranks": (1, 2)}, {"energy": 0.9}):
        assert reduced(empty, **options)[0].model.rows == 0


def test_a_plan_survives_json():
    state, step = made_state(), WidthReduction(Widths(quantiles=(0.5,), energy=0.8))
    plan = step.fit(state)
    again = WidthsPlan.model_validate_json(plan.model_dump_json())
    assert again == plan
    first, second = (
        step.apply(state, p).model.tables[""].slabs["deep"].rows() for p in (plan, again)
    )
    assert first.tobytes() == second.tobytes()


def test_wrong_settings_are_refused():
    with pytest.raises(ValidationError, match="`ranks`, `energy` or `price`"):
        Widths()
    with pytest.raises(ValidationError, match="2 quantiles make 3 bands"):
        Widths(quantiles=(0.5, 0.9), ranks=(1, 2))
    with pytest.raises(ValidationError, match="must ascend"):
        Widths(quantiles=(0.9, 0.5), ranks=(1, 2, 3))
