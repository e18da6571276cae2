"""Fewer columns: the best that a projection can do, against NumPy's SVD; bands, zero rows, keys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from step_models import by_key, made_work

from compression.steps.settings import Widths
from compression.steps.widths import WidthReduction, WidthsPlan


def reduced(work, **told):
    step = WidthReduction(Widths(**told))
    plan = step.fit(work)
    return step.apply(work, plan), plan


def best(rows, counts, rank):
    """The rank-r rows that lose least, weighted by counts, from a singular value decomposition."""
    roots = np.sqrt(counts)[:, None]
    u, s, v = np.linalg.svd(roots * rows.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] / roots, float(np.sum(s[:rank] ** 2) / np.sum(s**2))


@given(st.integers(1, 4), st.integers(0, 30))
@settings(deadline=None, max_examples=25)
def test_one_band_is_the_weighted_svd(rank, seed):
    work = made_work(rows=80, seed=seed)
    after, plan = reduced(work, ranks=(rank,))
    expected, energy = best(work.model.tables[""].slabs["deep"].rows(), work.facts[""].counts, rank)
    found = np.array([by_key(after, "deep")[key] for key in work.model.tables[""].keys.tolist()])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert plan.tables[""].energy["deep"][0] == pytest.approx(energy)
    assert after.model.tables[""].slabs["deep"].bands[0].matrix.width == rank


def test_bands_are_cut_by_counts_and_each_has_its_own_svd():
    work = made_work(rows=300)
    after, plan = reduced(work, quantiles=(0.5, 0.9), ranks=(1, 2, 3))
    told, counts = plan.tables[""], work.facts[""].counts
    low, high = told.cuts
    assert low >= np.quantile(counts, 0.5)
    assert high >= np.quantile(counts, 0.9)
    rows, found = work.model.tables[""].slabs["deep"].rows(), by_key(after, "deep")
    keys = work.model.tables[""].keys
    for band, rank in (
        (counts < low, 1),
        ((counts >= low) & (counts < high), 2),
        (counts >= high, 3),
    ):
        assert band.any()
        got = np.array([found[key] for key in keys[band].tolist()])
        np.testing.assert_allclose(got, best(rows[band], counts[band], rank)[0], atol=2e-5)
    assert told.rows == (
        int((counts < low).sum()),
        int(((counts >= low) & (counts < high)).sum()),
        int((counts >= high).sum()),
    )


def test_zero_rows_stay_zero_to_the_bit_and_narrow_slabs_as_they_are():
    work = made_work(rows=200)
    after, _ = reduced(work, quantiles=(0.6,), ranks=(1, 2))
    before, found = by_key(work, "deep"), by_key(after, "deep")
    zero = [key for key, row in before.items() if not row.any()]
    assert len(zero) == 20
    assert all(not found[key].any() for key in zero)
    assert {k: v.tolist() for k, v in by_key(after, "wide").items()} == {
        k: v.tolist() for k, v in by_key(work, "wide").items()
    }


def test_facts_follow_their_rows():
    work = made_work(rows=200)
    after, _ = reduced(work, quantiles=(0.6,), ranks=(1, 2))
    before = dict(
        zip(work.model.tables[""].keys.tolist(), work.facts[""].counts.tolist(), strict=True)
    )
    assert (
        dict(
            zip(after.model.tables[""].keys.tolist(), after.facts[""].counts.tolist(), strict=True)
        )
        == before
    )
    assert after.model.tables[""].keys.tolist() != work.model.tables[""].keys.tolist()


@given(st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=25)
def test_energy_takes_the_fewest_columns_that_hold_it(share):
    work = made_work(rows=80)
    _, plan = reduced(work, energy=share)
    rank = plan.tables[""].ranks["deep"][0]
    rows, counts = work.model.tables[""].slabs["deep"].rows(), work.facts[""].counts
    assert best(rows, counts, rank)[1] >= share - 1e-9
    assert rank == 1 or best(rows, counts, rank - 1)[1] < share


def test_equal_counts_leave_bands_empty_and_full_rank_leaves_rows_as_they_are():
    work = made_work(rows=50, counts=np.ones(50))
    after, plan = reduced(work, quantiles=(0.5,), ranks=(2, 6))
    assert plan.tables[""].rows == (0, 50)
    slab = after.model.tables[""].slabs["deep"]
    assert slab.is_plain()  # a projection of full rank would make it larger
    np.testing.assert_array_equal(slab.rows(), work.model.tables[""].slabs["deep"].rows())


def test_a_table_without_rows_stays_one():
    empty = made_work(rows=30).take({"": np.zeros(30, bool)})
    for told in ({"ranks": (2,)}, {"quantiles": (0.5,), "ranks": (1, 2)}, {"energy": 0.9}):
        assert reduced(empty, **told)[0].model.rows == 0


def test_a_plan_survives_json():
    work, step = made_work(), WidthReduction(Widths(quantiles=(0.5,), energy=0.8))
    plan = step.fit(work)
    again = WidthsPlan.model_validate_json(plan.model_dump_json())
    assert again == plan
    first, second = (
        step.apply(work, p).model.tables[""].slabs["deep"].rows() for p in (plan, again)
    )
    assert first.tobytes() == second.tobytes()


def test_wrong_settings_are_refused():
    with pytest.raises(ValidationError, match="`ranks`, `energy` or `price`"):
        Widths()
    with pytest.raises(ValidationError, match="2 quantiles make 3 bands"):
        Widths(quantiles=(0.5, 0.9), ranks=(1, 2))
    with pytest.raises(ValidationError, match="must ascend"):
        Widths(quantiles=(0.9, 0.5), ranks=(1, 2, 3))
