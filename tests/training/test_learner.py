"""The step against plain arithmetic, and going on from disk as if never stopped."""

import threading

import numpy as np
import pytest
from training_data import MODEL, SCHEMA, TRAINING

from features.errors import InputError
from training.checkpoints import Description, write_description
from training.elastic import ElasticTable, GroupAdam, SlabSpec
from training.inputs import Inputs
from training.layout import Layout
from training.learner import Learner, ahead
from training.learners import Learners, Recipe
from training.models.ctr import DEEP, WIDE, logistic_regression
from training.ragged import Ragged

RECIPE = Recipe(SCHEMA, MODEL, TRAINING, ())


def some_inputs(rows=50, seed=0):
    """Inputs of `SCHEMA`: five single-valued id fields, one list, one number."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 4, rows)
    return Inputs(
        keys=draw.integers(-20, 20, (rows, 5)),
        lists=(Ragged(draw.integers(100, 110, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])),),
        dense=draw.normal(size=(rows, 2)).astype(np.float32),
        cross=np.zeros((rows, 0), np.float32),
        label=draw.integers(0, 2, rows).astype(np.float32),
    )


def numpy_probabilities(learner, inputs):
    """The forward pass row by row, in float64, straight from the table."""
    weights = {name: w.astype(np.float64) for name, w in learner.model.weights().items()}
    probabilities = []
    for i in range(len(inputs)):
        keys = [*inputs.keys[i][:, None], inputs.lists[0].take(np.array([i])).values]
        fields = {slab: [learner.table.lookup(k, slab).astype(np.float64) for k in keys] for slab in (WIDE, DEEP)}
        pooled = {slab: [v.mean(axis=0) if len(v) else np.zeros(v.shape[1]) for v in vectors] for slab, vectors in fields.items()}
        hidden = np.concatenate([*pooled[DEEP], inputs.dense[i]])
        for layer in range(2):
            hidden = np.maximum(hidden @ weights[f"deep/{layer}/kernel"] + weights[f"deep/{layer}/bias"], 0)
        logit = weights["bias"] + np.sum(pooled[WIDE]) + inputs.dense[i] @ weights["wide/dense"] + hidden @ weights["deep/out"]
        probabilities.append(1 / (1 + np.exp(-logit)))
    return np.array(probabilities)


def learn(learners, *seeds):
    return [learners.learn(learners.prepare(some_inputs(seed=seed))) for seed in seeds]


@pytest.fixture(scope="module")
def learners():
    fresh = Learners.fresh(RECIPE)
    learn(fresh, 1, 2, 3)
    return fresh


def test_probabilities_equal_a_numpy_reference(learners):
    inputs = some_inputs(rows=30, seed=9)
    np.testing.assert_allclose(learners.model.predict(inputs), numpy_probabilities(learners.model, inputs), rtol=1e-5)


def test_predicting_makes_no_row(learners):
    before = (len(learners.model.table), learners.model.table.keys_seen)
    strangers = some_inputs(seed=4)
    learners.model.predict(Inputs(strangers.keys + 10_000, strangers.lists, strangers.dense, strangers.cross, strangers.label))
    assert (len(learners.model.table), learners.model.table.keys_seen) == before


def test_predicting_nothing_gives_nothing(learners):
    assert learners.model.predict(some_inputs(rows=0)).shape == (0,)


def test_one_step_of_logistic_regression_by_hand():
    """Two impressions of one key, Adam's first step: every weight moves by the learning rate against its gradient's sign."""
    table = ElasticTable({WIDE: SlabSpec(1, GroupAdam(learning_rate=0.1), 0.0)}, fields=Layout.of(SCHEMA).keyed)
    learner = Learner(logistic_regression(SCHEMA), table, GroupAdam(learning_rate=0.2))
    inputs = Inputs(
        keys=np.full((2, 5), 7, np.int64),
        lists=(Ragged(np.array([8, 9], np.int64), np.array([0, 2, 2])),),
        dense=np.array([[2.0, 1.0], [-1.0, 1.0]], np.float32),
        cross=np.zeros((2, 0), np.float32),
        label=np.array([1, 1], np.float32),
    )
    loss = learner.learn(learner.prepare(inputs))
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(table.lookup(np.array([7, 8, 9]))[:, 0], [0.1, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(learner.model.weights()["bias"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(learner.model.weights()["wide/dense"], [0.2, 0.2], rtol=1e-5)


def test_learning_goes_on_from_disk_as_if_it_had_never_stopped(tmp_path):
    straight = Learners.fresh(RECIPE)
    learn(straight, 1, 2)
    straight.save(tmp_path)
    saved = Description(SCHEMA, MODEL, TRAINING, {}, (), 2)
    write_description(tmp_path, saved)
    resumed = Learners.restored(RECIPE, tmp_path, saved)
    assert learn(resumed, 3, 4) == learn(straight, 3, 4)
    straight.save(tmp_path / "straight")
    resumed.save(tmp_path / "resumed")
    files = sorted(p.relative_to(tmp_path / "straight") for p in (tmp_path / "straight").rglob("*") if p.is_file())
    assert len(files) > 10
    assert all((tmp_path / "straight" / f).read_bytes() == (tmp_path / "resumed" / f).read_bytes() for f in files)


def test_a_checkpoint_without_its_baseline_is_refused(tmp_path):
    learners = Learners.fresh(RECIPE)
    learners.save(tmp_path)
    (tmp_path / "baseline" / "dense.npz").unlink()
    with pytest.raises(InputError, match="baseline"):
        Learners.restored(RECIPE, tmp_path, Description(SCHEMA, MODEL, TRAINING, {}, (), 0))


def test_segments_and_flat_keys_by_hand():
    inputs = Inputs(
        keys=np.array([[1, 2], [3, 4]], np.int64),
        lists=(Ragged(np.array([5, 6], np.int64), np.array([0, 0, 2])), Ragged(np.array([7], np.int64), np.array([0, 1, 1]))),
        dense=np.zeros((2, 0), np.float32),
        cross=np.zeros((2, 0), np.float32),
        label=np.zeros(2, np.float32),
    )
    np.testing.assert_array_equal(inputs.flat_keys(), [1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(inputs.segments(), [2, 2, 1])  # impression 1 of list 0 twice, impression 0 of list 1


def test_ahead_keeps_the_order_and_works_in_one_other_thread():
    threads = set()

    def square(number):
        threads.add(threading.get_ident())
        return number * number

    assert list(ahead(square, range(20))) == [n * n for n in range(20)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_ahead_hands_errors_on():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // n, [2, 1, 0, 1]))


def test_ahead_of_nothing():
    assert list(ahead(str, [])) == []
