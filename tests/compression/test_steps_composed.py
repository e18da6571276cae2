"""Steps in sequence: their order, report and plan; the export answers like the folder."""

import json
from itertools import pairwise

import numpy as np
import pytest
import yaml
from awkward_day import RELATIONS, SCHEMA
from pydantic import ValidationError

from compression.export.write import export
from compression.model import read_compact
from compression.pruning import compress
from compression.settings import CompressionSettings
from features.errors import InputError
from training.data.examples import read_examples
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_description
from validation.model.requests import read_requests

STEPS = [
    {"kind": "drop_fields", "fields": ["price", "week_hour"]},
    {"kind": "prune_rows", "by": "weight", "keep": 0.7},
    {"kind": "prune_rows", "by": "count", "keep": 0.9},
    {"kind": "widths", "quantiles": [0.5], "ranks": [2, 4]},
    {"kind": "quantize", "form": "int8"},
    {"kind": "dense", "form": "int8", "relu": 0.2},
    {"kind": "encodings"},
]


def composed(steps=STEPS):
    return CompressionSettings.model_validate({"steps": steps})


def assert_served_as_scored(folder, partition, compare_served, tmp_path):
    export(folder, tmp_path)
    description = read_description(folder)
    expected = Scorer.load(folder).score(
        read_examples(partition, description.schema, description.relations)
    )
    report = compare_served(
        tmp_path / "saved_model", read_requests(partition, description.schema), expected, (7, 512)
    )
    assert report.max_abs_diff <= 1e-6
    assert np.std(expected) > 0.01


def test_the_export_of_a_composed_plan_answers_as_the_folder_scores(
    checkpoint, partition, compare_served, tmp_path
):
    (tmp_path / "small").mkdir()
    compress(checkpoint, composed(), tmp_path / "small")
    assert_served_as_scored(tmp_path / "small", partition, compare_served, tmp_path)
    assert "price" not in [f.name for f in read_description(tmp_path / "small").schema.fields]


def test_a_model_of_groups_too(learned, partition, compare_served, tmp_path):
    (tmp_path / "small").mkdir()
    of_one_field = {"kind": "prune_rows", "by": "count", "max_rows": 10, "fields": ["user_id"]}
    report = compress(
        learned("grouped"), composed([*STEPS[:2], of_one_field, *STEPS[3:]]), tmp_path / "small"
    )
    assert_served_as_scored(tmp_path / "small", partition, compare_served, tmp_path)
    assert set(report.steps[1].plan["cuts"]) == {"", "pooled", "last"}
    assert report.steps[2].plan["cuts"]["pooled"]["rows"] == 10


def test_the_report_says_what_each_step_did_and_the_plan_is_there(checkpoint, tmp_path):
    report = compress(checkpoint, composed(), tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    steps = document["steps"]
    assert [step["kind"] for step in steps] == [step["kind"] for step in STEPS]
    for before, after in pairwise(steps):
        assert (before["bytes_after"], before["rows_after"]) == (
            after["bytes_before"],
            after["rows_before"],
        )
    small = read_compact(tmp_path)
    assert (
        (steps[-1]["bytes_after"], steps[-1]["rows_after"])
        == (small.nbytes, small.rows)
        == (small.nbytes, report.rows_after)
    )
    assert document["lossless"] is False
    assert (
        steps[1]["rows_after"]
        == round(0.7 * steps[1]["rows_before"])
        == steps[1]["plan"]["cuts"][""]["rows"]
    )
    plan = yaml.safe_load((tmp_path / "plan.yaml").read_text())["steps"]
    assert [
        {k: v for k, v in step.items() if k in STEPS[i]} for i, step in enumerate(plan)
    ] == STEPS
    assert [step["plan"] for step in plan] == [step["plan"] for step in steps]


def test_what_saved_the_bytes_adds_up(checkpoint, tmp_path):
    report = compress(checkpoint, composed(), tmp_path)
    saved = report.saved
    table = checkpoint / "table"
    own = [path for path in table.glob("*.npy") if path.stem.startswith(("wide.", "deep."))]
    slots = [path for path in own if not path.stem.endswith(".weights")]
    assert (
        saved["optimizer_slots"]
        == sum(p.stat().st_size for p in slots) + (checkpoint / "optimizer.npz").stat().st_size
    )
    assert list(saved)[3:] == [
        "drop_fields",
        "prune_rows",
        "prune_rows 2",
        "widths",
        "quantize",
        "dense",
        "encodings",
    ]
    assert saved["zero_rows"] == report.zero_rows * (8 + 4 * (1 + 5))
    assert all(size > 0 for size in saved.values())
    rest = report.bytes_before - report.bytes_after - sum(saved.values())
    assert abs(rest) < 12_000  # headers of the files, model.json, table.json


def test_the_same_plan_makes_the_same_bytes(checkpoint, tmp_path):
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        compress(checkpoint, composed(), tmp_path / name)
    for path in (tmp_path / "once").rglob("*.*"):
        assert (
            tmp_path / "twice" / path.relative_to(tmp_path / "once")
        ).read_bytes() == path.read_bytes()


def test_without_steps_all_is_as_it_was(compressed):
    document = json.loads((compressed / "report.json").read_text())
    assert (document["lossless"], document["steps"]) == (True, [])
    assert not (compressed / "plan.yaml").exists()
    assert CompressionSettings().model_dump(mode="json") == {"zero_tolerance": 0.0}


def test_a_tolerance_is_not_lossless(checkpoint, tmp_path):
    assert not compress(checkpoint, CompressionSettings(zero_tolerance=0.01), tmp_path).lossless


def test_steps_need_a_checkpoint(compressed, tmp_path):
    with pytest.raises(InputError, match="not a compressed one"):
        compress(compressed, composed(), tmp_path)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["quantize", "widths"], "widths comes after quantize"),
        (["prune_rows", "drop_fields"], "drop_fields comes after prune_rows"),
        (["quantize", "prune_rows", "widths"], "widths comes after quantize"),
        (["fine_tune", "prune_rows"], "prune_rows after fine_tune"),
        (["dense", "drop_fields"], "drop_fields comes after dense"),
        (["quantize", "quantize"], "quantize is there twice"),
        (["fine_tune", "widths"], "widths comes after fine_tune"),
        (["fine_tune", "encodings", "quantize"], "encodings, quantize after fine_tune"),
        (["dense", "fine_tune"], "dense comes before fine_tune"),
    ],
)
def test_an_order_that_would_undo_a_step_is_refused(kinds, message):
    by_kind = {step["kind"]: step for step in [*STEPS, {"kind": "fine_tune"}]}
    with pytest.raises(ValidationError, match=message):
        composed([by_kind[kind] for kind in kinds])


def test_an_unknown_step_is_refused_with_the_known_ones():
    with pytest.raises(
        ValidationError,
        match=r"'drop_fields', 'prune_rows', 'widths', 'quantize', "
        "'product', 'dense', 'encodings', 'fine_tune'",
    ):
        composed([{"kind": "magic"}])


def test_relations_and_schema_are_those_that_scored(checkpoint, tmp_path):
    compress(
        checkpoint, composed([{"kind": "drop_fields", "fields": [RELATIONS[1].name]}]), tmp_path
    )
    description = read_description(tmp_path)
    assert description.relations == RELATIONS[:1]
    assert description.schema == SCHEMA
