"""Groups of fields, pooled or concatenated, against NumPy and against no groups."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from training_data import MODEL, SCHEMA, TRAINING, array_bytes, planted_day

from features.errors import InputError
from training.data.examples import read_examples
from training.data.inputs import Featurizer
from training.data.scalers import Scaler
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.trainer import TrainRequest, train_day
from training.models.ctr import build_model
from training.models.encoding_inputs import write_encodings
from training.settings import GroupSettings, ModelSettings

pytestmark = pytest.mark.slow

GROUPS = (
    GroupSettings(name="ids", fields=("item_id", "tags"), dim=6),
    GroupSettings(name="context", fields=("hour", "age"), dim=2, pooling="mean", l21=0.25),
)
GROUPED = MODEL.model_copy(update={"groups": GROUPS})
SCALERS = {"price": Scaler(0.5, 1.0)}


def fresh(model):
    return ModelAndBaseline.new(LearnerConfig(SCHEMA, model, TRAINING, ()))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return read_examples(planted_day(tmp_path_factory.mktemp("day"), rows=300), SCHEMA)


@pytest.fixture(scope="module")
def inputs(examples):
    return Featurizer(SCHEMA, (), SCALERS, {}).inputs(examples)


def learn(learners, inputs, parts=3):
    for start, stop in pairwise(np.linspace(0, len(inputs), parts + 1).astype(int)):
        learners.train_step(learners.prepare(inputs.take(np.arange(start, stop))))
    return learners


def save(learners, model, folder):
    learners.save(folder)
    write_encodings(folder / "encodings.npz", {})
    saved = Description(SCHEMA, model, TRAINING, SCALERS, (), learners.model.table.step)
    write_description(folder, saved)
    return saved


def own_vector(table, slab, keys):
    return (
        table.lookup(np.array(keys, np.int64), slab).astype(np.float64).mean(axis=0)
        if keys
        else np.zeros(table.slabs[slab].spec.dim)
    )


def reference(learner, inputs):
    """float64 [n]: user_id, user_age, item_id, tags, the mean of age and hour, numbers."""
    tables, weights = (
        learner.table.tables,
        {n: w.astype(np.float64) for n, w in learner.model.weights().items()},
    )
    group_of = {"item_id": "ids", "tags": "ids", "age": "context", "hour": "context"}
    logits = []
    for i in range(len(inputs)):
        one = inputs.take(np.array([i]))
        keys = {
            n: [k] for n, k in zip(learner.model.layout.singles, one.keys[0].tolist(), strict=True)
        }
        keys["tags"] = one.lists[0].values.tolist()
        wide, deep = (
            {n: own_vector(tables[group_of.get(n, "")], slab, k) for n, k in keys.items()}
            for slab in ("wide", "deep")
        )
        dense = one.dense[0].astype(np.float64)
        pooled = (deep["age"] + deep["hour"]) / 2
        hidden = np.concatenate(
            [deep["user_id"], deep["user_age"], deep["item_id"], deep["tags"], pooled, dense]
        )
        for layer in range(2):
            hidden = np.maximum(
                hidden @ weights[f"deep/{layer}/kernel"] + weights[f"deep/{layer}/bias"], 0
            )
        first = sum(v[0] for v in wide.values()) + dense @ weights["wide/dense"]
        logits.append(first + hidden @ weights["deep/out"] + weights["bias"])
    return 1 / (1 + np.exp(-np.array(logits)))


def test_mixed_widths_agree_with_numpy(inputs):
    learner = learn(fresh(GROUPED), inputs).model
    some = inputs.take(np.arange(80))
    np.testing.assert_allclose(learner.predict(some), reference(learner, some), rtol=0, atol=1e-6)
    assert np.ptp(learner.predict(some)) > 0.01


def test_one_group_of_all_fields_is_no_group(inputs):
    every = tuple(f.name for f in SCHEMA.key_fields())
    one = MODEL.model_copy(
        update={"groups": (GroupSettings(name="all", fields=every, dim=MODEL.dim),)}
    )
    grouped, plain = (learn(fresh(model), inputs).model.predict(inputs) for model in (one, MODEL))
    np.testing.assert_array_equal(grouped, plain)


def test_without_groups_the_description_says_nothing_of_them():
    assert "groups" not in ModelSettings().model_dump(mode="json")
    assert ModelSettings.model_validate(GROUPED.model_dump(mode="json")) == GROUPED


def test_it_goes_on_from_disk_as_if_it_had_never_stopped(inputs, tmp_path):
    straight = learn(fresh(GROUPED), inputs)
    saved = save(straight, GROUPED, tmp_path / "saved")
    resumed = ModelAndBaseline.from_checkpoint(
        LearnerConfig(SCHEMA, GROUPED, TRAINING, ()), tmp_path / "saved", saved
    )
    for number, learners in enumerate((straight, resumed)):
        save(learn(learners, inputs), GROUPED, tmp_path / str(number))
    assert array_bytes(tmp_path / "0") == array_bytes(tmp_path / "1")
    assert (tmp_path / "0" / "groups" / "context" / "table.json").exists()


def test_the_scorer_gives_the_learners_probabilities(inputs, examples, tmp_path):
    learners = learn(fresh(GROUPED), inputs)
    save(learners, GROUPED, tmp_path)
    np.testing.assert_array_equal(
        Scorer.load(tmp_path).score(examples), learners.model.predict(inputs)
    )


def test_a_row_costs_its_own_groups_widths(inputs):
    tables = learn(fresh(GROUPED), inputs).model.table.tables
    widths = {
        name: {slab: made.spec.dim for slab, made in table.slabs.items()}
        for name, table in tables.items()
    }
    assert widths == {
        "": {"wide": 1, "deep": 4},
        "ids": {"wide": 1, "deep": 6},
        "context": {"wide": 1, "deep": 2},
    }
    for table, dim in ((tables["ids"], 6), (tables["context"], 2)):
        assert table.statistics().weight_bytes == 4 * (len(table) + 1) * (dim + 1)
    assert tables["context"].slabs["deep"].spec.optimizer.l21 == 0.25


def test_statistics_are_those_of_all_tables(inputs):
    table = learn(fresh(GROUPED), inputs).model.table
    plain = learn(fresh(MODEL), inputs).model.table.statistics()
    found = table.statistics()
    assert (found.rows, found.events, found.hit_rate) == (plain.rows, plain.events, plain.hit_rate)
    assert {n: f.rows for n, f in found.fields.items()} == {
        n: f.rows for n, f in plain.fields.items()
    }
    assert set(found.norms) == {
        "wide",
        "deep",
        "ids/wide",
        "ids/deep",
        "context/wide",
        "context/deep",
    }


def test_a_warm_start_keeps_groups_and_begins_new_ones(inputs, tmp_path):
    learners = learn(fresh(GROUPED), inputs)
    saved = save(learners, GROUPED, tmp_path)
    smaller = MODEL.model_copy(
        update={"groups": (GROUPS[0], GroupSettings(name="age", fields=("age",), dim=3))}
    )
    after = ModelAndBaseline.from_checkpoint(
        LearnerConfig(SCHEMA, smaller, TRAINING, ()), tmp_path, saved
    ).model.table.tables
    assert len(after["age"]) == 0
    for name in ("", "ids"):
        np.testing.assert_array_equal(after[name].keys(), learners.model.table.tables[name].keys())


def test_a_day_is_trained_and_gone_on_from(tmp_path):
    days = [planted_day(tmp_path / f"day{d}", d, rows=400) for d in range(2)]
    first = train_day(TrainRequest(SCHEMA, GROUPED, TRAINING, (), days[0]), tmp_path / "first")
    again = TrainRequest(SCHEMA, GROUPED, TRAINING, (), days[1], days[0], tmp_path / "first")
    second = train_day(again, tmp_path / "second")
    assert second["rows_in_table"] >= first["rows_in_table"] > 0
    assert second["field.hour.rows"] > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": (GroupSettings(name="g", fields=("nobody",)),)}, "nobody"),
        ({"groups": GROUPS, "kind": "deepfm"}, "one width"),
        ({"groups": GROUPS, "relations": {"rank": 2}}, "one width"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        build_model(SCHEMA, ModelSettings.model_validate(MODEL.model_dump() | changes))


def test_a_field_in_two_groups_is_refused():
    twice = (*GROUPS, GroupSettings(name="more", fields=("age",)))
    with pytest.raises(ValidationError, match="at most one group"):
        ModelSettings(groups=twice)


def test_a_fusion_has_groups_too(inputs):
    fusion = GROUPED.model_copy(update={"kind": "fusion", "members": ("wide_deep", "dcnv2")})
    learner = learn(fresh(fusion), inputs).model
    assert set(learner.table.tables["ids"].slabs) == {
        "wide_deep_wide",
        "wide_deep_deep",
        "dcnv2_deep",
    }
    assert np.isfinite(learner.predict(inputs)).all()
