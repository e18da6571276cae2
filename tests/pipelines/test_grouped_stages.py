"""Groups of fields and multi-hash fields through the stages: trained two days, compressed, exported, selected, evicted."""

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from features.errors import InputError
from pipelines.config import load_config
from pipelines.stages.compress import Compress
from pipelines.stages.export import Export
from pipelines.stages.stage import Context, execute
from pipelines.stages.train import Train
from pipelines.store.artifacts import Store
from training.data.examples import read_examples
from training.data.layout import FieldLayout, groups_of
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from training.models.encoding_inputs import write_encodings
from validation.model.requests import read_requests

pytestmark = pytest.mark.slow

DAYS = [date(2026, 1, d) for d in (1, 2, 3)]
ROWS = 2500
SEEN = 15
"""Sightings that give a viewer a row of its own."""

FIELDS = [
    {"name": "ad", "kind": "categorical", "multi_hash": {"rows": 32, "combine": "concat"}},
    {"name": "page", "kind": "categorical"},
    {"name": "device", "kind": "categorical"},
    {
        "name": "viewer",
        "kind": "categorical",
        "multi_hash": {"rows": 32, "shared": True, "own_rows": True},
    },
    {"name": "noise_tags", "kind": "multi_valued", "separator": "|"},
    {"name": "price", "kind": "numeric"},
]
GROUPS = [
    {"name": "ads", "fields": ["ad"], "dim": 4},
    {"name": "context", "fields": ["page", "device"], "dim": 2, "pooling": "sum"},
]
DOCUMENT = {
    "name": "grouped",
    "source": {"path": "logs/*.csv", "format": "csv"},
    "features": {
        "label": "click",
        "user": "viewer",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "s"},
        "fields": FIELDS,
    },
    "model": {
        "dim": 3,
        "hidden": [8],
        "groups": GROUPS,
        **{part: {"learning_rate": 0.03} for part in ("deep", "wide", "dense")},
    },
    "training": {
        "batch_size": 32,
        "unvalidated_parent": True,
        "admission": {"min_counts": {"viewer": SEEN}},
    },
    "selection": {"learning_rate": 0.05},
}


def write_day(out, seed):
    """Clicks depend on `ad`, `viewer` and `price`; `page` and `device` are noise."""
    draw, taste = np.random.default_rng(seed), np.random.default_rng(0)
    appeal, mood = taste.normal(size=20) * 2, taste.normal(size=150)
    ad, price = draw.integers(20, size=ROWS), draw.normal(size=ROWS)
    viewer = (150 * draw.random(ROWS) ** 2).astype(int)
    label = draw.random(ROWS) < 1 / (1 + np.exp(-appeal[ad] - mood[viewer] - price))
    columns = {
        "record_id": np.arange(ROWS),
        "label": label.astype(np.int8),
        "timestamp_ms": np.arange(ROWS) * 1000,
    }
    strings = {
        "user": viewer,
        "ad": ad,
        "viewer": viewer,
        "page": draw.integers(40, size=ROWS),
        "device": ad * 0 + seed % 3,
    }
    tags = pa.array(
        [[f"t{x % 7}"] * (x % 3) for x in draw.integers(30, size=ROWS)], pa.list_(pa.string())
    )
    spelled = {name: [f"{name}{x}" for x in values] for name, values in strings.items()}
    (out / "impressions").mkdir()
    day = pa.table({**columns, **spelled, "noise_tags": tags, "price": [f"{x:.3f}" for x in price]})
    pq.write_table(day, out / "impressions" / "part-0.parquet")


def publish(store, artifact, day, fill, **metrics):
    with store.staging(artifact, day, "v") as out:
        fill(out)
        facts = {"stage": artifact, "inputs": {}, "metrics": metrics, "config": {}, "seconds": 1.0}
        store.publish(out, artifact, day, "v", facts)


def write_config(folder, name="grouped", **sections):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, **sections}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """A workspace with three ingested days, and the configuration."""
    folder = tmp_path_factory.mktemp("grouped")
    store = Store(folder / "workspace")
    for number, day in enumerate(DAYS):
        publish(store, "impressions", day, lambda out, seed=number: write_day(out, seed))
        publish(store, "encodings", day, lambda out: write_encodings(out / "encodings.npz", {}))
        publish(
            store,
            "data_verdict",
            day,
            lambda out: (out / "verdict.json").write_text("{}"),
            passed=True,
        )
    return write_config(folder), store


def run(stage, config, store, day, overrides=(), report=print):
    return execute(
        stage, Context(load_config(config, overrides, store.workspace), day, store, report)
    ).version


@pytest.fixture(scope="module")
def trained(ingested):
    """Checkpoints of two days, the second one compressed and exported; reports of training."""
    said = []
    checkpoints = [run(Train(), *ingested, day, report=said.append) for day in DAYS[:2]]
    return checkpoints, run(Compress(), *ingested, DAYS[1]), run(Export(), *ingested, DAYS[1]), said


def impressions(store, day):
    return store.current("impressions", day).path


def test_the_export_gives_the_trained_models_probabilities(trained, ingested, compare_served):
    checkpoints, _, exported, _ = trained
    schema, partition = load_config(ingested[0]).features, impressions(ingested[1], DAYS[2])
    expected = Scorer.load(checkpoints[1].path).score(read_examples(partition, schema))
    parity = compare_served(
        exported.path / "saved_model", read_requests(partition, schema), expected, (7, 512)
    )
    assert parity.max_abs_diff <= 1e-6
    assert np.std(expected) > 0.1


def test_compression_changes_no_bit(trained, ingested):
    examples = read_examples(impressions(ingested[1], DAYS[2]), load_config(ingested[0]).features)
    before, after = (
        Scorer.load(version.path).score(examples) for version in (trained[0][1], trained[1])
    )
    np.testing.assert_array_equal(before, after)


def test_the_second_day_goes_on_from_the_first(trained):
    first, second = trained[0]
    assert second.commit["inputs"]["checkpoint"]["hash"] == first.hash
    assert second.metrics["auc_progressive"] > 0.7
    before, after = (read_checkpoint(version.path).tables() for version in (first, second))
    assert set(before) == set(after) == {"", "ads", "context"}
    for name, rows in before.items():
        assert set(rows.keys) <= set(after[name].keys)


def test_rows_are_within_their_number_and_own_rows_for_the_frequent(trained):
    first = trained[0][0].metrics
    assert 0 < first["field.ad.rows"] <= 32
    assert first["multi_hash.ad.bytes"] == 32 * 2 * 4
    assert 32 < first["field.viewer.rows"] < 32 + 150
    assert 0 < first["multi_hash.viewer.own_rows"] < 150


def test_training_says_sizes_before_it_learns(trained):
    said = trained[3]
    assert said[0].startswith("multi-hash field ad: 32 rows, ")
    assert said[1].startswith("multi-hash field viewer: ")
    assert "in common with another with probability" in said[1]
    assert "examples" in said[2]


def test_statistics_of_days_before_tell_how_many_ids_there_are(trained, ingested, tmp_path):
    config, workspace = ingested
    store = Store(tmp_path)
    for name in ("impressions", "encodings", "data_verdict"):
        found = workspace.current(name, DAYS[1])
        publish(store, name, DAYS[1], lambda out, f=found: copy(f.path, out), **found.metrics)
    values = {
        "field": ["viewer"] * 5 + ["ad"],
        "value": list("abcdef"),
        "impressions": [100, SEEN, SEEN - 1, 1, 1, 1],
    }
    figures = {"field": ["price"], "mean": [0.0], "std": [1.0]}
    publish(
        store, "feature_statistics", DAYS[0], lambda out: tables(out, values=values, fields=figures)
    )
    said = run(Train(), config, store, DAYS[1]).metrics
    assert (said["multi_hash.viewer.own_rows"], said["multi_hash.viewer.rows"]) == (2, 34)
    assert said["multi_hash.ad.collision_probability_any"] == 0


def tables(out, **columns):
    for name, table in columns.items():
        pq.write_table(pa.table(table), out / f"{name}.parquet")


def copy(source, out):
    for path in source.rglob("*"):
        if path.is_file() and not path.name.startswith("_"):
            target = out / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def test_eviction_holds_in_every_groups_table(trained, ingested):
    config, store = ingested
    evicted = run(Train(), config, store, DAYS[2], ["training.eviction.max_rows=9"])
    kept = {name: len(rows.keys) for name, rows in read_checkpoint(evicted.path).tables().items()}
    assert kept == {"": 9, "ads": 9, "context": 9}
    idle = run(Train(), config, store, DAYS[2], ["training.eviction.idle_days=1"])
    assert (
        idle.metrics["field.device.rows"] == 2
    )  # each day has a device of its own, and the first is gone
    assert idle.metrics["field.page.rows"] == 40


def test_thresholds_of_fields_hold_in_their_groups(trained, ingested):
    config, store = ingested
    overrides = [f"training.admission.min_counts={{viewer: {SEEN}, page: 1000000, ad: 150}}"]
    found = run(Train(), config, store, DAYS[0], overrides).metrics
    assert (found["field.page.rows"], found["field.device.rows"]) == (0, 1)
    assert 0 < found["field.ad.rows"] < trained[0][0].metrics["field.ad.rows"]


def test_an_unknown_field_among_the_thresholds_is_named(ingested):
    with pytest.raises(InputError, match=r"training.admission.min_counts names \['nobody'\]"):
        run(
            Train(),
            *ingested,
            DAYS[0],
            [f"training.admission.min_counts={{viewer: {SEEN}, nobody: 3}}"],
        )


def test_select_features_keeps_or_drops_groups_whole_and_training_goes_on(
    here, trained, ingested, mlflow_away, tmp_path
):
    config, store = ingested
    where = ["--config", config, "--workspace", store.workspace, "--out", tmp_path / "out"]
    code, out, err = here(
        "select-features", *where, "--from", DAYS[1], "--to", DAYS[2], "--keep", "3", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["kept"] == ["ad", "price", "viewer"]
    lines = {line["name"]: line for line in report["fields"]}
    assert lines["page"]["importance"] == lines["device"]["importance"]
    assert (lines["ad"]["width"], lines["page"]["width"], lines["viewer"]["width"]) == (5, 3, 4)
    assert (lines["ad"]["online"], lines["viewer"]["online"]) == (2.0, 3.0)
    pruned = tmp_path / "out" / "pruned.yaml"
    assert [group.name for group in load_config(pruned).model.groups] == ["ads"]
    assert run(Train(), pruned, store, DAYS[2]).metrics["auc_progressive"] > 0.7


def test_select_features_with_a_budget_for_all_writes_the_groups_as_they_were(
    here, trained, ingested, mlflow_away, tmp_path
):
    config, store = ingested
    where = ["--config", config, "--workspace", store.workspace, "--out", tmp_path / "out"]
    code, _, err = here(
        "select-features",
        *where,
        "--from",
        DAYS[1],
        "--to",
        DAYS[1],
        "--set",
        "selection.method=droprank",
    )
    assert code == 0, err
    loaded = load_config(tmp_path / "out" / "pruned.yaml")
    assert loaded.features == load_config(config).features
    assert loaded.model == load_config(config).model


def field(**changes):
    return [f | changes.get(f["name"], {}) for f in FIELDS]


CONCAT = {"rows": 32, "combine": "concat"}
REFUSED = {
    "own rows without a threshold": (
        {"training": {"admission": {"min_counts": {"ad": 3}}}},
        r"'viewer' has multi_hash\.own_rows.*"
        r"set training\.admission\.min_counts\.viewer to 2 or more",
    ),
    "concat in no group": (
        {"model": {"dim": 3, "groups": GROUPS[1:]}},
        r"'ad' has multi_hash\.combine: concat.*"
        r"\{name: ad_rows, fields: \[ad\], dim: 4\} to model\.groups",
    ),
    "concat in a mixed group": (
        {"model": {"groups": [{"name": "all", "fields": ["ad", "page"], "dim": 4}]}},
        r"group 'all' has field 'ad'.*together with \['page'\]",
    ),
    "concat of an odd width": (
        {"model": {"groups": [{"name": "ads", "fields": ["ad"], "dim": 5}]}},
        r"group 'ads' has dim 5, which field 'ad'.*multiple of 2, such as 6",
    ),
    "own rows with concat": (
        {
            "features": {
                **DOCUMENT["features"],
                "fields": field(ad={"multi_hash": CONCAT | {"own_rows": True}}),
            }
        },
        r"features\.fields.*multi_hash.*own_rows go with combine: sum",
    ),
    "another way to combine": (
        {
            "features": {
                **DOCUMENT["features"],
                "fields": field(ad={"multi_hash": {"rows": 32, "combine": "weighted"}}),
            }
        },
        r"multi_hash\.combine.*'sum' or 'concat'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_when_the_configuration_is_read(case, tmp_path):
    changes, says = REFUSED[case]
    with pytest.raises(InputError, match=says):
        load_config(write_config(tmp_path, **changes))


def test_the_document_has_the_groups_it_means(ingested):
    config = load_config(ingested[0])
    groups = groups_of(FieldLayout.of(config.features), config.model)
    assert [(g.name, g.dim, g.row_dim, g.chunks) for g in groups] == [
        ("", 3, 3, 1),
        ("ads", 4, 2, 2),
        ("context", 2, 2, 1),
    ]
