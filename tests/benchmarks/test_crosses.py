"""The benchmark of crosses: keys as the pipeline makes them, bytes and budgets by hand, figures,
and a quick run.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from crosses_model import (
    CONTEXT,
    MAY_FALL_SHORT,
    Chosen,
    ModelSize,
    Variant,
    against,
    cheapest_first,
    choose_half,
    cross_name,
    figures_of,
    footprint_of,
    halved,
    inputs_of,
    own_name,
    trainer_of,
    variants,
)
from frappe_files import ROWS, write_frappe
from harness.cache import Result
from harness.frappe_data import FIELDS, Frappe, Split
from harness.frappe_models import MODELS
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.selection.footprint import Complexity, Footprint
from compression.selection.ranking import FieldRanking
from compression.settings import SelectionSettings
from features.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = MODELS["ours_wide_deep"].settings_for(quick=True) | {"threads": 1}
PAIRS = (("item", "weekday"), ("user", "cost"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Frappe:
    folder = tmp_path_factory.mktemp("frappe")
    write_frappe(folder)
    return Frappe.read(folder)


def split(*rows: tuple[int, ...]) -> Split:
    return Split(np.array(rows, np.int32), np.zeros(len(rows), np.float32))


def key(text: str) -> int:
    """The formula of `features.keys`, for text that is salted already."""
    return int(tf.bitcast(tf.fingerprint([text], method="farmhash64"), tf.int64).numpy()[0])


def test_the_variants_are_what_they_say():
    known = variants(min_count=7, rank=3)
    assert known["neither"] == Variant()
    assert known["crosses"].crosses == (
        *(("user", f) for f in CONTEXT),
        *(("item", f) for f in CONTEXT),
    )
    assert (len(known["crosses"].crosses), len(known["crosses_all"].crosses)) == (16, 45)
    assert known["crosses_admitted"].training(8, 1, 100).admission.min_counts["item_x_city"] == 7
    assert (known["relations_vector"].relations.form, known["relations_vector"].relations.rank) == (
        "vector",
        3,
    )
    assert known["relations"].relations.fields == "all"


def test_a_schema_has_the_fields_and_then_the_crosses():
    schema = Variant(fields=("user", "item", "weekday", "cost"), crosses=PAIRS).schema()
    fields = ["frappe_user", "frappe_item", "frappe_weekday", "frappe_cost"]
    assert [f.name for f in schema.fields] == [*fields, "item_x_weekday", "user_x_cost"]
    assert schema.field("user_x_cost").of == ("frappe_user", "frappe_cost")


def test_an_variant_keeps_what_is_named_in_its_order():
    kept = Variant(crosses=PAIRS, min_count=3).keeping(
        {own_name("cost"), own_name("user"), cross_name(("user", "cost"))}
    )
    assert kept == Variant(fields=("user", "cost"), crosses=(("user", "cost"),), min_count=3)


def test_variants_that_differ_are_described_differently():
    described = [
        json.dumps(variant.described(), sort_keys=True) for variant in variants(2, 3).values()
    ]
    assert len(set(described)) == len(described)


def test_keys_are_those_of_the_formula():
    row = (5, 31, 1, 6, 2, 1, 2, 3, 4, 0)
    keys = inputs_of(
        Variant(fields=("user", "item", "weekday", "cost"), crosses=PAIRS), split(row)
    ).keys
    told = ["frappe_user\x1f5", "frappe_item\x1f31", "frappe_weekday\x1f6", "frappe_cost\x1f2"]
    assert keys.tolist() == [
        [key(text) for text in [*told, "item_x_weekday\x1f31\x1f6", "user_x_cost\x1f5\x1f2"]]
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30))
def test_two_rows_share_a_cross_key_if_and_only_if_they_share_both_values(pairs):
    rows = split(*((one, other, *[1] * 8) for one, other in pairs))
    keys = inputs_of(Variant(crosses=(("user", "item"),)), rows).keys[:, -1]
    assert len(set(keys.tolist())) == len(set(pairs))
    assert [keys.tolist().index(k) for k in keys] == [pairs.index(p) for p in pairs]


def test_an_empty_split_has_no_keys():
    assert inputs_of(Variant(crosses=PAIRS), split(*[(1,) * 10])).keys.shape == (1, 12)
    assert inputs_of(
        Variant(crosses=PAIRS), Split(np.zeros((0, 10), np.int32), np.zeros(0, np.float32))
    ).keys.shape == (0, 12)


@pytest.mark.slow
def test_a_model_takes_a_row_for_every_value_and_pair_of_the_training_rows(data):
    variant = Variant(crosses=PAIRS)
    trainer = trainer_of(variant, data, QUICK, seed=1)
    trainer.learn_epoch(0)
    codes = data.train.codes
    pairs = [
        len(np.unique(codes[:, [FIELDS.index(name) for name in pair]], axis=0)) for pair in PAIRS
    ]
    taken, dense = (
        ModelSize.by(variant, trainer.learner),
        sum(w.nbytes for w in trainer.learner.model.weights().values()),
    )
    assert taken.rows == sum(data.sizes) + sum(pairs)
    assert taken.bytes_of_rows == taken.rows * (8 + 4 * (QUICK["dim"] + 1))
    assert taken.bytes == taken.bytes_of_rows + dense
    assert taken.bytes_with_state > 3 * taken.rows * 4 * (QUICK["dim"] + 1) + 3 * dense
    complexities = footprint_of(variant, trainer.learner).complexities
    assert [complexities[cross_name(pair)].rows for pair in PAIRS] == pairs
    assert complexities["item_x_weekday"].online == 3


def test_values_of_a_cross_wait_for_their_row(data):
    trainer = trainer_of(Variant(crosses=PAIRS, min_count=10_000), data, QUICK, seed=1)
    trainer.learn_epoch(0)
    assert ModelSize.by(Variant(crosses=PAIRS), trainer.learner).rows == sum(data.sizes)


def test_scoring_makes_no_row(data):
    trainer = trainer_of(Variant(crosses=PAIRS), data, QUICK, seed=1)
    trainer.learn_epoch(0)
    before = trainer.learner.table.statistics().rows
    assert len(trainer.probabilities(data.test)) == ROWS["test"]
    assert trainer.learner.table.statistics().rows == before


def test_an_epoch_is_learned_in_an_order_of_its_own(data):
    first, again, second = (trainer_of(Variant(), data, QUICK, seed=1) for _ in range(3))
    first.learn_epoch(0)
    again.learn_epoch(0)
    second.learn_epoch(1)
    assert np.array_equal(first.probabilities(data.valid), again.probabilities(data.valid))
    assert not np.array_equal(first.probabilities(data.valid), second.probabilities(data.valid))


ARM = Variant(fields=("user", "item", "weekday", "cost"), crosses=PAIRS)
USE_ROWS = {
    "frappe_user": 10,
    "frappe_item": 40,
    "frappe_weekday": 7,
    "frappe_cost": 2,
    "item_x_weekday": 100,
    "user_x_cost": 20,
}
"""Of 179 rows half is 89."""


def footprint() -> Footprint:
    return Footprint(
        complexities={name: Complexity(1.0, 11, rows) for name, rows in USE_ROWS.items()},
        vocabularies={name: name for name in USE_ROWS},
        row_bytes=52,
        node_bytes={},
        dense={},
        blocks={},
    )


def test_half_the_bytes_take_the_first_that_fit_and_what_they_are_made_of():
    dearest_first = (
        "item_x_weekday",
        "user_x_cost",
        "frappe_item",
        "frappe_weekday",
        "frappe_user",
        "frappe_cost",
    )
    kept = halved(ARM, footprint(), dearest_first)
    assert kept == {"user_x_cost", "frappe_user", "frappe_cost", "frappe_item", "frappe_weekday"}
    assert footprint().of(kept).bytes == 79 * 52 <= 179 * 52 / 2


def test_half_the_bytes_with_no_room_for_a_field_are_refused():
    alone = Footprint({"frappe_item": Complexity(1.0, 11, 9)}, {"frappe_item": "i"}, 52, {}, {}, {})
    with pytest.raises(InputError, match="not even one field fits"):
        halved(Variant(fields=("item",)), alone, ("frappe_item",))


def test_the_cheapest_come_first_and_equals_by_name():
    sizes = {"b": 3, "a": 3, "c": 1}
    made = Footprint(
        {name: Complexity(1.0, 1, rows) for name, rows in sizes.items()}, {}, 1, {}, {}, {}
    )
    assert cheapest_first(FieldRanking({"a": 0.1, "b": 0.9, "c": 0.5}, made, {})) == ("c", "a", "b")


def test_a_choice_tells_importance_beside_rows():
    made = footprint()
    importance = {name: 0.1 * place for place, name in enumerate(USE_ROWS)}
    ranking = FieldRanking(importance, made, dict.fromkeys(USE_ROWS, 0.0))
    told = Chosen(ranking, frozenset({"user_x_cost"}), frozenset({"frappe_cost"})).as_dict()
    assert list(told) == list(reversed(USE_ROWS))
    assert told["user_x_cost"] == {
        "importance": 0.5,
        "rows": 20,
        "kept": True,
        "kept_by_cheapest": False,
    }
    assert told["frappe_cost"]["kept_by_cheapest"]


def test_gates_keep_what_a_click_depends_on(data):
    """Clicks follow the item, the dearest of the ten fields; half the bytes have room for it, or
    for useless crosses.
    """
    clicked = {
        name: (part.codes[:, 1] % 2).astype(np.float32)
        for name, part in (("train", data.train), ("valid", data.valid))
    }
    planted = replace(
        data, **{name: replace(getattr(data, name), label=label) for name, label in clicked.items()}
    )
    made = QUICK | {"rows": {"learning_rate": 0.02}, "learning_rate": 0.01, "dropout": 0.0}
    gates = SelectionSettings(learning_rate=0.05, passes=6, online=2.0)
    chosen = choose_half(
        Variant(crosses=(("daytime", "city"), ("weekday", "city"))), planted, made, gates, seed=1
    )
    assert chosen.ranking.order()[0] == "frappe_item"
    assert "frappe_item" in chosen.fscd
    size = chosen.ranking.footprint.of
    whole = size(frozenset(chosen.ranking.importance)).bytes
    assert all(size(kept).bytes <= whole / 2 for kept in (chosen.fscd, chosen.cheapest))


def result(valid, test, **figures) -> Result:
    taken = {
        "rows": 10,
        "bytes": 520,
        "bytes_of_rows": 500,
        "bytes_with_state": 2000,
        "examples_per_s": 7.0,
    }
    arrays = (np.array(answers, np.float32) for answers in (valid, test))
    return Result(taken | {"valid_auc": [0.5, 0.8, 0.7]} | figures, *arrays)


def test_figures_are_means_over_the_seeds():
    label = np.array([0, 1, 0, 1], np.float32)
    right, half = [0.2, 0.8, 0.2, 0.8], [0.2, 0.8, 0.8, 0.2]
    told = figures_of(
        [result(right, half), result(half, half, rows=20, examples_per_s=9.0)], label, label
    )
    assert (told["valid_auc"], told["test_auc"], told["test_auc_std"]) == (0.75, 0.5, 0.0)
    assert told["valid_auc_std"] == pytest.approx(0.5 / 2**0.5)
    assert told["test_log_loss"] == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2, rel=1e-6)
    assert (
        told["rows"],
        told["bytes"],
        told["examples_per_s"],
        told["best_epoch"],
        told["seeds"],
    ) == (15, 520, 8, 2.0, 2)


def test_a_blind_figure_is_of_validation_alone_and_one_seed_has_no_deviation():
    label = np.array([0, 1], np.float32)
    told = figures_of([result([0.1, 0.9], [0.9, 0.1])], label, None)
    assert not [name for name in told if name.startswith("test")]
    assert (told["valid_auc"], told["valid_auc_std"]) == (1.0, None)


@pytest.mark.parametrize(
    ("size", "score", "reached"),
    [
        (50, 0.9, True),
        (50, 0.9 - MAY_FALL_SHORT + 1e-6, True),
        (50, 0.9 - MAY_FALL_SHORT - 1e-6, False),
        (51, 0.95, False),
    ],
)
def test_half_the_bytes_and_hardly_less_auc_are_both_asked_for(size, score, reached):
    full, pruned = (
        {"bytes": 100, "test_auc": 0.9, "valid_auc": 0.1},
        {"bytes": size, "test_auc": score, "valid_auc": 0.1},
    )
    told = against(full, pruned)
    assert told["reached"] is reached
    assert (told["bytes_share"], told["test_auc_gain"]) == (size / 100, pytest.approx(score - 0.9))
    assert against({"bytes": 2, "valid_auc": 0.5}, {"bytes": 1, "valid_auc": 0.6})[
        "valid_auc_gain"
    ] == pytest.approx(0.1)


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/crosses.py", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.benchmark
def test_a_quick_run_prints_every_variant_and_learns_nothing_twice(tmp_path: Path):
    write_frappe(tmp_path)
    options = [
        "--quick",
        "--json",
        "--seeds",
        "2",
        "--arms",
        "neither,relations",
        "--data",
        str(tmp_path),
    ]
    options += ["--results", str(tmp_path / "results")]
    first = bench(*options)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert set(told["arms"]) == {"neither", "relations", "crosses"}
    assert (
        told["arms"]["neither"]["rows"]
        == told["arms"]["relations"]["rows"]
        < told["arms"]["crosses"]["rows"]
    )
    assert all(
        0 < told["arms"][name]["test_auc"] < 1 and told["arms"][name]["seeds"] == 2
        for name in told["arms"]
    )
    assert all(told["halved"]["crosses"][by]["bytes_share"] <= 0.5 for by in ("fscd", "cheapest"))
    assert len(told["halved"]["crosses"]["uses"]) == 26
    assert "crosses_fscd, seed 2" in first.stderr
    again = bench(*options)
    assert json.loads(again.stdout) == told
    assert "seed 1" not in again.stderr


@pytest.mark.benchmark
def test_a_quick_run_without_test_figures_prints_tables(tmp_path: Path):
    write_frappe(tmp_path)
    options = [
        "--quick",
        "--blind",
        "--seeds",
        "1",
        "--arms",
        "",
        "--halve",
        "crosses",
        "--data",
        str(tmp_path),
    ]
    done = bench(*options, "--results", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    assert "what half the bytes keep" in done.stdout


def test_an_unknown_variant_is_refused_with_the_known_ones(refused):
    assert "relations_vector" in refused("crosses.py", "--arms", "oracle")
