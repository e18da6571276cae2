"""`select-features` on a small workspace: pruned configuration, report, plot and event."""

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.image import imread

from compression.selection.footprint import Complexity, Footprint
from compression.selection.ranking import FieldRanking, HeldOutQuality
from compression.selection.report import FieldSelection, Trial
from features.schema import Schema
from pipelines.cli.select_plot import plot_selection
from pipelines.config import load_config
from pipelines.store.artifacts import Store
from pipelines.tracking.journal import TrackingJournal
from training.data.examples import batches, read_examples
from training.data.inputs import Featurizer
from training.fit.checkpoints import Description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.encoding_inputs import write_encodings

pytestmark = pytest.mark.slow

DAYS = [date(2026, 1, d) for d in (1, 2, 3)]
ROWS = 3000
DOCUMENT = {
    "name": "tiny",
    "source": {"path": "logs/*.csv", "format": "csv"},
    "features": {
        "label": "click",
        "user": "user_id",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "s"},
        "fields": [
            {"name": "ad", "kind": "categorical"},
            {"name": "noise", "kind": "categorical"},
            {"name": "noise_tags", "kind": "multi_valued", "separator": "|"},
            {"name": "price", "kind": "numeric"},
        ],
    },
    "model": {"dim": 4, "hidden": [8], "deep": {"learning_rate": 0.005}},
    "training": {"batch_size": 32, "unvalidated_parent": True},
    "selection": {"learning_rate": 0.05},
}
SCHEMA = Schema.model_validate(DOCUMENT["features"])


def publish(store, artifact, day, fill):
    with store.staging(artifact, day, "v") as out:
        fill(out)
        facts = {"stage": artifact, "inputs": {}, "metrics": {}, "config": {}, "seconds": 1.0}
        return store.publish(out, artifact, day, "v", facts).path


def write_day(out, seed):
    """Clicks depend on `ad` and `price`."""
    draw, appeal = np.random.default_rng(seed), np.random.default_rng(0).normal(size=20) * 2
    ad, noise, price = (
        draw.integers(20, size=ROWS),
        draw.integers(300, size=ROWS),
        draw.normal(size=ROWS),
    )
    label = draw.random(ROWS) < 1 / (1 + np.exp(-appeal[ad] - price))
    columns = {
        "record_id": np.arange(ROWS),
        "label": label.astype(np.int8),
        "timestamp_ms": np.arange(ROWS) * 1000,
    }
    strings = {"user": ["u"] * ROWS, "ad": [f"a{x}" for x in ad], "noise": [f"n{x}" for x in noise]}
    tags = pa.array([[f"t{x % 7}"] * (x % 3) for x in noise], pa.list_(pa.string()))
    (out / "impressions").mkdir()
    day = pa.table({**columns, **strings, "noise_tags": tags, "price": [f"{x:.3f}" for x in price]})
    pq.write_table(day, out / "impressions" / "part-0.parquet")


def write_checkpoint(out, partition, config):
    recipe = LearnerConfig(SCHEMA, config.model, config.training, ())
    learners, inputs = (
        ModelAndBaseline.new(recipe),
        Featurizer(SCHEMA, (), {}, {}).inputs(read_examples(partition, SCHEMA)),
    )
    for rows in batches(len(inputs), 32, 1024, (0,)):
        learners.train_step(learners.prepare(inputs.take(rows)))
    learners.save(out)
    write_description(
        out, Description(SCHEMA, config.model, config.training, {}, (), learners.model.table.step)
    )
    write_encodings(out / "encodings.npz", {})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A workspace with a checkpoint of the first of three ingested days, and the configuration."""
    folder = tmp_path_factory.mktemp("planted")
    config, store = folder / "tiny.yaml", Store(folder / "workspace")
    config.write_text(yaml.safe_dump(DOCUMENT), encoding="utf-8")
    paths = [
        publish(store, "impressions", day, lambda out, n=n: write_day(out, n))
        for n, day in enumerate(DAYS)
    ]
    publish(
        store,
        "checkpoint",
        DAYS[0],
        lambda out: write_checkpoint(out, paths[0], load_config(config)),
    )
    return config, store


@pytest.fixture
def select(here, planted, mlflow_away, tmp_path):
    """Run the command on the workspace; returns exit code, standard output and error."""
    config, store = planted

    def run(*arguments, first="2026-01-02", last="2026-01-03"):
        where = ["--config", config, "--workspace", store.workspace, "--out", tmp_path / "out"]
        return here("select-features", *where, "--from", first, "--to", last, *arguments)

    return run


def test_noise_is_dropped_and_everything_is_written(select, planted, tmp_path):
    code, out, err = select("--keep", "2", "--json")
    assert code == 0, err
    report = json.loads(out, parse_constant=pytest.fail)
    assert report["kept"] == ["ad", "price"]
    assert [line["name"] for line in report["fields"] if line["kept"]] == [
        line["name"] for line in report["fields"][:2]
    ]
    assert report["bytes_pruned"] < 0.5 * report["bytes_full"]
    assert report["auc_difference"] > -0.01
    assert [trial["model"] for trial in report["trials"]][-1] == "pruned, fine-tuned"
    pruned = load_config(tmp_path / "out" / "pruned.yaml")
    assert pruned.features.names() == ("ad", "price")
    assert pruned.model == load_config(planted[0]).model
    assert json.loads((tmp_path / "out" / "selection.json").read_text()) == report
    assert min(imread(tmp_path / "out" / "selection.png").shape[:2]) > 300


def test_it_is_journalled_for_mlflow(select, planted, tmp_path):
    assert select("--keep", "3")[0] == 0
    journal = TrackingJournal(planted[1].workspace)
    events = [
        event for event in map(journal.read, journal.pending()) if event.stage == "select-features"
    ]
    newest = events[-1]
    assert (newest.pipeline, newest.day, newest.status) == ("tiny", "2026-01-03", "FINISHED")
    assert newest.metrics["select-features/inputs_pruned"] == 3
    assert newest.params["selection.learning_rate"] == "0.05"
    assert {
        str(tmp_path / "out" / name) for name in ("pruned.yaml", "selection.json", "selection.png")
    } == {*newest.artifacts}


def test_without_a_budget_the_fields_are_ranked_and_all_stay(select, tmp_path):
    code, out, _ = select("--set", "selection.method=droprank", last="2026-01-02")
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.splitlines()
        if line.startswith("│")
    ]
    assert code == 0
    assert {row[0] for row in cells[:4]} == {"ad", "price", "noise", "noise_tags"}
    assert {row[0] for row in cells[:2]} == {"ad", "price"}
    assert all(row[1] == "yes" for row in cells[:4])
    assert load_config(tmp_path / "out" / "pruned.yaml").features == SCHEMA


REFUSED = {
    "no checkpoint before": ({"first": "2026-01-01"}, (), "no checkpoint before 2026-01-01"),
    "no ingested day": (
        {"first": "2026-02-01", "last": "2026-02-02"},
        (),
        "no day from 2026-02-01 to 2026-02-02 is ingested",
    ),
    "days the wrong way round": (
        {"first": "2026-01-03", "last": "2026-01-02"},
        (),
        "2026-01-03 is after 2026-01-02",
    ),
    "a budget for nothing": ({}, ("--budget-bytes", "1"), "not even one field fits"),
    "an unknown method": ({}, ("--set", "selection.method=lasso"), "selection.method"),
    "a start outside the range": (
        {},
        ("--set", "selection.initial_keep=0.01"),
        "must lie within keep_range",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said(select, tmp_path, case):
    days, arguments, message = REFUSED[case]
    code, _, err = select(*arguments, **days)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert not (tmp_path / "out" / "pruned.yaml").exists()


def selection(kept, importance=(0.9, 0.1), auc=(0.8, 0.79)):
    names = ("ad", "a_field_with_quite_a_long_name_of_its_own")
    footprint = Footprint(
        {n: Complexity(1, 5, rows) for n, rows in zip(names, (0, 10**6), strict=True)},
        {n: n for n in names},
        28,
        {},
        {},
        {},
    )
    full, pruned = (Trial(HeldOutQuality(a, 0.5), HeldOutQuality(a, 0.5)) for a in auc)
    ranking = FieldRanking(
        dict(zip(names, importance, strict=True)), footprint, dict.fromkeys(names, 0.1)
    )
    return FieldSelection("fscd", ranking, frozenset(names[:kept]), full, pruned)


@pytest.mark.parametrize(
    "found", [selection(1), selection(2), selection(1, (1.0, 0.0), (float("nan"), 0.5))]
)
def test_every_selection_can_be_drawn(found, tmp_path):
    assert plot_selection(found, "tiny", tmp_path / "new" / "plot.png").stat().st_size > 10_000
