"""Which encodings a day's training reads, and when they are made again."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import yaml
from graph_files import counted, write_graph
from tiny_days import make_context, publish

from features.errors import InputError, RetryableError
from features.partition import parse_partition
from pipelines.config import load_config
from pipelines.stages.cross_graph import BuildCrossGraph
from pipelines.stages.encodings import encodings_for, recent_encodings
from pipelines.stages.pretrain import Pretrain
from pipelines.stages.stage import Context, config_section, execute
from pipelines.stages.train import Train, memory_errors
from pipelines.store.artifacts import Store


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path, day=date(2026, 1, 20))


def publish_encodings(context, day, graph_days=7, used=1, last_day=None, config=None):
    """Encodings of a day, and the graph they were made of."""
    graph = publish(context.store, "cross_graph", day)
    with context.store.staging("encodings", day, f"v{day.day}") as out:
        (out / "data.txt").write_text("")
        sections = {
            name: config_section(context.config, name)
            for name in ("features", "graph", "pretraining")
        }
        last_day = last_day or str(day - timedelta(days=1))
        about = {"graph_hours": 24 * graph_days, "relations_used": used, "graph_last_day": last_day}
        inputs = {"graph": {"artifact": "cross_graph", "day": day.isoformat(), "hash": graph.hash}}
        facts = {
            "stage": "pretrain",
            "inputs": inputs,
            "metrics": about,
            "config": config or sections,
            "seconds": 0.1,
        }
        return context.store.publish(out, "encodings", day, f"v{day.day}", facts)


@pytest.mark.parametrize(
    ("age", "graph_days", "every", "young"),
    [(1, 7, 7, True), (6, 7, 7, True), (7, 7, 7, False), (6, 30, 7, True), (1, 7, 1, False),
     (1, 0, 7, False), (1, 1, 7, False), (1, 2, 7, True), (3, 3, 7, False)],
)  # fmt: skip
def test_encodings_are_young_for_so_many_days_and_no_longer_than_their_graph_is_long(
    tmp_path, age, graph_days, every, young
):
    context = make_context(tmp_path, date(2026, 1, 20), [f"pretraining.every_days={every}"])
    version = publish_encodings(context, context.day - timedelta(days=age), graph_days)
    assert recent_encodings(context) == (version if young else None)


def test_an_hour_reads_those_of_its_day_and_finds_them_as_young_as_the_day_began(tmp_path):
    context = make_context(tmp_path, date(2026, 1, 20), ["pretraining.every_days=2"])
    version = publish_encodings(context, date(2026, 1, 19))
    for hour, young in (
        ("2026-01-19T13", True),
        ("2026-01-20T23", True),
        ("2026-01-21T00", False),
        ("2026-01-18T23", False),
    ):
        at = replace(context, day=parse_partition(hour))
        assert recent_encodings(at) == (version if young else None), hour
        found = None if hour.startswith("2026-01-18") else version
        assert encodings_for(at).get("encodings") == found, hour


def test_after_a_change_of_settings_they_are_made_again(context):
    publish_encodings(context, context.day - timedelta(days=1))
    assert recent_encodings(context) is not None
    for changes in ({"pretraining": {"dim": 4}}, {"graph": {"window_days": 3}}):
        changed = make_context(context.store.workspace.parent, context.day, **changes)
        assert recent_encodings(changed) is None
    often = make_context(context.store.workspace.parent, context.day, pretraining={"every_days": 3})
    assert recent_encodings(often) is not None, "how often is no setting of theirs"


def test_while_they_are_young_the_stages_point_to_them_and_publish_nothing(context):
    version = publish_encodings(context, context.day - timedelta(days=2))
    reports = []
    outcomes = [
        execute(stage, replace(context, report=reports.append))
        for stage in (BuildCrossGraph(), Pretrain())
    ]
    assert [(o.version.artifact, o.version.day, o.reused) for o in outcomes] == [
        ("cross_graph", version.day, True),
        ("encodings", version.day, True),
    ]
    assert context.store.current("encodings", context.day) is None
    assert reports == [
        f"cross-graph: cross_graph of {version.day} is still valid",
        f"pretrain: encodings of {version.day} is still valid",
    ]


def test_training_reads_the_last_ones_that_passed_its_own_days_included(context):
    assert encodings_for(context) == {}
    day = context.day
    old = publish_encodings(context, day - timedelta(days=9))
    publish_encodings(context, day - timedelta(days=1), used=0)
    publish_encodings(context, day + timedelta(days=1))
    assert encodings_for(context) == {"encodings": old}
    own = publish_encodings(context, day)
    assert encodings_for(context) == {"encodings": own}


@pytest.mark.parametrize("late", [0, 3])
def test_a_graph_that_knows_the_day_is_refused(context, late):
    last = context.day + timedelta(days=late)
    publish_encodings(context, context.day - timedelta(days=1), last_day=last.isoformat())
    with pytest.raises(
        InputError, match=f"up to {last}, so they know clicks of {context.day}.*pretrain"
    ):
        encodings_for(context)


# Leakage: the real stages on days whose clicks have no pattern except in a graph of the day itself

NIGHTS = [date(2026, 2, d) for d in (1, 2, 3, 4, 5)]
USERS, ADS, ROWS = 120, 80, 8000
LEARNING = {
    "name": "leaky",
    "source": {"path": "logs/*.csv", "format": "csv"},
    "features": {
        "label": "click",
        "user": "viewer",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "s"},
        "fields": [{"name": "device", "kind": "categorical"}],
    },
    "graph": {"relations": [{"left": "viewer", "right": "ad"}]},
    "model": {
        "dim": 2,
        "hidden": [4],
        **{part: {"learning_rate": 0.05} for part in ("deep", "wide", "dense")},
    },
    "training": {"batch_size": 64, "holdout_fraction": 0.5, "passes": 3},
    "pretraining": {"kind": "lookup"},
}
LEARNING["features"]["fields"] += [
    {"name": name, "kind": "categorical"} for name in ("viewer", "ad")
]


def shuffled_day(seed):
    """Impressions whose labels have been permuted: nothing of any other day tells them."""
    draw = np.random.default_rng(seed)
    viewer, ad = draw.integers(USERS, size=ROWS), draw.integers(ADS, size=ROWS)
    strings = {"user": viewer, "viewer": viewer, "ad": ad, "device": viewer * 0}
    frame = pd.DataFrame({name: [f"{name}{x}" for x in values] for name, values in strings.items()})
    label = draw.permutation(np.arange(ROWS) % 4 == 0).astype(np.int8)
    return frame.assign(
        record_id=[str(i) for i in range(ROWS)], label=label, timestamp_ms=np.arange(ROWS) * 1000
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaky")
    path = folder / "leaky.yaml"
    path.write_text(yaml.safe_dump(LEARNING))
    store, days = Store(folder / "workspace"), [shuffled_day(seed) for seed in range(5)]
    for day, frame in zip(NIGHTS, days, strict=True):
        with store.staging("impressions", day, "v") as out:
            (out / "impressions").mkdir()
            frame.to_parquet(out / "impressions" / "part-0.parquet", index=False)
            store.publish(out, "impressions", day, "v", facts("ingest"))
        publish(store, "data_verdict", day, passed=True)
    return path, store, days


def facts(stage):
    return {"stage": stage, "inputs": {}, "metrics": {}, "config": {}, "seconds": 1.0}


def trained_auc(world, name, frames, last_day):
    """Train the last day, with encodings of a graph of these days."""
    path, store, _ = world
    workspace = store.workspace.parent / name
    other = Store(workspace)
    for artifact in ("impressions", "data_verdict"):
        (workspace / artifact).parent.mkdir(parents=True, exist_ok=True)
        (workspace / artifact).symlink_to(store.workspace / artifact)
    day = NIGHTS[4]
    context = Context(load_config(path, [], workspace), day, other)
    if frames:
        edges = {
            "viewer__ad": counted(pd.concat(frames), "viewer", "ad", "label", min_impressions=1)
        }
        with other.staging("cross_graph", day, "g") as out:
            write_graph(out, edges, str(NIGHTS[0]), str(last_day), len(frames))
            other.publish(out, "cross_graph", day, "g", facts("cross-graph"))
        assert execute(Pretrain(), context).version.metrics["relations_used"] == 1
    return execute(Train(), context).version.metrics["auc"]


@pytest.mark.covers("F23")
@pytest.mark.parametrize("kind", ["NumPy", "TensorFlow"])
def test_training_that_runs_out_of_memory_names_the_batch_size_to_try(world, kind):
    import tensorflow

    path, store, _ = world
    if kind == "NumPy":
        config = load_config(path, [f"model.hidden=[{1 << 45}]"], store.workspace)
        context = Context(config, NIGHTS[3], store)
        with pytest.raises(RetryableError) as found:
            execute(Train(), context)
        assert store.current("checkpoint", NIGHTS[3]) is None
    else:
        with pytest.raises(RetryableError) as found, memory_errors(64):
            raise tensorflow.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert "`training.batch_size: 32` (now 64)" in str(found.value)


@pytest.mark.slow
def test_days_before_tell_nothing_of_permuted_labels_and_the_day_itself_would(world):
    """A graph of the day itself is refused; with wrong dates, its gain in AUC shows the leak."""
    days = world[2]
    without = trained_auc(world, "without", [], None)
    before = trained_auc(world, "before", days[:4], NIGHTS[3])
    with pytest.raises(InputError, match=r"graph has data of .* must not be trained on it"):
        trained_auc(world, "refused", days, NIGHTS[4])
    mislabelled = trained_auc(world, "wrong", days, NIGHTS[3])
    assert abs(before - without) < 0.04, (
        "AUC of 4,000 impressions, a quarter of them clicks: standard deviation 0.011"
    )
    assert mislabelled > without + 0.1
