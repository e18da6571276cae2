"""Shared tables, dedicated rows and concatenated rows of multi-hash fields."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError
from training_data import MODEL, SCHEMA, TRAINING, array_bytes, planted_day
from training_data import read_json as read

from features.errors import InputError
from features.schema import MultiHash, Schema
from training.data.examples import read_examples
from training.data.inputs import Featurizer
from training.data.layout import FieldLayout, groups_of
from training.fit.checkpoints import Description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.trainer import TrainRequest, train_day
from training.models.ctr import build_model, logistic_regression
from training.models.multi_hash.keys import derived_keys, field_keys, field_keys_graph
from training.models.multi_hash.settings import MultiHashSettings, check_dedicated_rows
from training.settings import AdmissionSettings, GroupSettings

VARIANTS = {
    "plain": {"hashes": 2, "rows": 40},
    "shared": {"hashes": 3, "rows": 40, "shared": True},
    "own rows": {"hashes": 2, "rows": 40, "own_rows": True},
    "shared and own rows": {"hashes": 2, "rows": 40, "shared": True, "own_rows": True},
    "concat": {"hashes": 4, "rows": 40, "combine": "concat"},
    "shared concat": {"hashes": 2, "rows": 40, "shared": True, "combine": "concat"},
}


def schema_with(**multi_hashes):
    """The schema of the tests, fields multi-hashed by name."""
    fields = [
        f.model_dump() | ({"multi_hash": multi_hashes[f.name]} if f.name in multi_hashes else {})
        for f in SCHEMA.fields
    ]
    return Schema.model_validate(SCHEMA.model_dump() | {"fields": fields})


CONCAT = {"hashes": 2, "rows": 40, "combine": "concat"}
MIXED = schema_with(user_id={"hashes": 2, "rows": 16, "own_rows": True}, item_id=CONCAT)
GROUP = GroupSettings(name="items", fields=("item_id",), dim=6)
GROUPED = MODEL.model_copy(
    update={
        "groups": (
            GROUP,
            GroupSettings(name="context", fields=("hour", "age"), dim=2, pooling="sum"),
        )
    }
)
LATE = TRAINING.model_copy(update={"admission": AdmissionSettings(min_counts={"user_id": 12})})


def inputs_of(schema, folder, rows=300):
    return Featurizer(schema, (), {}, {}).inputs(
        read_examples(planted_day(folder, rows=rows), schema)
    )


def learned(schema, model, training, inputs):
    learners = ModelAndBaseline.new(LearnerConfig(schema, model, training, ()))
    for part in np.array_split(np.arange(len(inputs)), 4):
        learners.train_step(learners.prepare(inputs.take(part)))
    return learners


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return inputs_of(MIXED, tmp_path_factory.mktemp("day"))


@pytest.fixture(scope="module")
def learners(inputs):
    return learned(MIXED, GROUPED, LATE, inputs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_are_the_librarys_and_the_graphs(variant):
    options, keys = VARIANTS[variant], np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 500)
    field = schema_with(user_id=options).field("user_id")
    found = field_keys(keys, field)
    library = MultiHashSettings(
        hashes=options["hashes"], rows=40, shared=options.get("shared", False)
    )
    np.testing.assert_array_equal(
        found[:, : options["hashes"]], derived_keys(keys, library, "user_id")
    )
    np.testing.assert_array_equal(
        found[:, options["hashes"] :],
        keys[:, None] if options.get("own_rows") else np.zeros((500, 0)),
    )
    np.testing.assert_array_equal(field_keys_graph(tf.constant(keys), field).numpy(), found)
    assert len(np.unique(found[:, : options["hashes"]])) == 40


def test_an_own_key_is_the_one_without_multi_hash(tmp_path):
    day = planted_day(tmp_path, rows=100)
    raw, own = read_examples(day, SCHEMA), read_examples(day, MIXED)
    ids = raw.keys[:, FieldLayout.of(SCHEMA).singles.index("user_id")]
    place = FieldLayout.of(MIXED).lists.index("user_id")
    np.testing.assert_array_equal(own.lists[place].values.reshape(-1, 3)[:, 2], ids)


def test_a_description_names_only_the_options_in_use():
    assert MultiHash(rows=40).model_dump(mode="json") == {"hashes": 2, "rows": 40}
    for options in VARIANTS.values():
        assert MultiHash.model_validate(options).model_dump(mode="json") == options


def vector(table, slab, keys):
    return table.lookup(np.array(keys, np.int64), slab).astype(np.float64)


def reference(learner, inputs):
    """float64 [n]: user_age, user_id, tags, both halves of item_id, age + hour, numbers."""
    tables, weights = (
        learner.table.tables,
        {n: w.astype(np.float64) for n, w in learner.model.weights().items()},
    )
    layout = FieldLayout.of(MIXED)
    table_of = {"item_id": tables["items"], "age": tables["context"], "hour": tables["context"]}
    logits = []
    for i in range(len(inputs)):
        one = inputs.take(np.array([i]))
        keys = {n: [k] for n, k in zip(layout.singles, one.keys[0].tolist(), strict=True)}
        keys |= {n: v.values.tolist() for n, v in zip(layout.lists, one.lists, strict=True)}
        deep, wide = (
            {n: vector(table_of.get(n, tables[""]), slab, k) for n, k in keys.items()}
            for slab in ("deep", "wide")
        )
        assert len(deep["user_id"]) == 3
        assert deep["item_id"].shape == (2, 3)
        means = {n: v.sum(axis=0) / max(1, len(v)) for n, v in deep.items()}
        pooled, halves, dense = (
            means["age"] + means["hour"],
            deep["item_id"].reshape(-1),
            one.dense[0].astype(np.float64),
        )
        hidden = np.concatenate(
            [means["user_age"], means["user_id"], means["tags"], halves, pooled, dense]
        )
        for layer in range(2):
            hidden = np.maximum(
                hidden @ weights[f"deep/{layer}/kernel"] + weights[f"deep/{layer}/bias"], 0
            )
        first = sum(v.sum() / max(1, len(v)) for v in wide.values()) + dense @ weights["wide/dense"]
        logits.append(first + hidden @ weights["deep/out"] + weights["bias"])
    return 1 / (1 + np.exp(-np.array(logits)))


def test_probabilities_agree_with_numpy(learners, inputs):
    some = inputs.take(np.arange(80))
    found = learners.model.predict(some)
    np.testing.assert_allclose(found, reference(learners.model, some), rtol=0, atol=1e-6)
    assert np.ptp(found) > 0.01


def test_only_frequent_ids_have_rows_of_their_own(learners, inputs):
    table, place = learners.model.table.tables[""], FieldLayout.of(MIXED).lists.index("user_id")
    keys = inputs.lists[place].values.reshape(-1, 3)
    distinct, counts = np.unique(keys[:, 2], return_counts=True)
    has_row = table.find(distinct) > 0
    assert 0 < has_row.sum() < len(distinct)
    np.testing.assert_array_equal(has_row, counts >= 12)
    hashed, counts = np.unique(keys[:, :2], return_counts=True)
    np.testing.assert_array_equal(table.find(hashed) > 0, counts >= 12)


def test_rows_laid_together_are_narrow_and_within_their_number(learners):
    table = learners.model.table.tables["items"]
    assert {name: slab.spec.dim for name, slab in table.slabs.items()} == {"wide": 1, "deep": 3}
    assert 0 < len(table) <= 40


@pytest.mark.slow
def test_it_goes_on_from_disk_as_if_it_had_never_stopped(inputs, tmp_path):
    straight = learned(MIXED, GROUPED, LATE, inputs)
    straight.save(tmp_path / "saved")
    about = Description(MIXED, GROUPED, LATE, {}, (), 4)
    write_description(tmp_path / "saved", about)
    resumed = ModelAndBaseline.from_checkpoint(
        LearnerConfig(MIXED, GROUPED, LATE, ()), tmp_path / "saved", about
    )
    for number, learners in enumerate((straight, resumed)):
        learners.train_step(learners.prepare(inputs))
        learners.save(tmp_path / str(number))
    assert array_bytes(tmp_path / "0") == array_bytes(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in VARIANTS if "concat" not in name])
def test_a_field_of_one_group_learns_in_every_variant(variant, tmp_path):
    schema = schema_with(user_id=VARIANTS[variant])
    inputs = inputs_of(schema, tmp_path)
    found = learned(schema, MODEL, LATE, inputs).model.predict(inputs)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0.01


@pytest.mark.slow
def test_a_whole_model_of_concatenated_fields_in_every_kind(tmp_path):
    schema = schema_with(user_id=CONCAT, item_id=CONCAT)
    ids = GroupSettings(name="ids", fields=("item_id", "user_id"), dim=4)
    inputs = inputs_of(schema, tmp_path)
    for changes in (
        {"kind": "deepfm"},
        {"kind": "fusion", "members": ("wide_deep", "dcnv2", "fm")},
        {"kind": "logistic_regression"},
    ):
        found = learned(
            schema, MODEL.model_copy(update={"groups": (ids,), **changes}), TRAINING, inputs
        ).model
        assert np.isfinite(found.predict(inputs)).all()
        widths = {
            slab.rsplit("_")[-1]: width
            for slab, width in found.model.slabs.items()
            if slab.startswith("ids/")
        }
        assert all(width == (2 if role.endswith("deep") else 1) for role, width in widths.items())


def test_the_baseline_reads_weights_pooled_by_the_mean():
    model = logistic_regression(MIXED)
    assert (model.slabs, model.groups[0].chunks) == ({"wide": 1}, 1)


REFUSED = {
    "no group": (
        (),
        r"field 'item_id' has multi_hash.combine: concat.*no group: add .*dim: 4.*combine: sum",
    ),
    "a group with another field": (
        (GroupSettings(name="ids", fields=("item_id", "tags"), dim=6),),
        r"group 'ids' has field 'item_id'.*hashes: 2.*together with \['tags'\]: move these to ",
    ),
    "a dim that cannot be shared": (
        (GroupSettings(name="ids", fields=("item_id",), dim=7),),
        r"group 'ids' has dim 7, which field 'item_id'.*from 2 rows: .* multiple of 2, such as 8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_groups_without_place_for_narrow_rows_are_refused(case):
    groups, says = REFUSED[case]
    model = MODEL.model_copy(update={"groups": groups})
    for build in (
        lambda: groups_of(FieldLayout.of(MIXED), model),
        lambda: build_model(MIXED, model),
    ):
        with pytest.raises(InputError, match=says):
            build()


def test_other_numbers_of_hashes_and_pooled_fields_are_refused_in_one_group():
    for other in ({**CONCAT, "hashes": 3}, {"rows": 40}):
        schema = schema_with(user_id=other, item_id=CONCAT)
        model = MODEL.model_copy(
            update={"groups": (GroupSettings(name="ids", fields=("user_id", "item_id"), dim=6),)}
        )
        with pytest.raises(
            InputError, match=r"group 'ids' has field .* together with \['(user|item)_id'\]"
        ):
            groups_of(FieldLayout.of(schema), model)


def test_own_rows_have_no_place_in_a_concatenation():
    with pytest.raises(ValidationError, match="own_rows go with combine: sum"):
        MultiHash(rows=40, own_rows=True, combine="concat")


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, True),
        ({"min_counts": {"item_id": 5}}, True),
        ({"min_count": 5, "min_counts": {"user_id": 1}}, True),
        ({"min_counts": {"user_id": 2}}, False),
        ({"min_count": 2}, False),
        ({"kind": "poisson", "min_count": 20}, False),
    ],
)
def test_own_rows_for_every_id_are_refused(settings, refused):
    admission = AdmissionSettings(**settings)
    if not refused:
        return check_dedicated_rows(MIXED, admission)
    with pytest.raises(
        InputError,
        match=r"'user_id' has multi_hash.own_rows.*admission.min_counts.user_id to 2 or more",
    ):
        check_dedicated_rows(MIXED, admission)


@pytest.mark.slow
def test_a_day_says_its_sizes_first_and_keeps_them_as_figures(tmp_path):
    lines, day = [], planted_day(tmp_path / "day", rows=400, users=30)
    request = TrainRequest(MIXED, GROUPED, LATE, (), day)
    figures = train_day(request, tmp_path / "out", lambda _: lines.append("learned"), lines.append)
    assert [line.split(":")[0] for line in lines[:3]] == [
        "multi-hash field user_id",
        "multi-hash field item_id",
        "learned",
    ]
    assert "40 rows" in lines[1]
    assert "0.00 MiB" in lines[1]
    ids = read_examples(day, SCHEMA).keys[:, 0]
    own = int((np.unique(ids, return_counts=True)[1] >= 12).sum())
    assert 0 < own < 30
    assert {n: v for n, v in figures.items() if n.startswith("multi_hash.item_id")} == {
        "multi_hash.item_id.rows": 40,
        "multi_hash.item_id.own_rows": 0,
        "multi_hash.item_id.bytes": 40 * 3 * 4,
        "multi_hash.item_id.collision_probability_full": pytest.approx(1 - (1 - 1 / 400) ** 39),
        "multi_hash.item_id.collision_probability_any": pytest.approx(1 - (1 - 1 / 20) ** 78),
    }
    assert figures["multi_hash.user_id.rows"] == 16 + own
    assert figures["multi_hash.user_id.bytes"] == (16 + own) * 4 * 4
    assert figures["multi_hash.user_id.collision_probability_full"] == pytest.approx(
        1 - (1 - 1 / 64) ** (30 - own - 1)
    )
    assert figures["multi_hash.user_id.collision_probability_any"] == pytest.approx(
        1 - (1 - 1 / 8) ** 58
    )
    assert read(tmp_path / "out" / "metrics.json")["multi_hash.item_id.rows"] == 40
