"""The truth is what the labels were drawn from."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.errors import InputError
from simulator.impressions import Chunk, chunks, impressions
from simulator.settings import EffectSettings, ShiftedCtr, SimulatorSettings
from simulator.truth import TRUTH_COLUMNS, true_probability
from simulator.world import World

DAY = date(2026, 1, 5)
SETTINGS = SimulatorSettings(impressions_per_day=300_000, random_share=0.2, chunk_rows=100_000)


@pytest.fixture(scope="module")
def table():
    world = World(SETTINGS)
    return pa.concat_tables(impressions(world, DAY, chunk) for chunk in chunks(SETTINGS))


@pytest.fixture(scope="module")
def truth(table):
    return true_probability(SETTINGS, table)


def test_clicks_are_as_many_as_the_truth_says(table, truth):
    sigma = np.sqrt((truth * (1 - truth)).sum())
    assert abs(table["click"].to_numpy().sum() - truth.sum()) < 4 * sigma


def test_the_truth_is_calibrated_in_every_decile(table, truth):
    clicks, order = table["click"].to_numpy(), np.argsort(truth)
    for rows in np.array_split(order, 10):
        sigma = np.sqrt((truth[rows] * (1 - truth[rows])).sum())
        assert abs(clicks[rows].sum() - truth[rows].sum()) < 4 * sigma


def test_the_truth_spreads_so_that_there_is_something_to_learn(table, truth):
    clicks = table["click"].to_numpy().astype(bool)
    order = np.argsort(np.argsort(truth))
    positives, negatives = clicks.sum(), (~clicks).sum()
    auc = (order[clicks].sum() - positives * (positives - 1) / 2) / (positives * negatives)
    assert 0.7 < auc < 0.9


def test_inverse_propensity_weights_recover_the_random_policys_ctr(table, truth):
    clicks, chances = table["click"].to_numpy(), table["propensity"].to_numpy()
    is_random = pc.equal(table["policy"], "random").to_numpy()
    weighted = (clicks / SETTINGS.policy.candidates / chances)[~is_random]
    control = clicks[is_random]
    error = np.hypot(weighted.std() / np.sqrt(len(weighted)), control.std() / np.sqrt(len(control)))
    assert abs(weighted.mean() - control.mean()) < 4 * error
    assert clicks[~is_random].mean() > control.mean() + 10 * error
    assert truth[~is_random].mean() > 1.3 * truth[is_random].mean()


def test_weights_average_to_one(table):
    logged = table.filter(pc.equal(table["policy"], "logged"))
    weights = 1 / SETTINGS.policy.candidates / logged["propensity"].to_numpy()
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / np.sqrt(len(weights)))


@pytest.mark.parametrize("part", list(EffectSettings.model_fields))
def test_where_one_effect_makes_the_truth_certain_every_label_agrees_with_it(part):
    effects = SETTINGS.effects.model_copy(update={part: 500.0})
    certain = SETTINGS.model_copy(
        update={"effects": effects, "drift_per_day": 0.4, "base_ctr": 0.5}
    )
    table = impressions(World(certain), DAY, Chunk(1, 20_000, 20_000))
    truth, clicks = true_probability(certain, table), table["click"].to_numpy()
    sure = (truth < 1e-9) | (truth > 1 - 1e-9)
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(clicks[sure], np.round(truth[sure]))


def test_the_truth_of_a_record_does_not_depend_on_the_others_or_their_order(table, truth):
    rows = np.random.default_rng(0).permutation(len(table))[:1_000]
    np.testing.assert_array_equal(
        true_probability(SETTINGS, table.take(pa.array(rows))), truth[rows]
    )


def test_text_columns_as_ingest_writes_them_give_the_same_truth(table, truth):
    head = table.select(TRUTH_COLUMNS).slice(0, 500)
    texts = pa.table({n: head[n].cast(pa.string()) for n in TRUTH_COLUMNS})
    np.testing.assert_array_equal(true_probability(SETTINGS, texts), truth[:500])


def test_days_are_told_apart_by_the_timestamp(table):
    tomorrow = impressions(World(SETTINGS), date(2026, 1, 6), Chunk(0, 0, 1_000))
    both = true_probability(SETTINGS, pa.concat_tables([table.slice(0, 1_000), tomorrow]))
    np.testing.assert_array_equal(both[1_000:], true_probability(SETTINGS, tomorrow))
    moved = tomorrow.set_column(
        1, "timestamp_ms", pc.subtract(tomorrow["timestamp_ms"], 10 * 86_400_000)
    )
    assert np.abs(true_probability(SETTINGS, moved) - both[1_000:]).max() > 0.01


def test_a_shifted_day_is_known_to_the_truth(table, truth):
    shifted = SETTINGS.model_copy(update={"faults": (ShiftedCtr(logit_shift=1.0, days=(DAY,)),)})
    odds = truth / (1 - truth) * np.e
    np.testing.assert_allclose(true_probability(shifted, table), odds / (1 + odds), rtol=1e-9)


def test_no_record_gives_no_truth(table):
    assert true_probability(SETTINGS, table.slice(0, 0)).shape == (0,)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("slot", ["basement"], r"'slot' is none of \['feed_top'.* row 0"),
        ("timestamp_ms", ["yesterday"], "'timestamp_ms' has a value that is not an integer"),
        ("user_id", [None], r"'user_id' is null in row 0 \(1 such rows\)"),
        ("position", [7], "'position' is not from 1 to 6"),
    ],
)
def test_what_the_simulator_cannot_know_is_refused(table, name, values, message):
    broken = table.slice(0, 1).set_column(table.column_names.index(name), name, pa.array(values))
    with pytest.raises(InputError, match=message):
        true_probability(SETTINGS, broken)


def test_a_missing_column_is_named(table):
    with pytest.raises(InputError, match="column 'device' is not in the table"):
        true_probability(SETTINGS, table.drop_columns("device"))
