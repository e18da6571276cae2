"""Models with groups of fields: compressed, exported, ranked and pruned as groups."""

import numpy as np
import pytest
from awkward_day import MODEL, RELATIONS, SCHEMA

from compression.export.write import export
from compression.pruning import compress
from compression.selection.footprint import measure, needs
from compression.settings import CompressionSettings
from pipelines.cli.select_features import prune_document
from training.data.inputs import Featurizer
from training.data.scalers import Scaler
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, read_checkpoint, write_description
from training.fit.learner import Learner
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.encoding_inputs import write_encodings
from training.models.gates import GatedModel, GateRule, uses
from training.settings import GroupSettings, TrainingSettings
from validation.model.requests import read_requests

KEYED = [f.name for f in SCHEMA.key_fields()]
POOLED = GroupSettings(name="pooled", fields=tuple(KEYED[:2]), dim=2, pooling="sum")
GROUPED = MODEL.model_copy(
    update={"groups": (POOLED, GroupSettings(name="last", fields=(KEYED[-1],), dim=5))}
)
SCALERS = {"price": Scaler(2.5, 4.0), "age": Scaler(-0.5, 0.3)}


@pytest.fixture(scope="module")
def grouped(trained_on, tmp_path_factory):
    """A learner and its inputs, and the checkpoint that it wrote."""
    folder, training = tmp_path_factory.mktemp("grouped"), TrainingSettings()
    learners = ModelAndBaseline.new(LearnerConfig(SCHEMA, GROUPED, training, RELATIONS))
    inputs = Featurizer(SCHEMA, RELATIONS, SCALERS, {}).inputs(trained_on)
    for _ in range(20):
        learners.train_step(learners.prepare(inputs))
    learners.save(folder)
    write_encodings(folder / "encodings.npz", {})
    write_description(folder, Description(SCHEMA, GROUPED, training, SCALERS, RELATIONS, 20))
    return learners.model, inputs, folder


def test_the_export_agrees_in_a_fresh_process(
    grouped, trained_on, partition, compare_served, tmp_path
):
    (tmp_path / "compressed").mkdir()
    report = compress(grouped[2], CompressionSettings(), tmp_path / "compressed")
    assert (
        export(tmp_path / "compressed", tmp_path).rows == report.rows_after <= len(grouped[0].table)
    )
    expected = Scorer.load(tmp_path / "compressed").score(trained_on)
    np.testing.assert_array_equal(expected, grouped[0].predict(grouped[1]))
    parity = compare_served(
        tmp_path / "saved_model", read_requests(partition, SCHEMA), expected, (7, 512)
    )
    assert parity.max_abs_diff <= 1e-6
    assert np.std(expected) > 0.01


def test_bytes_before_are_those_of_the_tables(grouped, tmp_path):
    report, tables = (
        compress(grouped[2], CompressionSettings(), tmp_path),
        read_checkpoint(grouped[2]).tables(),
    )
    assert report.parts_before["groups"] > 0
    assert report.rows_before == sum(len(rows.keys) for rows in tables.values())


def test_a_field_costs_its_own_width_and_a_pooled_block_goes_last(grouped):
    footprint = measure(SCHEMA, grouped[0], grouped[1], {})
    whole = frozenset(footprint.complexities)
    assert footprint.complexities[KEYED[0]].width == 3
    assert footprint.complexities[KEYED[-1]].width == 6
    rows = sum(len(table) * (8 + 4 * (1 + dim)) for table, dim in _widths(grouped[0]))
    assert footprint.of(whole).bytes == rows + sum(
        w.nbytes for w in grouped[0].model.weights().values()
    )
    columns = GROUPED.hidden[0] * 4
    saved = footprint.of(whole - {KEYED[0]}).bytes - footprint.of(whole - set(KEYED[:2])).bytes
    assert saved == footprint.complexities[KEYED[1]].rows * (8 + 4 * 3) + 2 * columns


def _widths(learner):
    return [(table, table.slabs["deep"].spec.dim) for table in learner.table.tables.values()]


def test_a_group_has_one_gate_and_is_kept_whole(grouped):
    model = GatedModel(grouped[0].model, GateRule(), np.ones(len(uses(grouped[0].model.layout))))
    model._moved.assign(np.arange(model._moved.shape[0], dtype=np.float32))
    keep = model.keep()
    assert keep[KEYED[0]] == keep[KEYED[1]] != keep[KEYED[2]]
    parts = needs(SCHEMA, RELATIONS, GROUPED.groups)
    assert KEYED[1] in parts[KEYED[0]]
    assert KEYED[0] in parts[KEYED[1]]


def test_gates_of_groups_learn(grouped):
    learner, inputs, _ = grouped
    gated = GatedModel(
        learner.model, GateRule(speed=50.0), np.linspace(0.0, 0.1, len(uses(learner.model.layout)))
    )
    before = gated.keep()
    through = Learner(gated, learner.table, learner.optimizer)
    assert np.isfinite(through.train_step(through.prepare(inputs)))
    after = gated.keep()
    assert after[KEYED[0]] == after[KEYED[1]] != before[KEYED[0]]


def test_a_group_without_fields_goes_from_the_yaml():
    group = {"name": "g", "fields": ["a", "b"], "dim": 2}
    document = {
        "features": {"fields": [{"name": n} for n in "abc"]},
        "model": {"dim": 4, "groups": [group]},
    }
    assert prune_document(document, frozenset("a"))["model"]["groups"] == [
        group | {"fields": ["b"]}
    ]
    assert prune_document(document, frozenset("ab"))["model"] == {"dim": 4}
