"""A day as a stream: hour by hour, sampled or weighted; what is scored and trained on, and when."""

import hashlib
import math
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from training_data import (
    DAY_MS,
    MODEL,
    SCHEMA,
    TRAINING,
    array_bytes,
    planted_day,
    read_json,
    write_impressions,
)

from features.errors import InputError
from features.schema import Schema
from training.data.examples import read_examples
from training.data.inputs import Featurizer
from training.data.scalers import Scaler
from training.fit.checkpoints import read_checkpoint
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.score_then_train import DayStream, local_hours, score_then_train
from training.fit.trainer import TrainRequest, train_day

pytestmark = pytest.mark.slow

HOURLY = TRAINING.model_copy(update={"learn_by": "hour"})
HOUR_MS = DAY_MS // 24
WEIGHED = Schema.model_validate(SCHEMA.model_dump() | {"extras": ["trust"]})


def request(partition, training=TRAINING, **changes):
    return replace(TrainRequest(SCHEMA, MODEL, training, (), partition), **changes)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    return [planted_day(folder / str(day), day) for day in range(2)]


@pytest.fixture(scope="module")
def first(days, tmp_path_factory):
    """The first day's checkpoint, learned as a whole."""
    out = tmp_path_factory.mktemp("first") / "checkpoint"
    train_day(request(days[0]), out)
    return out


@pytest.fixture(scope="module")
def second_request(days, first):
    return request(days[1], HOURLY, previous_partition=days[0], previous_checkpoint=first)


@pytest.fixture(scope="module")
def second(second_request, tmp_path_factory):
    """The second day's checkpoint and figures, learned hour by hour, and the progress reports."""
    out, reports = tmp_path_factory.mktemp("second") / "checkpoint", []
    return out, train_day(second_request, out, reports.append), reports


def hours_of(out):
    return {hour["hour"]: hour for hour in read_json(out / "progressive.json")["hours"]}


def rewritten(source, target, **columns):
    """A copy of a partition with other columns."""
    frame = pd.read_parquet(source / "impressions")
    return write_impressions(target, frame.assign(**columns).to_dict("list"))


def relabelled(source, target, chosen):
    """A copy of a partition with the labels inverted where `chosen` (of hour and row) is true."""
    frame = pd.read_parquet(source / "impressions")
    hour = frame["timestamp_ms"].to_numpy() % DAY_MS // HOUR_MS
    label = frame["label"].to_numpy()
    return rewritten(
        source, target, label=np.where(chosen(hour, np.arange(len(frame))), 1 - label, label)
    )


def test_the_first_day_scores_all_but_its_first_hour(days, tmp_path):
    figures = train_day(request(days[0], HOURLY), tmp_path / "out")
    hours = hours_of(tmp_path / "out")
    assert sorted(hours) == list(range(24))
    assert (hours[0]["scored"], hours[0]["auc"]) == (0, None)
    assert all(hours[h]["scored"] == hours[h]["rows"] for h in range(1, 24))
    assert sum(hour["rows"] for hour in hours.values()) == figures["rows"] == 1200
    assert (
        0.5 < figures["auc_progressive"] < figures["auc"]
    )  # later hours know more than the first ones


def test_learned_as_a_whole_the_first_day_scores_nothing(first):
    assert all(hour["scored"] == 0 for hour in hours_of(first).values())
    assert (first / "plots" / "progressive.png").stat().st_size > 10_000


def test_the_figures_of_the_day_are_those_of_its_hours(second):
    hours, figures = hours_of(second[0]), second[1]
    assert read_json(second[0] / "progressive.json")["learn_by"] == "hour"
    losses = [hour["log_loss"] * hour["scored"] for hour in hours.values()]
    assert sum(losses) / 1200 == pytest.approx(figures["log_loss_progressive"], rel=1e-6)


def test_the_first_hour_is_scored_by_the_model_of_the_day_before(second, second_request, tmp_path):
    """The first hour is as in training by day; from the second hour on the scores differ."""
    train_day(replace(second_request, training=TRAINING), tmp_path / "whole")
    by_hour, whole = hours_of(second[0]), hours_of(tmp_path / "whole")
    assert by_hour[0] == pytest.approx(
        whole[0], rel=1e-6
    )  # batches of other sizes differ in the last bits
    assert all(
        by_hour[h]["log_loss"] != pytest.approx(whole[h]["log_loss"], rel=1e-4)
        for h in range(1, 24)
    )


@pytest.mark.parametrize("hour", [0, 9])
def test_an_hour_is_scored_before_it_is_learned_and_after_those_before(
    hour, second, second_request, days, tmp_path
):
    """Labels inverted from an hour on: earlier figures stay, its own are mirrored."""
    flipped = relabelled(days[1], tmp_path / "day", lambda h, _: h >= hour)
    train_day(replace(second_request, partition=flipped), tmp_path / "out")
    ours, theirs = hours_of(tmp_path / "out"), hours_of(second[0])
    assert all(ours[h] == theirs[h] for h in range(hour))
    assert ours[hour]["auc"] == pytest.approx(1 - theirs[hour]["auc"], abs=1e-12)
    assert ours[hour + 1]["auc"] != pytest.approx(1 - theirs[hour + 1]["auc"], abs=1e-12)


# Mutant M18 of the audit: every hour was scored with the scalers of the day before.
@pytest.mark.covers("audit-M18")
def test_hours_after_the_first_are_scored_with_the_scalers_of_the_day(days):
    """The model has been trained on them since its first training of the day."""
    examples = read_examples(days[1], SCHEMA)
    config = LearnerConfig(SCHEMA, MODEL, HOURLY, ())
    before, today = (Featurizer(SCHEMA, (), {"price": Scaler(*s)}, {}) for s in ((5, 0.2), (1, 2)))
    first_hour = int(np.sum(local_hours(examples.timestamp_ms, SCHEMA.timezone) == 0))
    second_hour = examples.slice(first_hour, first_hour + 40)

    def learners_after(rows):
        """Train on the first rows, hour by hour; return the learners and the scores before."""
        learners = ModelAndBaseline.new(config)
        stream = DayStream(examples.slice(0, rows), rows, before, today, HOURLY)
        return learners, score_then_train(learners, stream, None).progressive

    _, progressive = learners_after(first_hour + 40)
    learners, first = learners_after(first_hour)
    ours, yesterdays = (
        learners.model.predict(featurizer.inputs(second_hour)) for featurizer in (today, before)
    )
    assert not np.allclose(ours, yesterdays, atol=1e-4)
    np.testing.assert_allclose(progressive[first_hour:], ours, atol=1e-7)
    # The first hour is scored as the model was trained the day before.
    untrained = ModelAndBaseline.new(config).model
    expected = untrained.predict(before.inputs(examples.slice(0, first_hour)))
    np.testing.assert_allclose(first, expected, atol=1e-7)


def test_the_heldout_slice_is_scored_and_not_learned(second, second_request, days, tmp_path):
    flipped = relabelled(days[1], tmp_path / "day", lambda _, row: row >= 960)
    train_day(replace(second_request, partition=flipped), tmp_path / "out")
    for name, theirs in read_checkpoint(second[0]).vectors.items():
        np.testing.assert_array_equal(read_checkpoint(tmp_path / "out").vectors[name], theirs)
    ours, theirs = (pq.read_table(out / "heldout.parquet") for out in (tmp_path / "out", second[0]))
    assert ours["p_model"].equals(theirs["p_model"])
    assert len(ours) == 240


def test_an_hour_belongs_to_the_time_zone(days, tmp_path):
    """In Shanghai, the UTC day's first hour is the eighth."""
    schema = Schema.model_validate(SCHEMA.model_dump() | {"timezone": "Asia/Shanghai"})
    train_day(request(days[0], HOURLY, schema=schema), tmp_path / "out")
    assert read_json(tmp_path / "out" / "progressive.json")["timezone"] == "Asia/Shanghai"
    assert [h for h, hour in hours_of(tmp_path / "out").items() if not hour["scored"]] == [8]


def test_where_the_world_changes_hourly_learning_is_ahead_of_daily(first, days, tmp_path):
    """A second day on which every item is clicked as another was the day before."""
    items = pd.read_parquet(days[1] / "impressions")["item_id"].str[1:].astype(int)
    turned = rewritten(
        days[1],
        tmp_path / "day",
        item_id=[f"i{(i + 17) % 40}" for i in items],
        tags=[[]] * len(items),
    )
    rows = request(turned, previous_checkpoint=first)
    daily = train_day(rows, tmp_path / "daily")
    hourly = train_day(
        replace(rows, training=HOURLY.model_copy(update={"batch_size": 8})), tmp_path / "hourly"
    )
    assert hourly["auc_progressive"] > daily["auc_progressive"] + 0.02


def learned_rows(reports):
    """Examples learned by phase, from the progress reports."""
    return {p.phase: p.total for p in reports}


def test_progress_names_the_hours(second):
    phases = learned_rows(second[2])
    assert list(phases)[:3] == ["slice of the day before", "hour 0", "hour 1"]
    assert sum(phases.values()) == 240 + 960


def test_negatives_are_left_out_of_what_is_learned_alone(second_request, days, tmp_path):
    reports = []
    training = TRAINING.model_copy(update={"negative_rate": 0.2})
    figures = train_day(
        replace(second_request, training=training), tmp_path / "out", reports.append
    )
    label = read_examples(days[1], SCHEMA).label
    clicks = label[:960].sum()
    assert clicks < learned_rows(reports)["day"] < clicks + 0.3 * (960 - clicks)
    assert (
        figures["rows_heldout"] == len(pq.read_table(tmp_path / "out" / "heldout.parquet")) == 240
    )
    assert sum(hour["scored"] for hour in hours_of(tmp_path / "out").values()) == 1200
    assert 0.75 < figures["calibration"] < 1.35


def test_the_informative_are_chosen_where_there_are_scores(days, first, second_request, tmp_path):
    training = TRAINING.model_copy(update={"informative_rate": 0.4})
    before, after = [], []
    train_day(request(days[0], training), tmp_path / "first", before.append)
    assert learned_rows(before) == {"day": 960}
    assert array_bytes(tmp_path / "first")["dense.npz"] == array_bytes(first)["dense.npz"]
    train_day(replace(second_request, training=training), tmp_path / "out", after.append)
    assert learned_rows(after)["slice of the day before"] == 240
    assert learned_rows(after)["day"] == pytest.approx(0.4 * 960, abs=4 * math.sqrt(0.24 * 960))


def test_by_the_hour_the_informative_are_chosen_from_the_second_on(days, tmp_path):
    reports = []
    train_day(
        request(days[0], HOURLY.model_copy(update={"informative_rate": 0.4})),
        tmp_path / "out",
        reports.append,
    )
    rows, phases = hours_of(tmp_path / "out"), learned_rows(reports)
    assert phases["hour 0"] == rows[0]["rows"]
    assert sum(phases.values()) < rows[0]["rows"] + 0.5 * (960 - rows[0]["rows"])


def weighed(days, tmp_path, trust, training=TRAINING, **changes):
    """Train on the first day with these weights."""
    rows = pd.read_parquet(days[0] / "impressions")
    day = write_impressions(tmp_path / "day", rows.assign(trust=trust).to_dict("list"))
    training = training.model_copy(update={"weight": "trust"})
    train_day(request(day, training, schema=WEIGHED, **changes), tmp_path / "out")
    return tmp_path / "out"


def test_equal_weights_are_no_weights(days, first, tmp_path):
    out = weighed(days, tmp_path, ["3.7"] * 1200)  # as text, as a CSV log has it
    for name, theirs in read_checkpoint(first).vectors.items():
        np.testing.assert_array_equal(read_checkpoint(out).vectors[name], theirs)


def test_impressions_of_no_weight_teach_nothing(days, tmp_path):
    """Half the impressions have inverted labels and weight 0: the model is as good as without."""
    frame = pd.read_parquet(days[0] / "impressions")
    bad = np.random.default_rng(0).random(len(frame)) < 0.5
    bad[960:] = False
    turned = rewritten(
        days[0], tmp_path / "turned", label=np.where(bad, 1 - frame["label"], frame["label"])
    )
    passes = TRAINING.model_copy(update={"passes": 4})
    honest = weighed([turned], tmp_path / "a", np.where(bad, "0", "1"), passes)
    fooled = weighed([turned], tmp_path / "b", ["1"] * 1200, passes)
    assert (
        read_json(honest / "metrics.json")["auc"] > read_json(fooled / "metrics.json")["auc"] + 0.1
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "row 7 is ''"),
        ("nan", "row 7"),
        ("inf", "row 7"),
        ("-1", "row 7 is '-1'"),
        ("x", "row 7"),
    ],
)
def test_a_weight_that_is_none_is_refused_with_its_row(days, tmp_path, value, message):
    trust = ["1"] * 1200
    trust[7] = value
    with pytest.raises(InputError, match=message):
        weighed(days, tmp_path, trust)


def test_a_weight_must_be_among_the_extras(days, tmp_path):
    with pytest.raises(InputError, match=r"features\.extras"):
        train_day(
            request(days[0], TRAINING.model_copy(update={"weight": "trust"})), tmp_path / "out"
        )


def test_a_partition_without_the_weight_is_refused(days, tmp_path):
    with pytest.raises(InputError, match=r"\['trust'\]"):
        train_day(
            request(days[0], TRAINING.model_copy(update={"weight": "trust"}), schema=WEIGHED),
            tmp_path / "out",
        )


def test_a_weight_may_be_new_today(days, first, tmp_path):
    out = weighed(
        days, tmp_path, ["1", "2"] * 600, previous_partition=days[0], previous_checkpoint=first
    )
    assert read_json(out / "metrics.json")["auc_progressive"] > 0.5


EVERYTHING = HOURLY.model_copy(
    update={"negative_rate": 0.5, "informative_rate": 0.6, "weight": "trust"}
)


@pytest.fixture(scope="module")
def everything(days, first, tmp_path_factory):
    """A request that uses every option."""
    day = rewritten(
        days[1],
        tmp_path_factory.mktemp("weighed") / "day",
        trust=[str(1 + i % 3) for i in range(1200)],
    )
    return request(
        day, EVERYTHING, schema=WEIGHED, previous_partition=days[0], previous_checkpoint=first
    )


def digests(folder):
    return {
        name: hashlib.sha256(content).hexdigest() for name, content in array_bytes(folder).items()
    }


KILLED = """
import os, pickle, signal
from pathlib import Path
from training.fit.trainer import train_day

request, out = pickle.loads(Path({request!r}).read_bytes()), Path({out!r})

def kill(progress):
    if progress.phase == "hour 7":
        os.kill(os.getpid(), signal.SIGKILL)

train_day(request, out, kill)
"""


@pytest.mark.process
def test_killed_in_the_middle_and_run_again_it_gives_the_same_bytes(everything, tmp_path):
    """Nothing of the killed run is there to be met, and what it had drawn is drawn again."""
    train_day(everything, tmp_path / "straight")
    (tmp_path / "request.pickle").write_bytes(pickle.dumps(everything))
    script = KILLED.format(request=str(tmp_path / "request.pickle"), out=str(tmp_path / "again"))
    assert (
        subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode
        == -signal.SIGKILL
    )
    assert not (tmp_path / "again").exists()
    train_day(everything, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "straight")
    assert {"progressive.json", "plots/progressive.png", "table/table.json"} <= set(
        digests(tmp_path / "again")
    )


def test_the_share_of_input_is_reported(second):
    figures = second[1]
    assert figures["input_share"] == pytest.approx(
        figures["input_s"] / (figures["input_s"] + figures["step_s"])
    )
    assert 0 < figures["input_share"] < 1
