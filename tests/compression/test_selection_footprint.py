"""Scores of costs, FSCD's identity between prior and penalty, and sizes of sets by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_fields import MODEL, NOISE, RECIPE, SCHEMA, SIGNAL, TRAINING, planted_inputs

from compression.selection.footprint import Complexity, Footprint, ModelSize, measure, prior_keep
from compression.settings import SelectionSettings
from features.schema import Categorical, Cross, Relation, Schema, Timestamp
from training.data.inputs import Inputs
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.encoding_inputs import Encoding, Nodes
from training.models.weight_transfer import Blocks
from training.settings import OptimizerSettings

WEIGHT = st.floats(0, 0.5)


@settings(deadline=None)
@given(WEIGHT, WEIGHT, WEIGHT, st.floats(0, 10), st.integers(0, 16), st.integers(0, 16))
def test_the_penalty_weight_is_the_complexity_score(online, width, rows, o, e, n):
    settings = SelectionSettings(online=online, width=width, rows=rows)
    g = Complexity(o, e, n).score(settings)
    assert g == pytest.approx(online * o + width * e + rows * n, abs=1e-12)
    theta = np.longdouble(1) / (
        1 + np.exp(np.longdouble(g))
    )  # 1 - σ(G), in more digits than the identity is tested to
    assert abs(float(np.log1p(-theta) - np.log(theta)) - g) < 1e-12
    assert prior_keep(g) == pytest.approx(float(theta), rel=1e-12)


def test_the_dearer_a_field_the_less_likely_its_prior():
    assert prior_keep(0.0) == 0.5
    assert prior_keep(3.0) < prior_keep(1.0) < 0.5


def nodes(count, width=3):
    return Nodes(
        np.arange(count), np.zeros((count, width), np.float32), np.zeros(count, np.float32)
    )


FOOTPRINT = Footprint(
    complexities={
        "ad": Complexity(1, 5, 10),
        "seen": Complexity(2.5, 5, 10),
        "user": Complexity(1, 5, 7),
        "age": Complexity(1, 2, 0),
        "ad__user": Complexity(2, 1, 6),
    },
    vocabularies={"ad": "ad", "seen": "ad", "user": "user"},
    row_bytes=28,
    node_bytes={"ad__user": 144},
    dense={
        "kernel": np.zeros((18, 8), np.float32),
        "pairs": np.zeros((3, 3), np.float32),
        "bias": np.zeros(8, np.float32),
    },
    blocks={
        "kernel": Blocks.of(
            [
                ("field:ad", 5),
                ("field:seen", 5),
                ("field:user", 5),
                ("dense:age", 2),
                ("cross:ad__user", 1),
            ]
        ),
        "pairs": Blocks.of([("field:ad", 1), ("field:seen", 1), ("field:user", 1)]).on_axes(2),
    },
)
SETS = {
    "everything": (
        {"ad", "seen", "user", "age", "ad__user"},
        ModelSize(5, 17 * 28 + 144 + 18 * 32 + 36 + 32, 7.5),
    ),
    "fields of one vocabulary share its rows": (
        {"ad", "seen"},
        ModelSize(2, 10 * 28 + 10 * 32 + 16 + 32, 3.5),
    ),
    "one of them keeps all its rows": ({"seen"}, ModelSize(1, 10 * 28 + 5 * 32 + 4 + 32, 2.5)),
    "a number has no rows": ({"age"}, ModelSize(1, 2 * 32 + 0 + 32, 1.0)),
    "nothing but what belongs to no field": (set(), ModelSize(0, 32, 0.0)),
}


@pytest.mark.parametrize("case", SETS)
def test_sizes_by_hand(case):
    kept, expected = SETS[case]
    assert FOOTPRINT.of(frozenset(kept)) == expected


@pytest.fixture(scope="module")
def learner():
    learner = ModelAndBaseline.new(RECIPE).model
    learner.train_step(learner.prepare(planted_inputs(300, seed=2)))
    return learner


def test_complexities_are_measured(learner):
    inputs = planted_inputs(200, seed=3)
    found = measure(SCHEMA, learner, inputs, {}).complexities
    assert list(found) == [*SIGNAL, *NOISE, "noise_list", "signal_number", "noise_number"]
    rows = {name: figures.rows for name, figures in learner.table.statistics().fields.items()}
    assert found["signal_0"] == Complexity(1.0, MODEL.dim + 1, rows["signal_0"])
    assert found["noise_list"] == Complexity(
        len(inputs.lists[0].values) / 200, MODEL.dim + 1, rows["noise_list"]
    )
    assert found["signal_number"] == Complexity(1.0, 2, 0)


def test_the_size_of_all_fields_is_that_of_the_arrays(learner):
    footprint = measure(SCHEMA, learner, planted_inputs(10, seed=3), {})
    weights = sum(w.nbytes for w in learner.model.weights().values())
    assert (
        footprint.of(frozenset(footprint.complexities)).bytes
        == len(learner.table) * (8 + 4 * (MODEL.dim + 1)) + weights
    )


def test_the_size_without_a_field_is_that_of_a_model_without_it(learner):
    footprint = measure(SCHEMA, learner, planted_inputs(10, seed=3), {})
    smaller = Schema.model_validate(
        SCHEMA.model_dump() | {"fields": [f.model_dump() for f in SCHEMA.fields[1:]]}
    )
    weights = ModelAndBaseline.new(
        LearnerConfig(smaller, MODEL, TRAINING, ())
    ).model.model.weights()
    rows = footprint.complexities["signal_0"].rows
    expected = (len(learner.table) - rows) * (8 + 4 * (MODEL.dim + 1)) + sum(
        w.nbytes for w in weights.values()
    )
    assert footprint.of(frozenset(footprint.complexities) - {"signal_0"}).bytes == expected


def test_shared_vocabularies_crosses_and_relations():
    fields = (
        Categorical(name="clicked", vocabulary="ad"),
        Categorical(name="shown", vocabulary="ad"),
        Cross(name="pair", of=("clicked", "shown")),
    )
    schema = Schema(label="l", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields)
    relations = (Relation(left="clicked", right="shown"),)
    learner = ModelAndBaseline.new(LearnerConfig(schema, MODEL, TRAINING, relations)).model
    keys = np.array([[1, 2, 11], [2, 3, 12], [1, 3, 13]])
    inputs = Inputs(
        keys,
        (),
        np.zeros((3, 0), np.float32),
        np.zeros((3, 1), np.float32),
        np.array([0, 1, 0], np.float32),
    )
    learner.train_step(learner.prepare(inputs))
    encodings = {"clicked__shown": Encoding(nodes(4), nodes(6), 0.0)}
    footprint = measure(schema, learner, inputs, encodings)
    width = MODEL.dim + 1
    assert footprint.complexities == {
        "clicked": Complexity(1.0, width, 3),
        "shown": Complexity(1.0, width, 3),
        "pair": Complexity(3.0, width, 3),
        "clicked__shown": Complexity(2.0, 1, 10),
    }
    assert footprint.node_bytes == {"clicked__shown": 10 * (8 + 3 * 4 + 4)}
    assert measure(schema, learner, inputs, {}).complexities["clicked__shown"] == Complexity(
        2.0, 1, 0
    )


@pytest.mark.covers("audit-C08")
def test_rows_that_are_zero_cost_nothing():
    """They are left out of the export, so a field of zero rows is cheap."""
    strong = OptimizerSettings(learning_rate=0.1, l21=1.0)
    model = MODEL.model_copy(update={"wide": strong, "deep": strong})
    learner = ModelAndBaseline.new(replace(RECIPE, model=model)).model
    learner.train_step(learner.prepare(planted_inputs(300, seed=2)))
    figures = learner.table.statistics().fields["signal_0"]
    assert figures.zero_rows > 0
    found = measure(SCHEMA, learner, planted_inputs(200, seed=3), {}).complexities["signal_0"]
    assert found.rows == figures.rows - figures.zero_rows
