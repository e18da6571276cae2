"""A day of training: it learns, never looks ahead, is deterministic, and continues."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from training_data import (
    MODEL,
    SCHEMA,
    TRAINING,
    array_bytes,
    planted_day,
    read_json,
    write_impressions,
)

from features.errors import InputError, UnsoundError
from features.schema import Categorical, Schema
from training.data.examples import heldout_start, read_examples
from training.data.scalers import Scaler
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint, read_description
from training.fit.trainer import TrainRequest, train_day
from training.settings import AdmissionSettings, OptimizerSettings

pytestmark = pytest.mark.slow

METRICS = {
    "rows", "rows_learned", "rows_heldout", "auc_progressive", "log_loss_progressive", "auc",
    "log_loss", "calibration", "auc_lr_baseline", "rows_in_table", "keys_seen", "zero_rows",
    "bytes_trained",
    "examples_per_s", "examples_per_cpu_s", "step_s", "input_s", "cpu_s", "input_share", "rig",
    "ece", "gauc", "auc_low", "auc_high", "auc_gain_over_baseline", "auc_gain_over_baseline_low",
    "auc_gain_over_baseline_high",
}  # fmt: skip


def request(partition, **changes):
    return replace(TrainRequest(SCHEMA, MODEL, TRAINING, (), partition), **changes)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    return [planted_day(folder / str(day), day) for day in range(3)]


@pytest.fixture(scope="module")
def first(days, tmp_path_factory):
    """The first day's checkpoint and figures."""
    out = tmp_path_factory.mktemp("first") / "checkpoint"
    return out, train_day(request(days[0], training=TRAINING.model_copy(update={"passes": 4})), out)


@pytest.fixture(scope="module")
def second_request(days, first):
    return request(days[1], previous_partition=days[0], previous_checkpoint=first[0])


@pytest.fixture(scope="module")
def second(second_request, tmp_path_factory):
    """The second day's checkpoint and figures, and the progress reports."""
    out, reports = tmp_path_factory.mktemp("second") / "checkpoint", []
    return out, train_day(second_request, out, reports.append), reports


def relabelled(source, target, flip):
    """A copy of a partition with the labels of `flip` (a slice) turned around."""
    frame = pd.read_parquet(source / "impressions")
    label = frame["label"].to_numpy().copy()
    label[flip] = 1 - label[flip]
    return write_impressions(target, frame.assign(label=label).to_dict("list"))


def test_the_first_day_learns_the_planted_signal(first):
    _, figures = first
    of_table = {name for name in figures if name.startswith(("table.", "field."))}
    assert set(figures) - of_table == METRICS
    assert (
        figures["table.rows"]
        == figures["rows_in_table"]
        == sum(figures[n] for n in of_table if n.startswith("field.") and n.endswith(".rows"))
    )
    assert figures["auc"] > 0.75
    assert figures["auc_lr_baseline"] > 0.7
    assert 0.7 < figures["calibration"] < 1.4
    assert math.isnan(figures["auc_progressive"])
    assert (figures["rows"], figures["rows_learned"], figures["rows_heldout"]) == (1200, 960, 240)


def test_the_second_day_starts_from_the_first(first, second):
    assert second[1]["auc_progressive"] > 0.75
    assert second[1]["rows_in_table"] >= first[1]["rows_in_table"]
    assert read_description(second[0]).step == read_description(first[0]).step + math.ceil(
        240 / 64
    ) + math.ceil(960 / 64)


def test_metrics_json_is_strict_json(first):
    document = read_json(first[0] / "metrics.json")
    assert document["auc_progressive"] is None
    assert document["auc"] == first[1]["auc"]


def test_the_heldout_file_holds_the_last_slice(first, days):
    table = pq.read_table(first[0] / "heldout.parquet")
    source = pq.read_table(days[0] / "impressions").slice(960)
    assert table.column_names == ["record_id", "user", "label", "p_model", "p_baseline"]
    for name in ("record_id", "user", "label"):
        assert table[name].to_pylist() == source[name].to_pylist()


def test_the_scorer_gives_the_trainers_probabilities_to_the_bit(second, days):
    examples = read_examples(days[1], SCHEMA)
    heldout = examples.slice(heldout_start(len(examples), TRAINING.holdout_fraction), len(examples))
    saved = pq.read_table(second[0] / "heldout.parquet")["p_model"].to_numpy()
    np.testing.assert_array_equal(Scorer.load(second[0]).score(heldout), saved)


@pytest.mark.covers("infrastructure-1")
def test_the_same_request_gives_the_same_bytes(second_request, second, tmp_path):
    train_day(second_request, tmp_path / "again")
    assert array_bytes(tmp_path / "again") == array_bytes(second[0])


def test_another_seed_gives_another_model(second_request, second, tmp_path):
    train_day(
        replace(second_request, training=TRAINING.model_copy(update={"seed": 5})),
        tmp_path / "other",
    )
    assert not np.array_equal(
        read_checkpoint(tmp_path / "other").vectors["deep"],
        read_checkpoint(second[0]).vectors["deep"],
    )


def test_progressive_figures_use_no_label_of_the_day(second_request, second, days, tmp_path):
    """With every label of the day inverted, the same probabilities give the mirrored AUC."""
    flipped = relabelled(days[1], tmp_path / "day", slice(None))
    figures = train_day(replace(second_request, partition=flipped), tmp_path / "out")
    assert figures["auc_progressive"] == pytest.approx(1 - second[1]["auc_progressive"], abs=1e-12)


def test_the_heldout_slice_is_not_learned(second_request, second, days, tmp_path):
    flipped = relabelled(days[1], tmp_path / "day", slice(960, None))
    train_day(replace(second_request, partition=flipped), tmp_path / "out")
    ours, theirs = array_bytes(tmp_path / "out"), array_bytes(second[0])
    judged = {"heldout.parquet", "quality.json", "plots/calibration.png", "plots/slices.png"}
    judged |= {"progressive.json", "plots/progressive.png"}
    assert {name for name in theirs if ours[name] != theirs[name]} == judged


def test_the_slice_of_the_day_before_is_learned_and_nothing_else_of_it(
    second_request, second, days, tmp_path
):
    learned_before = relabelled(days[0], tmp_path / "a", slice(0, 960))
    train_day(replace(second_request, previous_partition=learned_before), tmp_path / "same")
    assert array_bytes(tmp_path / "same") == array_bytes(second[0])
    slice_changed = relabelled(days[0], tmp_path / "b", slice(960, None))
    train_day(replace(second_request, previous_partition=slice_changed), tmp_path / "other")
    assert not np.array_equal(
        read_checkpoint(tmp_path / "other").vectors["deep"],
        read_checkpoint(second[0]).vectors["deep"],
    )


@pytest.mark.covers("audit-L13")
def test_without_statistics_scalers_come_from_the_rows_that_are_trained_on(first, days):
    """Fault L13: they came from the held-out rows too."""
    examples = read_examples(days[0], SCHEMA)
    examples = examples.slice(0, heldout_start(len(examples), TRAINING.holdout_fraction))
    values = examples.numbers[:, 0][examples.present[:, 0]]
    assert read_description(first[0]).scalers == {
        "price": Scaler(float(values.mean()), float(values.std()))
    }


def test_scalers_come_from_the_statistics_given(days, tmp_path):
    pd.DataFrame(
        {"field": ["price", "user_id"], "mean": [0.25, None], "std": [2.0, None]}
    ).to_parquet(tmp_path / "fields.parquet")
    train_day(request(days[0], statistics=tmp_path), tmp_path / "out")
    assert read_description(tmp_path / "out").scalers == {"price": Scaler(0.25, 2.0)}


def test_the_heldout_slice_is_reports_apart_by_the_fields_asked_for(days, tmp_path):
    schema, settings = (
        SCHEMA.model_copy(update={"item": "item_id"}),
        TRAINING.model_copy(update={"slices": ("age",)}),
    )
    figures = train_day(request(days[0], schema=schema, training=settings), tmp_path / "out")
    rows = {
        row["name"]: row for row in read_json(tmp_path / "out" / "quality.json")["slices"]["model"]
    }
    ages = pq.read_table(days[0] / "impressions").slice(960)["age"].to_numpy().astype(int)
    middle = int(((ages >= 20) & (ages < 40)).sum())  # the only bucket of a hundred rows
    assert {name: row["rows"] for name, row in rows.items() if "age" in name} == {
        "age: 1": middle,
        "age: other values": 240 - middle,
    }
    assert rows["all"]["auc"] == figures["auc"]
    assert sum(rows[f"item_id: {how}"]["rows"] for how in ("new", "rare", "frequent")) == 240


def test_an_unknown_slice_is_refused_before_anything_is_read(tmp_path):
    settings = TRAINING.model_copy(update={"slices": ("shop",)})
    with pytest.raises(InputError, match=r"training\.slices.*shop.*item_id"):
        train_day(request(tmp_path / "nowhere", training=settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def with_fields(*fields):
    return Schema.model_validate(SCHEMA.model_dump() | {"fields": [f.model_dump() for f in fields]})


def test_a_removed_field_leaves_what_was_learned_of_the_others(second_request, first, tmp_path):
    kept = with_fields(*(f for f in SCHEMA.fields if f.name not in ("tags", "hour")))
    figures = train_day(replace(second_request, schema=kept), tmp_path / "out")
    assert figures["auc_progressive"] > 0.72


def test_an_added_field_is_learned_beside_the_others(days, first, tmp_path):
    """The days before have no column for it; the field's rows begin with this day."""
    frame = pd.read_parquet(days[1] / "impressions")
    wider = write_impressions(
        tmp_path / "day",
        frame.assign(shop=[f"s{i % 7}" for i in range(len(frame))]).to_dict("list"),
    )
    schema = with_fields(Categorical(name="shop"), *SCHEMA.fields)
    out = tmp_path / "out"
    figures = train_day(
        request(wider, schema=schema, previous_partition=days[0], previous_checkpoint=first[0]), out
    )
    assert figures["auc_progressive"] > 0.75
    assert Scorer.load(out).score(read_examples(wider, schema)).shape == (1200,)


def test_a_changed_learning_rate_leaves_the_weights_as_they_are(
    second_request, first, days, tmp_path
):
    """Dual sums are in units of 1 / rate: they must be rescaled when the rate changes."""
    slow = MODEL.model_copy(
        update={
            part: OptimizerSettings(learning_rate=getattr(MODEL, part).learning_rate / 1e4)
            for part in ("wide", "deep", "dense")
        }
    )
    scaler = read_description(first[0]).scalers["price"]
    pd.DataFrame({"field": ["price"], "mean": [scaler.mean], "std": [scaler.std]}).to_parquet(
        tmp_path / "fields.parquet"
    )
    train_day(replace(second_request, model=slow, statistics=tmp_path), tmp_path / "out")
    examples = read_examples(days[2], SCHEMA)
    before, after = (Scorer.load(folder).score(examples) for folder in (first[0], tmp_path / "out"))
    np.testing.assert_allclose(
        after, before, atol=0.01
    )  # ids that got a row meanwhile differ by their initial vectors


def test_another_width_is_refused(second_request, tmp_path):
    with pytest.raises(InputError, match="width"):
        train_day(
            replace(second_request, model=MODEL.model_copy(update={"dim": 5})), tmp_path / "out"
        )


@pytest.mark.covers("monitoring-5")
def test_a_loss_that_is_not_finite_is_unsound_and_nothing_is_written(days, tmp_path):
    wild = MODEL.model_copy(update={"dense": OptimizerSettings(learning_rate=1e30)})
    with pytest.raises(UnsoundError, match="at step"):
        train_day(request(days[0], model=wild), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.covers("audit-L1")
def test_weights_that_are_not_finite_after_the_last_step_are_unsound(days, tmp_path):
    """Fault L1: the losses are those before each step, so the last step's damage was not seen."""
    wild = MODEL.model_copy(update={"dense": OptimizerSettings(learning_rate=1e38)})
    one_step = TRAINING.model_copy(update={"batch_size": 1 << 20, "passes": 1})
    with pytest.raises(UnsoundError, match="dense weights"):
        train_day(request(days[0], model=wild, training=one_step), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rare_ids_get_no_row_until_admitted(days, first, tmp_path):
    picky = TRAINING.model_copy(update={"admission": AdmissionSettings(min_count=20), "passes": 1})
    figures = train_day(request(days[0], training=picky), tmp_path / "out")
    assert 0 < figures["rows_in_table"] < first[1]["rows_in_table"]
    assert figures["keys_seen"] == first[1]["keys_seen"]


def test_group_lasso_leaves_zero_rows(days, tmp_path):
    lasso = MODEL.model_copy(
        update={
            "deep": OptimizerSettings(learning_rate=0.01, l21=1e-3),
            "wide": OptimizerSettings(learning_rate=0.01, l21=1e-3),
        }
    )
    figures = train_day(request(days[0], model=lasso), tmp_path / "out")
    assert 0 < figures["zero_rows"] <= figures["rows_in_table"]


def test_progress_is_reports_at_the_end_of_each_phase(second):
    reports = second[2]
    ends = [(p.phase, p.done) for p in reports if p.done == p.total]
    assert ends == [("slice of the day before", 240), ("day", 960)]
    assert all(
        p.examples_per_s > 0 and p.examples_per_cpu_s > 0 and math.isfinite(p.loss) for p in reports
    )


def test_a_day_of_one_impression_is_scored_and_not_learned(first, days, tmp_path):
    frame = pd.read_parquet(days[1] / "impressions").head(1)
    one = write_impressions(tmp_path / "one", frame.to_dict("list"))
    figures = train_day(request(one, previous_checkpoint=first[0]), tmp_path / "out")
    assert (figures["rows_learned"], figures["rows_heldout"]) == (0, 1)
    assert math.isnan(figures["auc"])
    assert math.isnan(figures["examples_per_s"])
    assert math.isnan(figures["examples_per_cpu_s"])
    np.testing.assert_array_equal(
        read_checkpoint(tmp_path / "out").vectors["deep"], read_checkpoint(first[0]).vectors["deep"]
    )


def test_a_schema_of_numbers_alone_can_be_learned(days, tmp_path):
    figures = train_day(
        request(days[0], schema=with_fields(SCHEMA.field("price"))), tmp_path / "out"
    )
    assert figures["rows_in_table"] == 0
    assert figures["auc"] > 0.5


def test_a_damaged_checkpoint_is_refused(second_request, first, tmp_path):
    import shutil

    copy = shutil.copytree(first[0], tmp_path / "copy")
    (copy / "optimizer.npz").write_bytes(b"")
    with pytest.raises(InputError, match="optimizer"):
        train_day(replace(second_request, previous_checkpoint=copy), tmp_path / "out")


# Mutant M12 of the audit.
@pytest.mark.covers("audit-M12")
def test_the_slice_is_of_the_share_that_the_checkpoint_held_out(second_request, first, tmp_path):
    """A changed `holdout_fraction` trains on no impression twice, and leaves none out."""
    training = TRAINING.model_copy(update={"holdout_fraction": 0.5})
    train_day(replace(second_request, training=training), tmp_path / "out")
    own = math.ceil(600 / 64)  # half of today's 1,200
    assert read_description(tmp_path / "out").step == (
        read_description(first[0]).step + math.ceil(240 / 64) + own
    )


# Mutant M13 of the audit.
@pytest.mark.covers("audit-M13")
def test_yesterdays_model_is_scored_with_its_own_scalers(second_request, second, tmp_path):
    """Statistics of today scale today's training alone, not yesterday's model."""
    pd.DataFrame({"field": ["price"], "mean": [50.0], "std": [0.01]}).to_parquet(
        tmp_path / "fields.parquet"
    )
    figures = train_day(replace(second_request, statistics=tmp_path), tmp_path / "out")
    assert read_description(tmp_path / "out").scalers == {"price": Scaler(50.0, 0.01)}
    assert figures["auc_progressive"] == second[1]["auc_progressive"]
