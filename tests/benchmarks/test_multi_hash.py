"""The multi-hash benchmark: its loops against TensorFlow, its split, its budgets, and a quick run
as a person starts it.
"""

import json
import subprocess
import sys
from pathlib import Path

import multi_hash_model as movielens
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from multi_hash_model import (
    DIM,
    SYSTEMS,
    Adam,
    Recipe,
    aucs_by_pass,
    chosen_passes,
    figures,
    learn,
    shortened,
    system,
    tables,
)

from training.models.multi_hash.keys import combine
from training.models.multi_hash.settings import MultiHashSettings

REPOSITORY = Path(__file__).resolve().parents[2]
IDS = 30
SETTINGS = [
    (None, 0),
    (MultiHashSettings(rows=8, hashes=2), 5),
    (MultiHashSettings(rows=40, hashes=4, combine="concat"), 3),
    (MultiHashSettings(rows=6, hashes=3, combine="weighted", shared=True, weight_rows=11), 0),
    (MultiHashSettings(rows=4, hashes=2, combine="weighted", ids=IDS), 6),
]


def made(settings, own):
    return tables(settings, "v", IDS, own, np.random.default_rng(5))


@pytest.mark.parametrize(("settings", "own"), SETTINGS)
def test_composed_vectors_are_those_that_are_served(settings, own):
    field, out = made(settings, own), np.full((IDS, DIM), 7, np.float32)
    field.compose(out)
    np.testing.assert_allclose(out, field.served(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("settings", "own"), SETTINGS[1:])
def test_gradients_are_those_of_tensorflow(settings, own):
    field = made(settings, own)
    slope = np.random.default_rng(6).normal(size=(IDS, DIM)).astype(np.float32)
    got = tuple(np.zeros_like(part) for part in field.parameters)
    field.take_back(slope, got)
    vectors, weights = (tf.Variable(part) for part in field.parameters)
    with tf.GradientTape() as tape:
        shares = tf.gather(weights, field.shares) if settings.combine == "weighted" else None
        loss = tf.reduce_sum(
            combine(tf.gather(vectors, field.rows), settings, shares, tf.constant(field.own))
            * slope
        )
    expected = tape.gradient(
        loss, [vectors, weights], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, tf.convert_to_tensor(theirs), rtol=1e-4, atol=1e-5)


def test_a_step_of_adamw_by_hand():
    weights = np.array([[1.0, -2.0]], np.float32)
    optimizer = Adam(weights)
    for slope in (0.5, -0.1):
        optimizer.slope[:] = slope
        optimizer.step(Recipe(learning_rate=0.1, decay=0.01))
    assert not optimizer.slope.any()
    np.testing.assert_allclose(weights, by_hand([1.0, -2.0], (0.5, -0.1)), rtol=1e-5)


def by_hand(weights, slopes):
    """AdamW as its paper has it, decay .01 and rate .1, in float64."""
    w, first, second = np.array([weights]), 0.0, 0.0
    for t, slope in enumerate(slopes, 1):
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        w = w - 0.1 * (first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8) + 0.01 * w)
    return w


def ratings(rows):
    return pd.DataFrame(rows, columns=["user", "item", "rating", "time"])


def test_the_last_two_ratings_of_each_user_are_tested_and_the_two_before_validate():
    told = movielens.split(
        ratings([("a", f"i{t}", 5, t) for t in (6, 1, 5, 2, 4, 3)] + [("b", "i1", 1, 9)])
    )
    assert [len(part.label) for part in (told.train, told.valid, told.test)] == [2, 2, 3]
    assert (told.users, told.items) == (2, 6)
    np.testing.assert_array_equal(
        told.train.item, [0, 1]
    )  # i1, i2: the only ones learned, so the first by frequency
    np.testing.assert_array_equal(told.test.label, [1, 1, 0])


def test_indices_go_by_frequency_in_what_is_learned():
    rows = [("often", "x", 4, t) for t in range(9)] + [("seldom", "x", 2, t) for t in range(6)]
    told = movielens.split(ratings(rows))
    assert np.bincount(told.train.user).tolist() == [5, 2]


def test_neutral_ratings_are_left_out_or_positive(tmp_path):
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"u\ti{t}\t{rating}\t{t}" for t, rating in enumerate((1, 2, 3, 4, 5, 3))]
    (tmp_path / "ml-1m.inter").write_text("\n".join(lines))
    dropped, kept = (movielens.read(tmp_path, drop_neutral=drop) for drop in (True, False))
    assert [len(part.label) for part in (dropped.train, dropped.valid, dropped.test)] == [0, 2, 2]
    np.testing.assert_array_equal(dropped.valid.label, [0, 0])
    np.testing.assert_array_equal(kept.valid.label, [1, 1])


@pytest.mark.parametrize("rows", [4096, 512])
@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "full"])
def test_no_system_exceeds_its_budget(name, rows):
    made = system(name, rows, users=6038, items=3628)
    for plan in (made.user, made.item):
        assert 0.9 * min(rows, plan.ids) * DIM < plan.numbers <= rows * DIM


@pytest.mark.parametrize("rows", [64, 200, 512, 4096])
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_more_can_be_learned_than_is_told(name, rows):
    made = system(name, rows, users=3000, items=500)
    for plan in (made.user, made.item):
        field = tables(plan.settings, "v", plan.ids, plan.own, np.random.default_rng(0))
        assert (
            0.5 * min(plan.numbers, plan.ids * DIM)
            < sum(part.size for part in field.parameters)
            <= plan.numbers
        )


def test_ours_keeps_all_ids_if_they_fit_and_splits_the_rest_by_frequency():
    made = system("ours", 512, users=6038, items=500)
    assert (made.item.numbers, made.item.settings.hashes) == (500 * DIM, 1)
    assert (made.user.own, made.user.settings.hashes, made.user.settings.combine) == (
        322,
        1,
        "weighted",
    )


def test_learning_finds_what_was_planted_and_repeats_itself():
    split = movielens.drawn()
    plan = system("full", 64, split.users, split.items)

    def learned():
        rng = np.random.default_rng(1)
        fields = [
            tables(None, name, ids, 0, rng)
            for name, ids in (("u", split.users), ("i", split.items))
        ]
        return learn(
            *fields, split.train, split.test, Recipe(epochs=8, batch=256, learning_rate=0.01), rng
        )

    first = learned()
    assert max(first) > 0.75
    assert learned() == first
    assert plan.user.numbers == split.users * DIM


def test_a_run_that_was_made_is_read_and_not_made_again(tmp_path):
    split = movielens.drawn()
    short = shortened(system("ours", 64, split.users, split.items), 2)
    first = aucs_by_pass(short, split, 1, tmp_path)
    (path,) = (tmp_path / "testing").glob("*.json")
    path.write_text(path.read_text().replace(str(first[0]), "0.125"))
    assert aucs_by_pass(short, split, 1, tmp_path)[0] == 0.125
    assert aucs_by_pass(shortened(short, 1), split, 1, tmp_path) != [0.125]
    assert chosen_passes(short, split, tmp_path) in (1, 2)


def test_figures_by_hand():
    made = system("concat_4", 4096, users=6040, items=3706)
    got = figures("concat_4", 4096, made, 2, [[0.7, 0.8, 0.9], [0.7, 0.82, 0.81]])
    assert (got["auc_mean"], got["auc_best_pass_mean"], got["auc_best_pass_range"]) == (
        0.81,
        0.86,
        [0.82, 0.9],
    )
    assert (got["published"], got["reached"], got["numbers_user"]) == (
        (0.857, 0.863),
        True,
        4096 * 32,
    )
    assert figures("ours", 4096, made, 1, [[0.5]])["reached"] is None


@pytest.mark.benchmark
def test_a_quick_run_prints_every_system(tmp_path):
    command = [
        sys.executable,
        "benchmarks/multi_hash.py",
        "--quick",
        "--json",
        "--seeds",
        "2",
        "--cache",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [name.split("@")[0] for name in told] == list(SYSTEMS)
    assert all(0 < values["auc_mean"] < 1 and values["auc_std"] >= 0 for values in told.values())


def test_an_unknown_system_is_refused_with_the_known_ones(refused):
    assert "hash_embeddings" in refused("multi_hash.py", "--quick", "--systems", "oracle")
