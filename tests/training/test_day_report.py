"""The figures and the held-out file of a day."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from training_data import MODEL, SCHEMA, TRAINING

from elastic_embeddings.core.ragged import Ragged
from training.data.examples import Examples
from training.data.inputs import Featurizer
from training.data.layout import FieldLayout
from training.evaluation.day_report import DayResult, write_day_report
from training.evaluation.slices import Slicing
from training.fit.checkpoints import Description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.training_loop import Timing
from training.models.encoding_inputs import write_encodings


def examples(label):
    rows = len(label)
    return Examples(
        keys=np.zeros((rows, 5), np.int64),
        lists=(Ragged(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64)),),
        numbers=np.zeros((rows, 1)),
        present=np.zeros((rows, 1), bool),
        pairs=np.zeros((rows, 0, 2), np.int64),
        label=np.array(label, np.float32),
        user=np.arange(rows) % 2,
        users=np.array(["ann", "bob"], object),
        record_id=np.arange(rows) + 100,
        timestamp_ms=np.arange(rows),
    )


@pytest.fixture(scope="module")
def learners():
    return ModelAndBaseline.new(LearnerConfig(SCHEMA, MODEL, TRAINING, ()))


def save_checkpoint(folder, learners):
    write_description(folder, Description(SCHEMA, MODEL, TRAINING, {}, (), 0))
    write_encodings(folder / "encodings.npz", {})
    learners.save(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path, learners):
    return save_checkpoint(tmp_path, learners)


def outcome(label=(0, 1, 0, 1, 1, 0), progressive=None):
    heldout = (np.array([0.75, 0.25], np.float32), np.array([0.25, 0.75], np.float32))
    before = np.full(len(label), np.nan, np.float32) if progressive is None else progressive
    return DayResult(examples(label), 4, before, heldout, Timing(4, 1.5, 0.5, 2.5))


@pytest.fixture(scope="module")
def written(learners, tmp_path_factory):
    """The figures and the folder of `outcome()`."""
    folder = save_checkpoint(tmp_path_factory.mktemp("written"), learners)
    return write_day_report(outcome(), learners, folder), folder


def test_heldout_figures_by_hand(written):
    figures = written[0]
    assert (figures["auc"], figures["auc_lr_baseline"]) == (1.0, 0.0)
    assert figures["log_loss"] == pytest.approx(-math.log(0.75))
    assert figures["calibration"] == 1.0
    assert (figures["rows"], figures["rows_learned"], figures["rows_heldout"]) == (6, 4, 2)


def test_progressive_figures_cover_the_whole_day(checkpoint, learners):
    progressive = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.4], np.float32)
    figures = write_day_report(outcome(progressive=progressive), learners, checkpoint)
    assert figures["auc_progressive"] == pytest.approx(
        8 / 9
    )  # of nine pairs only (.3, .4) is the wrong way round
    label = np.array([0, 1, 0, 1, 1, 0])
    assert figures["log_loss_progressive"] == pytest.approx(
        -np.mean(np.log(np.where(label, progressive, 1 - progressive))), rel=1e-6
    )


def test_undefined_figures_are_nan_and_null_on_disk(checkpoint, learners):
    figures = write_day_report(outcome(label=(0, 1, 0, 1, 0, 0)), learners, checkpoint)
    undefined = {name for name, value in figures.items() if math.isnan(value)}
    assert undefined == {
        "auc", "auc_lr_baseline", "calibration", "auc_progressive", "log_loss_progressive", "rig",
        "gauc", "auc_low", "auc_high",
        "auc_gain_over_baseline", "auc_gain_over_baseline_low", "auc_gain_over_baseline_high",
    }  # fmt: skip
    on_disk = json.loads(
        (checkpoint / "metrics.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert {name for name, value in on_disk.items() if value is None} == undefined


def test_quality_figures_by_hand(written):
    figures = written[0]
    assert figures["auc_gain_over_baseline"] == 1.0
    assert figures["rig"] == pytest.approx(1 + math.log(0.75) / math.log(2))
    assert figures["ece"] == pytest.approx(0.25)
    assert math.isnan(figures["gauc"])  # each user has one row


@pytest.mark.slow
def test_without_slicing_the_quality_file_holds_all_impressions(written):
    document = json.loads((written[1] / "quality.json").read_text(), parse_constant=pytest.fail)
    (row,) = document["slices"]["model"]
    assert (row["name"], row["rows"], row["clicks"], row["users"], row["auc"]) == (
        "all",
        2,
        1,
        2,
        1.0,
    )
    assert document["slices"]["baseline"][0]["auc"] == 0.0
    assert len(document["calibration_curve"]["model"]["rows"]) == 2


@pytest.mark.slow
def test_slices_know_what_the_table_counted(tmp_path, checkpoint):
    """The first held-out item was trained on a day before, the second never."""
    schema = SCHEMA.model_copy(update={"item": "item_id"})
    place = FieldLayout.of(schema).singles.index("item_id")
    learned = ModelAndBaseline.new(LearnerConfig(schema, MODEL, TRAINING, ()))
    day = examples((0, 1, 0, 1, 1, 0))
    day.keys[4, place], day.keys[5, place] = 77, 78
    inputs = Featurizer(schema, (), {}, {}).inputs(day.slice(4, 5))
    learned.train_step(learned.prepare(inputs))
    learned.save(checkpoint)
    slicing = Slicing.of(tmp_path, schema, ())
    write_day_report(replace(outcome(), examples=day, slicing=slicing), learned, checkpoint)
    rows = json.loads((checkpoint / "quality.json").read_text())["slices"]["model"]
    assert {row["name"]: row["rows"] for row in rows} == {
        "all": 2,
        "item_id: new": 1,
        "item_id: rare": 1,
        "item_id: frequent": 0,
    }


def test_pictures_lie_beside_that_of_the_table(written):
    assert {path.name for path in (written[1] / "plots").iterdir()} == {
        "table.png",
        "calibration.png",
        "slices.png",
    }


def test_the_heldout_file_by_hand(written):
    assert pq.read_table(written[1] / "heldout.parquet").to_pylist() == [
        {"record_id": 104, "user": "ann", "label": 1, "p_model": 0.75, "p_baseline": 0.25},
        {"record_id": 105, "user": "bob", "label": 0, "p_model": 0.25, "p_baseline": 0.75},
    ]


def test_trained_bytes_leave_out_the_baseline_and_the_reports(written):
    figures, checkpoint = written
    parts = ["model.json", "dense.npz", "optimizer.npz", "encodings.npz"]
    files = [checkpoint / name for name in parts] + list((checkpoint / "table").iterdir())
    assert figures["bytes_trained"] == sum(f.stat().st_size for f in files)


def test_speed_counts_steps_and_input():
    timing = Timing(examples=100, step_s=1.5, input_s=0.5, cpu_s=4.0)
    assert (timing.examples_per_s, timing.examples_per_cpu_s) == (50, 25)
    assert timing.after_reading(0.5, 1.0) == Timing(100, 1.5, 1.0, 5.0)
    assert math.isnan(Timing(0, 0.0, 1.0, 1.0).examples_per_s)
    assert math.isnan(Timing(0, 0.0, 1.0, 1.0).examples_per_cpu_s)
