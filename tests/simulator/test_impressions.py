"""Chunks: bounds, independence, the traffic of the day, the sources of columns."""

from datetime import date
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.impressions import (
    DAY_MS,
    LOG_SCHEMA,
    Chunk,
    LogStream,
    candidate_rows,
    chunks,
    day_start_ms,
    impressions,
    logged_share,
)
from simulator.log import simulate_day
from simulator.settings import SETTINGS_FILE, SimulatorSettings
from simulator.truth import true_probability
from simulator.world import World

DAY = date(2026, 2, 1)
SETTINGS = SimulatorSettings(impressions_per_day=60_000, users=5_000, items=500)


@pytest.fixture(scope="module")
def world():
    return World(SETTINGS)


@given(total=st.integers(1, 10_000_000), size=st.integers(1_000, 1_000_000))
def test_chunks_cover_the_day_without_gap_or_overlap(total, size):
    parts = chunks(SimulatorSettings(impressions_per_day=total, chunk_rows=size))
    assert [p.index for p in parts] == list(range(len(parts)))
    assert [p.start for p in parts] == [0, *np.cumsum([p.rows for p in parts])[:-1]]
    assert sum(p.rows for p in parts) == total
    assert all(1 <= p.rows <= size for p in parts)


def test_a_chunk_does_not_depend_on_the_ones_before(world):
    parts = chunks(SETTINGS.model_copy(update={"chunk_rows": 10_000}))
    alone = impressions(World(SETTINGS), DAY, parts[3])
    for part in parts[:3]:
        impressions(world, DAY, part)
    assert impressions(world, DAY, parts[3]).equals(alone)


def test_chunks_are_drawn_independently(world):
    one, two = (
        impressions(world, DAY, Chunk(i, i * 10_000, 10_000))["user_id"].to_numpy() for i in (0, 1)
    )
    assert abs(np.corrcoef(np.argsort(one), np.argsort(two))[0, 1]) < 0.05
    assert (one == two).mean() < 0.01


def test_traffic_is_least_at_midnight_and_most_at_noon(world):
    times = impressions(world, DAY, Chunk(0, 0, 60_000))["timestamp_ms"].to_numpy() - day_start_ms(
        DAY
    )
    counts = np.bincount(times // 3_600_000, minlength=24)
    hours = np.arange(25) / 24
    traffic = hours - 0.6 / (2 * np.pi) * np.sin(2 * np.pi * hours)
    np.testing.assert_allclose(counts, 60_000 * np.diff(traffic), atol=3)
    assert counts.argmin() in (0, 23)
    assert counts.argmax() in (11, 12)
    assert times.min() >= 0
    assert times.max() < DAY_MS


def test_ids_are_readable_and_late_ones_are_apart(world):
    own, late = (
        impressions(world, DAY, Chunk(1, 200, 3), stream)["impression_id"].to_pylist()
        for stream in LogStream
    )
    assert own == [202602010000000200, 202602010000000201, 202602010000000202]
    assert late == [202602015000000200, 202602015000000201, 202602015000000202]


def test_the_random_buckets_propensity_is_one_over_the_candidates(world):
    frame = impressions(world, DAY, Chunk(0, 0, 60_000)).to_pandas()
    control = frame[frame.policy == "random"]
    assert len(control) / len(frame) == pytest.approx(SETTINGS.random_share, abs=0.005)
    assert set(control.propensity) == {1 / SETTINGS.policy.candidates}
    logged = frame[frame.policy == "logged"].propensity
    assert logged.min() >= SETTINGS.policy.exploration / SETTINGS.policy.candidates
    assert logged.max() <= 1
    assert logged.mean() > 1.5 / SETTINGS.policy.candidates


@pytest.mark.parametrize(("share", "bucket"), [(0.0, {"logged"}), (1.0, {"random"})])
def test_a_bucket_may_be_empty(share, bucket):
    settings = SETTINGS.model_copy(update={"random_share": share})
    assert (
        set(impressions(World(settings), DAY, Chunk(0, 0, 2_000))["policy"].to_pylist()) == bucket
    )


def test_prices_are_null_in_the_share_asked_for():
    settings = SETTINGS.model_copy(update={"null_price_share": 0.25})
    prices = impressions(World(settings), DAY, Chunk(0, 0, 20_000))["price"]
    assert prices.null_count / 20_000 == pytest.approx(0.25, abs=0.015)


def test_smallest_world():
    tiny = SimulatorSettings(
        impressions_per_day=1,
        users=1,
        items=8,
        new_items_per_day=0,
        categories=1,
        advertisers=1,
        latent_dim=1,
    )
    table = impressions(World(tiny), tiny.first_day, chunks(tiny)[0])
    assert table.schema.equals(LOG_SCHEMA)
    assert (table["user_id"].to_pylist(), len(table)) == ([0], 1)


def test_noise_columns_come_last_and_change_nothing_else():
    plain = SimulatorSettings(users=100, items=50)
    noisy = plain.model_copy(update={"noise": (3, 1_000_000)})
    day, chunk = date(2026, 1, 1), Chunk(0, 0, 5_000)
    table = impressions(World(noisy), day, chunk)
    assert table.column_names == [*LOG_SCHEMA.names, "noise_0", "noise_1"]
    assert table.select(LOG_SCHEMA.names).equals(impressions(World(plain), day, chunk))
    few, many = (table[name].to_numpy() for name in ("noise_0", "noise_1"))
    assert set(few) == {0, 1, 2}
    assert len(set(many)) > 4_950
    # Without an effect: the click rate is the same for each value, up to chance.
    click = table["click"].to_numpy()
    rates = [click[few == value].mean() for value in range(3)]
    assert np.ptp(rates) < 6 * np.sqrt(click.var() / (5_000 / 3))


def test_candidates_have_their_true_probabilities_and_are_other_visits_than_the_logs(world):
    drawn = candidate_rows(world, DAY, 5000)
    lanes = SETTINGS.policy.candidates
    assert drawn.table.num_rows == 5000 * lanes
    assert drawn.probability.shape == (5000, lanes)
    truth = true_probability(SETTINGS, drawn.table)
    assert np.array_equal(truth, drawn.probability.ravel())
    # All candidates of a visit are of one user at one time, and distinct.
    for name in ("user_id", "timestamp_ms", "slot", "position"):
        column = drawn.table[name].to_pandas().to_numpy().reshape(5000, lanes)
        assert (column == column[:, :1]).all()
    items = np.sort(drawn.table["item_id"].to_numpy().reshape(5000, lanes), axis=1)
    assert (np.diff(items, axis=1) > 0).all()
    log = impressions(world, DAY, Chunk(0, 0, 5000))
    assert (drawn.table["user_id"].to_numpy()[::lanes] == log["user_id"].to_numpy()).mean() < 0.01
    assert set(drawn.table.column_names) == set(log.column_names) - {
        "impression_id",
        "policy",
        "propensity",
        "click",
    }
    assert candidate_rows(world, DAY, 5000).table.equals(drawn.table)


def test_candidates_are_spread_over_the_whole_day(world):
    times = candidate_rows(world, DAY, 2400).table["timestamp_ms"].to_numpy() - day_start_ms(DAY)
    assert set(times // 3_600_000) == set(range(24))


def test_without_delays_the_log_and_its_settings_keep_their_bytes(tmp_path):
    """The digests are of the simulator before it knew delays."""
    settings = SimulatorSettings(impressions_per_day=5_000, users=100, items=50, noise=(3,))
    files = simulate_day(settings, date(2026, 1, 2), tmp_path).files
    table = pq.read_table(files[0])
    # Other processors may round the last bit of the other columns differently.
    names = [f.name for f in table.schema if not pa.types.is_floating(f.type)]
    content = repr([table[name].to_pylist() for name in names])
    assert sha256(content.encode()).hexdigest()[:16] == "348ef31d5be46e38"
    assert (
        sha256((files[0].parent / SETTINGS_FILE).read_bytes()).hexdigest()[:16]
        == "2c91d2d0cd01e970"
    )


def test_late_clicks_are_missing_from_the_log_and_change_nothing_else():
    plain = SimulatorSettings(
        impressions_per_day=200_000, users=100, items=50, noise=(3,), base_ctr=0.3
    )
    delayed = plain.model_copy(update={"click_delay_s": 7_200.0})
    settled = delayed.model_copy(update={"log_delay_s": 86_400.0})
    chunk = Chunk(0, 0, 200_000)
    true, late, later = (impressions(World(each), DAY, chunk) for each in (plain, delayed, settled))
    assert late.drop_columns("click").equals(true.drop_columns("click"))
    clicks, seen, more = (each["click"].to_numpy() for each in (true, late, later))
    # A log that is written later has all clicks of an earlier one, and both have only true ones.
    assert (seen <= more).all()
    assert (more <= clicks).all()
    assert seen.sum() < more.sum() < clicks.sum()
    # By hour: 1 / (1 + median / time left), by hand.
    hour = late["timestamp_ms"].to_numpy() % DAY_MS // 3_600_000
    for settings, found, wait_h in ((delayed, seen, 0), (settled, more, 24)):
        for each in (0, 12, 22, 23):
            left_h = 24 - (each + np.linspace(0, 1, 1_001)) + wait_h
            share = (left_h / (left_h + 2)).mean()
            among = clicks[hour == each].sum()
            error = np.sqrt(share * (1 - share) / among)
            assert abs(found[hour == each].sum() / among - share) < 4 * error
            times = late["timestamp_ms"].to_numpy()[hour == each]
            assert logged_share(settings, times).mean() == pytest.approx(share, abs=0.01)


def test_the_truth_of_delayed_clicks_is_known():
    """Both of a click at any time and of one in the log."""
    settings = SimulatorSettings(impressions_per_day=100_000, click_delay_s=20_000, base_ctr=0.3)
    table = impressions(World(settings), DAY, Chunk(0, 0, 100_000))
    truth = true_probability(settings, table)
    chance = truth * logged_share(settings, table["timestamp_ms"].to_numpy())
    clicks = table["click"].to_numpy()
    error = np.sqrt((chance * (1 - chance)).sum())
    assert abs(clicks.sum() - chance.sum()) < 4 * error
    assert truth.sum() > chance.sum() + 50 * error
    always = SimulatorSettings(impressions_per_day=100_000, base_ctr=0.3)
    np.testing.assert_array_equal(true_probability(always, table), truth)
    assert (logged_share(always, table["timestamp_ms"].to_numpy()) == 1).all()
