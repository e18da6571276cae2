"""Negatives of a log of clicks: the stated rule, checked draw by draw on a random log."""

import random
from collections import Counter, defaultdict
from datetime import UTC, date, datetime

import pandas as pd
import pytest

from features.errors import InputError
from features.schema import Categorical, Schema, Timestamp
from spark_jobs.ingest import ingest
from spark_jobs.negatives import SLOTS
from spark_jobs.settings import Negatives, Source

pytestmark = pytest.mark.spark

DAY = date(2017, 10, 2)
START = int(datetime(2017, 10, 2, tzinfo=UTC).timestamp() * 1000)
SLOT_MS = 5 * 60_000
RULE = Negatives(per_click=3, window_minutes=60, session="session", seed=11)
SCHEMA = Schema(
    label="click",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(Categorical(name="region"),),
    extras=("session", "n"),
)


def clicks(count: int = 400) -> pd.DataFrame:
    """Sessions of a few clicks over the last two hours of a day and the first six of the next."""
    dice = random.Random(7)
    rows = []
    while len(rows) < count:
        session, user, ts = (
            len(rows),
            dice.randrange(60),
            START + dice.randrange(-2 * 3_600_000, 6 * 3_600_000),
        )
        for item in dice.sample(range(1, 41), dice.randrange(1, 6)):
            ts += dice.randrange(1000, 240_000)
            rows.append(
                (user, session, item if item < 40 else None, ts, dice.randrange(5), len(rows))
            )
    return pd.DataFrame(rows, columns=["user", "session", "item", "ts", "region", "n"]).astype(
        {"item": "Int64"}
    )


@pytest.fixture(scope="module")
def drawn(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    log = clicks()
    log.to_parquet(folder / "clicks.parquet", index=False)
    report = ingest(
        spark, Source(path=str(folder / "clicks.parquet"), negatives=RULE), SCHEMA, DAY, folder
    )
    return report, log, pd.read_parquet(folder / "impressions")


def allowed_items(log: pd.DataFrame, click: object) -> set[int]:
    """The items of the twelve slots before the click's own, without those of its session."""
    slot = click.ts // SLOT_MS
    window = log[(log.ts // SLOT_MS >= slot - SLOTS) & (log.ts // SLOT_MS < slot)]
    near = log[(log.ts >= START - 13 * SLOT_MS) & (log.ts < START + 86_400_000)]
    return set(window.item.dropna()) - set(near[near.session == click.session].item.dropna())


def test_each_click_gets_its_negatives_from_the_window_and_not_from_its_session(drawn):
    _, log, found = drawn
    negatives = {n: group for n, group in found[found.label == 0].groupby("n")}
    day = log[(log.ts >= START) & log.item.notna()]
    for click in day.itertuples():
        allowed = allowed_items(log, click)
        items = [int(item) for item in negatives[click.n].item] if click.n in negatives else []
        assert len(items) == len(set(items)) == min(RULE.per_click, len(allowed)), click
        assert set(items) <= allowed, click
    assert set(negatives) <= set(day.n) | set(log[log.item.isna()].n)


def test_clicks_keep_label_one_and_negatives_take_their_context(drawn):
    report, log, found = drawn
    day = log[(log.ts >= START) & log.item.notna()].set_index("n")
    assert sorted(found[found.label == 1].n) == sorted(day.index)
    assert report.reasons["item"] == ((log.ts >= START) & log.item.isna()).sum() > 0
    joined = found[found.n.isin(day.index)].join(day, on="n", rsuffix="_click")
    assert (joined.timestamp_ms == joined.ts).all()
    assert (joined.region == joined.region_click.astype(str)).all()
    assert (joined.user == joined.user_click.astype(str)).all()


def test_draws_are_about_uniform_over_the_window(drawn):
    _, log, found = drawn
    chosen, chances = Counter(), defaultdict(float)
    for click in log[(log.ts >= START + 3_600_000) & log.item.notna()].itertuples():
        allowed = allowed_items(log, click)
        for item in allowed:
            chances[item] += min(RULE.per_click, len(allowed)) / len(allowed)
        chosen.update(int(item) for item in found[(found.label == 0) & (found.n == click.n)].item)
    total = sum(chances.values())
    assert sum(chosen.values()) == pytest.approx(total)
    assert sum(abs(chosen[item] - chances[item]) for item in chances) < 0.35 * total


def test_the_same_seed_draws_the_same_from_files_by_day_and_another_seed_does_not(
    spark, drawn, tmp_path
):
    _, log, found = drawn
    by_day = {
        "2017-10-01": log[log.ts < START],
        "2017-10-02": log[log.ts >= START].sample(frac=1, random_state=1),
    }
    for name, part in by_day.items():
        part.to_parquet(tmp_path / f"{name}.parquet", index=False)
    source = Source(path=f"{tmp_path}/{{date}}.parquet", partition="path", negatives=RULE)
    (tmp_path / "out").mkdir()
    ingest(spark, source, SCHEMA, DAY, tmp_path / "out")
    again = pd.read_parquet(tmp_path / "out" / "impressions")
    pd.testing.assert_frame_equal(again, found)
    other = source.model_copy(update={"negatives": RULE.model_copy(update={"seed": 12})})
    ingest(spark, other, SCHEMA, DAY, tmp_path / "out")
    reseeded = pd.read_parquet(tmp_path / "out" / "impressions")
    assert set(reseeded[reseeded.label == 1].record_id) == set(found[found.label == 1].record_id)
    assert set(reseeded.record_id) != set(found.record_id)


def test_a_log_that_has_labels_is_refused(spark, tmp_path):
    clicks(5).assign(click=1).to_parquet(tmp_path / "clicks.parquet", index=False)
    with pytest.raises(InputError, match="`negatives` are for logs of clicks only"):
        ingest(
            spark,
            Source(path=str(tmp_path / "clicks.parquet"), negatives=RULE),
            SCHEMA,
            DAY,
            tmp_path,
        )
    rule = RULE.model_copy(update={"session": "visit"})
    with pytest.raises(InputError, match=r"no column 'visit' \(for `negatives\.session`\)"):
        ingest(
            spark,
            Source(path=str(tmp_path / "clicks.parquet"), negatives=rule),
            SCHEMA,
            DAY,
            tmp_path,
        )
