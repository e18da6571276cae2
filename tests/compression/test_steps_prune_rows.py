"""Which rows are pruned: by score, ties by key, per table, for some fields."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from step_models import made_state, state_of

from compression.steps.prune_rows import PrunePlan, RowPruning
from compression.steps.settings import PruneRows
from compression.steps.step import read_state
from features.errors import InputError
from training.fit.checkpoints import read_checkpoint
from training.packed.rows import PackedRows, PackedSlab


def score(state, position, by):
    """One row's score, in plain Python."""
    table, stats = state.model.tables[""], state.row_stats[""]
    values = [float(x) for name in table.slabs for x in table.slabs[name].rows()[position]]
    norm = sum(x * x for x in values) ** 0.5
    count, idle = int(stats.counts[position]), int(stats.idle[position])
    return {"norm": norm, "count": count, "weight": norm * count**0.5, "idle": -idle}[by]


def pruned(state, **given):
    step = RowPruning(PruneRows(**given))
    return step.apply(state, step.fit(state))


def keys_of(state):
    return state.model.tables[""].keys.tolist()


@given(st.sampled_from(["norm", "count", "idle", "weight"]), st.floats(0, 1), st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_the_highest_scores_stay_and_of_equal_ones_the_lower_keys(by, keep, seed):
    state = made_state(rows=37, seed=seed)
    order = sorted(range(37), key=lambda i: (-score(state, i, by), keys_of(state)[i]))
    expected = {keys_of(state)[i] for i in order[: round(keep * 37)]}
    assert set(keys_of(pruned(state, by=by, keep=keep))) == expected


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_fewer_rows_are_always_among_more_rows(first, second):
    state = made_state(rows=50)
    low, high = sorted((first, second))
    fewer, more = (set(keys_of(pruned(state, max_rows=rows))) for rows in (low, high))
    assert fewer <= more
    assert len(more) == min(high, 50)


def test_a_threshold_is_of_the_score_itself_and_of_idle_rows_the_most_steps():
    state = made_state()
    kept = pruned(state, by="norm", threshold=1.5)
    assert keys_of(kept) == [
        k for i, k in enumerate(keys_of(state)) if score(state, i, "norm") >= 1.5
    ]
    fresh = pruned(state, by="idle", threshold=4)
    assert keys_of(fresh) == [
        k for i, k in enumerate(keys_of(state)) if state.row_stats[""].idle[i] <= 4
    ]


def test_rows_and_facts_stay_together():
    state = made_state()
    after = pruned(state, by="count", keep=0.4)
    at = [keys_of(state).index(key) for key in keys_of(after)]
    for slab in ("deep", "wide"):
        np.testing.assert_array_equal(
            after.model.tables[""].slabs[slab].rows(), state.model.tables[""].slabs[slab].rows()[at]
        )
    for name in ("counts", "idle", "fields"):
        np.testing.assert_array_equal(
            getattr(after.row_stats[""], name), getattr(state.row_stats[""], name)[at]
        )


def test_only_rows_of_the_named_fields_are_counted_and_go():
    state = made_state()
    of_b = state.row_stats[""].fields == 1
    after = pruned(state, by="weight", keep=0.25, fields=("b",))
    left = np.isin(state.model.tables[""].keys, keys_of(after))
    assert left[~of_b].all()
    assert left[of_b].sum() == round(0.25 * of_b.sum())


def test_a_row_of_nan_stays():
    state = made_state()
    deep = state.model.tables[""].slabs["deep"].rows().copy()
    deep[7] = np.nan
    table = PackedRows(state.model.tables[""].keys, {"deep": PackedSlab.of(deep)})
    broken = replace(state, model=replace(state.model, tables={"": table}))
    assert keys_of(pruned(broken, max_rows=1)) == [keys_of(state)[7]]


def test_nothing_may_be_left_and_everything_may_stay():
    state = made_state()
    assert keys_of(pruned(state, keep=0.0)) == []
    assert keys_of(pruned(state, keep=1.0)) == keys_of(state)
    assert keys_of(pruned(pruned(state, keep=0.0), keep=0.5)) == []


def test_a_plan_survives_json():
    state, step = made_state(), RowPruning(PruneRows(keep=0.3))
    plan = step.fit(state)
    again = PrunePlan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert keys_of(step.apply(state, again)) == keys_of(step.apply(state, plan))


def test_facts_are_those_of_the_checkpoint_by_key(checkpoint):
    arrays = {
        name: np.load(checkpoint / "table" / f"{name}.npy")
        for name in ("keys", "counts", "last_seen", "fields")
    }
    known = {int(k): i for i, k in enumerate(arrays["keys"])}
    state = state_of(checkpoint)
    at = [known[key] for key in keys_of(state)]
    assert len(known) > len(at) > 100
    np.testing.assert_array_equal(state.row_stats[""].counts, arrays["counts"][at])
    np.testing.assert_array_equal(state.row_stats[""].fields, arrays["fields"][at])
    np.testing.assert_array_equal(state.row_stats[""].idle, 1 - arrays["last_seen"][at])


def test_a_compressed_folder_has_no_facts(compressed):
    from compression.model import CompactModel

    with pytest.raises(InputError, match="need the counts of a trained checkpoint"):
        read_state(CompactModel.of(read_checkpoint(compressed)), compressed)


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match=r"prune_rows names \['c'\].*\['a', 'b'\]"):
        pruned(made_state(), keep=0.5, fields=("c",))
    with pytest.raises(ValidationError, match="one limit"):
        PruneRows(by="norm")
    with pytest.raises(ValidationError, match="one limit"):
        PruneRows(keep=0.5, max_rows=3)
