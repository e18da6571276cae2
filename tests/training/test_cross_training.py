"""Frozen encodings in training: what they add, and that no graph knows a scored slice's labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from training_data import MODEL, SCHEMA, TRAINING, array_bytes, planted_day, write_impressions

from features import keys as feature_keys
from features.schema import Relation
from training.data.examples import read_examples
from training.data.inputs import Featurizer
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from training.fit.trainer import TrainRequest, train_day
from training.models.encoding_inputs import Encoding, sorted_nodes, write_encodings

pytestmark = pytest.mark.slow

RELATIONS = (Relation(left="user_id", right="item_id"),)
USERS, ITEMS = [f"u{i}" for i in range(30)], [f"i{i}" for i in range(40)]


def nodes(field, tokens, biases):
    keys = feature_keys.keys(field, tf.constant(tokens)).numpy()
    return sorted_nodes(keys, np.zeros((len(tokens), 2)), np.array(biases))


def write_truth(folder, scale=1.0):
    """Encodings that know the planted tastes and appeals (see `planted_day`)."""
    taste, appeal = (
        np.random.default_rng(1).normal(size=30) * 2,
        np.random.default_rng(2).normal(size=40) * 2,
    )
    folder.mkdir()
    encoding = Encoding(
        nodes("user_id", USERS, scale * taste), nodes("item_id", ITEMS, scale * appeal), 0.0
    )
    write_encodings(folder / "encodings.npz", {"user_id__item_id": encoding})
    return folder


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    return [planted_day(folder / str(day), day, rows=600) for day in range(2)]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return write_truth(tmp_path_factory.mktemp("encodings") / "truth")


def request(partition, **changes):
    return replace(TrainRequest(SCHEMA, MODEL, TRAINING, RELATIONS, partition), **changes)


def test_true_encodings_make_a_better_model_than_none(days, truth, tmp_path):
    without = train_day(request(days[0]), tmp_path / "without")
    with_truth = train_day(request(days[0], encodings=truth), tmp_path / "with")
    assert with_truth["auc"] > without["auc"] + 0.05


def test_the_checkpoint_keeps_the_encodings_and_the_scorer_uses_them(days, truth, tmp_path):
    train_day(request(days[0], encodings=truth), tmp_path / "out")
    encoding = read_checkpoint(tmp_path / "out").encodings["user_id__item_id"]
    np.testing.assert_array_equal(
        encoding.left.keys, np.sort(feature_keys.keys("user_id", tf.constant(USERS)).numpy())
    )
    examples = read_examples(days[1], SCHEMA, RELATIONS)
    swapped = replace(examples, pairs=np.zeros_like(examples.pairs))
    scorer = Scorer.load(tmp_path / "out")
    assert not np.allclose(scorer.score(examples), scorer.score(swapped))


def test_unknown_nodes_get_the_mean_and_no_encoding_gets_zero(days, truth):
    examples = read_examples(days[0], SCHEMA, RELATIONS)
    nobody = replace(examples, pairs=np.zeros_like(examples.pairs))
    known = Encoding(
        nodes("user_id", USERS, np.ones(30)), nodes("item_id", ITEMS, np.ones(40)), -0.75
    )
    assert set(
        Featurizer(SCHEMA, RELATIONS, {}, {"user_id__item_id": known}).inputs(nobody).cross[:, 0]
    ) == {-0.75}
    assert set(
        Featurizer(SCHEMA, RELATIONS, {}, {"user_id__item_id": known}).inputs(examples).cross[:, 0]
    ) == {1.25}
    assert set(Featurizer(SCHEMA, RELATIONS, {}, {}).inputs(examples).cross[:, 0]) == {0.0}


def test_relations_that_are_not_declared_are_left_out(days, truth, tmp_path):
    train_day(request(days[0], encodings=truth, relations=()), tmp_path / "out")
    assert read_checkpoint(tmp_path / "out").encodings == {}


def test_yesterdays_slice_and_score_use_yesterdays_encodings(days, truth, tmp_path):
    """Today's graph holds the labels of yesterday's slice: it must change nothing there."""
    train_day(request(days[0], encodings=truth), tmp_path / "first")
    lone = request(days[1], previous_checkpoint=tmp_path / "first", previous_partition=days[0])
    write_impressions(
        tmp_path / "one", pd.read_parquet(days[1] / "impressions").head(1).to_dict("list")
    )
    other = write_truth(tmp_path / "other", scale=-3.0)
    figures = [
        train_day(replace(lone, partition=tmp_path / "one", encodings=encodings), tmp_path / name)
        for name, encodings in (("a", truth), ("b", other))
    ]
    assert figures[0]["log_loss_progressive"] == figures[1]["log_loss_progressive"]
    ours, theirs = array_bytes(tmp_path / "a"), array_bytes(tmp_path / "b")
    judged = {"heldout.parquet", "quality.json", "plots/calibration.png"}
    assert {name for name in ours if ours[name] != theirs[name]} == {"encodings.npz", *judged}
