"""The relation network: symmetry, formula, special cases, and an advantage over a perceptron."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from features.errors import InputError
from features.schema import Categorical, Schema, Timestamp
from training.data.layout import FieldLayout
from training.models.ctr import DEEP, WIDE, CtrModel
from training.models.parts.relation_network import RelationNetwork
from training.models.weight_transfer import carry_over
from training.settings import ModelSettings, RelationNetworkSettings

DIM, BATCH = 8, 50


def layout(*names):
    fields = tuple(Categorical(name=name) for name in names)
    return FieldLayout.of(
        Schema(label="y", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields)
    )


def network(names=("a", "b", "c"), **settings):
    return RelationNetwork(layout(*names), DIM, RelationNetworkSettings(**settings))


def some_weights(relations, seed=0):
    draw = np.random.default_rng(seed)
    return {
        n: tf.constant(draw.normal(size=w.shape), tf.float32)
        for n, w in relations.initial_weights(draw).items()
    }


def some_vectors(fields=3, seed=1, batch=BATCH):
    return np.random.default_rng(seed).normal(size=(batch, fields, DIM)).astype(np.float32)


def symmetric(weights):
    """S of each head, float64."""
    if "relation/matrix" in weights:
        matrix = weights["relation/matrix"].numpy().astype(np.float64)
        return (matrix + matrix.transpose(0, 2, 1)) / 2
    basis, scales = (
        weights["relation/basis"].numpy().astype(np.float64),
        weights["relation/scales"].numpy(),
    )
    return np.einsum("hdr,hr,her->hde", basis, scales, basis)


VARIANTS = [
    {"heads": heads, "rank": rank, "form": form}
    for heads in (1, 3)
    for rank in (None, 2)
    for form in ("scalar", "vector")
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_relations_equal_their_formula(variant):
    relations, v = network(**variant), some_vectors()
    weights = some_weights(relations)
    s, expected = symmetric(weights), []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for head in s:
            related = ((v[:, i] @ head) * v[:, j] + (v[:, j] @ head) * v[:, i]) / 2
            expected.append(
                related
                if variant["form"] == "vector"
                else related.sum(axis=1, keepdims=True) / DIM**0.5
            )
    np.testing.assert_allclose(
        relations.outputs(weights, tf.constant(v)),
        np.concatenate(expected, axis=1),
        rtol=2e-4,
        atol=2e-4,
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("batch", [1, 3, 50, 257])
def test_swapping_two_fields_changes_no_bit_of_their_relation(variant, batch):
    relations, v = network(("a", "b"), **variant), some_vectors(fields=2, batch=batch)
    weights = some_weights(relations)
    there, back = (
        relations.outputs(weights, tf.constant(x)).numpy()
        for x in (v, np.ascontiguousarray(v[:, ::-1]))
    )
    np.testing.assert_array_equal(there, back)


def test_the_scalar_form_is_that_of_the_bilinear_form():
    relations, v = network(("a", "b")), some_vectors(fields=2)
    weights = some_weights(relations)
    expected = np.einsum("bd,de,be->b", v[:, 0], symmetric(weights)[0], v[:, 1]) / DIM**0.5
    np.testing.assert_allclose(
        relations.outputs(weights, tf.constant(v))[:, 0], expected, rtol=1e-4, atol=1e-4
    )


def test_the_identity_gives_the_inner_product_of_a_factorisation_machine():
    relations, v = network(), some_vectors()
    weights = {"relation/matrix": tf.eye(DIM)[tf.newaxis]}
    total = relations.outputs(weights, tf.constant(v)).numpy().sum(axis=1) * DIM**0.5
    expected = ((v.sum(axis=1) ** 2).sum(axis=1) - (v**2).sum(axis=(1, 2))) / 2
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-4)


def test_the_matrix_has_a_symmetric_gradient():
    relations, v = network(), some_vectors()
    matrix = tf.Variable(some_weights(relations)["relation/matrix"])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(relations.outputs({"relation/matrix": matrix}, tf.constant(v)) ** 2)
    gradient = tape.gradient(loss, matrix).numpy()
    np.testing.assert_array_equal(gradient, gradient.transpose(0, 2, 1))


def test_named_fields_are_related_and_no_others():
    relations = network(("a", "b", "c", "d"), fields=("d", "b"))
    assert relations.pairs == (("d", "b"),)
    weights, v = some_weights(relations), some_vectors(fields=4)
    changed = v.copy()
    changed[:, [0, 2]] += 1
    np.testing.assert_array_equal(
        *(relations.outputs(weights, tf.constant(x)) for x in (v, changed))
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"fields": ("a", "z")}, "'z'"),
        ({"fields": ("a", "a")}, "two id fields"),
        ({"rank": DIM + 1}, "exceeds the width"),
    ],
)
def test_relations_that_cannot_be_are_refused(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        network(**settings)


def test_a_removed_field_takes_its_relations_with_it_and_leaves_the_others():
    settings = ModelSettings(dim=DIM, hidden=(4,), relations=RelationNetworkSettings())
    before, after = (
        CtrModel(_schema(*names), settings, seed=len(names))
        for names in (("a", "b", "c"), ("a", "c"))
    )
    learned = {
        n: np.random.default_rng(5).normal(size=w.shape).astype(np.float32)
        for n, w in before.weights().items()
    }
    carried = carry_over(learned, after.weights(), before.blocks(), after.blocks())
    np.testing.assert_array_equal(carried["relation/matrix"], learned["relation/matrix"])
    np.testing.assert_array_equal(
        carried["deep/0/kernel"][-1], learned["deep/0/kernel"][-2]
    )  # a×c: second of three pairs
    np.testing.assert_array_equal(
        carried["deep/0/kernel"][DIM : 2 * DIM], learned["deep/0/kernel"][2 * DIM : 3 * DIM]
    )  # c


def _schema(*names):
    fields = tuple(Categorical(name=name) for name in names)
    return Schema(label="y", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields)


def _fitted_loss(settings, vectors, target, steps=400):
    """Mean squared error on unseen pairs after fitting the dense weights by full-batch Adam."""
    model = CtrModel(_schema("a", "b"), settings, seed=2)
    learned = list(model.variables_by_name().values())
    moments = [(tf.Variable(tf.zeros_like(w)), tf.Variable(tf.zeros_like(w))) for w in learned]

    @tf.function
    def step(v, y, t):
        with tf.GradientTape() as tape:
            tape.watch(learned)
            loss = tf.reduce_mean((_logit(model, v) - y) ** 2)
        for w, (m, s), g in zip(learned, moments, tape.gradient(loss, learned), strict=True):
            m.assign(0.9 * m + 0.1 * g)
            s.assign(0.99 * s + 0.01 * g * g)
            w.assign_sub(0.01 * (m / (1 - 0.9**t)) / (tf.sqrt(s / (1 - 0.99**t)) + 1e-8))

    half = len(target) // 2
    for number in range(1, steps + 1):
        step(tf.constant(vectors[:half]), tf.constant(target[:half]), tf.constant(float(number)))
    return float(np.mean((_logit(model, tf.constant(vectors[half:])).numpy() - target[half:]) ** 2))


def _logit(model, vectors):
    batch = tf.shape(vectors)[0]
    return model.forward(
        {WIDE: tf.zeros([batch, 2, 1]), DEEP: vectors}, tf.zeros([batch, 0]), tf.zeros([batch, 0])
    )


@pytest.mark.slow
def test_it_recovers_a_planted_symmetric_bilinear_logit_that_a_perceptron_misses():
    draw = np.random.default_rng(3)
    planted = draw.normal(size=(DIM, DIM))
    vectors = draw.normal(size=(4000, 2, DIM)).astype(np.float32)
    target = (
        np.einsum("bd,de,be->b", vectors[:, 0], planted + planted.T, vectors[:, 1]).astype(
            np.float32
        )
        / DIM
    )
    with_relations = _fitted_loss(
        ModelSettings(dim=DIM, hidden=(), relations={"fields": "all"}), vectors, target
    )
    without = _fitted_loss(ModelSettings(dim=DIM, hidden=(32, 16)), vectors, target)
    assert with_relations < 0.01 * target.var() < without


GRADIENTS = """
import hashlib, sys
import numpy as np
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from training.models.parts.relation_network import RelationNetwork
from training.settings import RelationNetworkSettings
class Layout:
    keyed = tuple("abcdefghi")
for form, rank in (("scalar", None), ("vector", None), ("scalar", 4)):
    settings = RelationNetworkSettings(fields="all", heads=2, rank=rank, form=form)
    net, draw = RelationNetwork(Layout(), 16, settings), np.random.default_rng(0)
    weights = {k: tf.Variable(v) for k, v in net.initial_weights(draw).items()}
    vectors = tf.constant(draw.normal(size=(512, 9, 16)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(net.outputs(weights, vectors)))
    for gradient in tape.gradient(loss, [*weights.values()]):
        print(hashlib.sha256(gradient.numpy().tobytes()).hexdigest())
"""


@pytest.mark.covers("audit-M1")
@pytest.mark.process
@pytest.mark.slow
def test_gradients_do_not_depend_on_the_number_of_threads():
    """The same request gave another model on a machine with other cores."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", GRADIENTS, threads],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "8")
    }
    assert len(printed) == 1
    assert len(printed.pop().split()) == 4
