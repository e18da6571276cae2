"""Where learning starts: a rare click must not cost the first day its calibration."""

import numpy as np
import pytest
from training_data import MODEL, SCHEMA, TRAINING, planted_day

from training.data.examples import read_examples
from training.data.inputs import Featurizer
from training.data.scalers import Scaler
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    examples = read_examples(planted_day(tmp_path_factory.mktemp("day"), rows=50), SCHEMA, ())
    scalers = {field.name: Scaler(0.0, 1.0) for field in SCHEMA.dense_fields()}
    return Featurizer(SCHEMA, (), scalers, {}).inputs(examples)


def fresh():
    return ModelAndBaseline.new(LearnerConfig(SCHEMA, MODEL, TRAINING, ()))


def labels(clicks, rows):
    return np.array([1.0] * clicks + [0.0] * (rows - clicks), np.float32)


def test_both_models_start_at_the_click_rate(inputs):
    learners = fresh()
    before = learners.model.model.weights()
    learners.start_at_click_rate(labels(3, 100))
    bias = np.log(0.03 / 0.97)
    assert learners.model.model.weights()["bias"] == pytest.approx(bias, rel=1e-6)
    np.testing.assert_allclose(learners.baseline.predict(inputs), 0.03, rtol=1e-5)
    after = learners.model.model.weights()
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "bias")


@pytest.mark.parametrize("label", [labels(0, 10), labels(10, 10), labels(0, 0)])
def test_labels_of_one_class_leave_the_biases(label):
    learners = fresh()
    learners.start_at_click_rate(label)
    assert learners.model.model.weights()["bias"] == 0
