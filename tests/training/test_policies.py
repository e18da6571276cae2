"""The configured admission, eviction and optimizers become policies, and a day trains by them."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from training_data import MODEL, SCHEMA, TRAINING, planted_day, read_json

from elastic_embeddings import (
    AlwaysAdmit,
    CountAdmission,
    DynamicL1,
    ElasticTable,
    GroupAdagrad,
    GroupAdam,
    GroupAMSGrad,
    GroupFTRL,
    Idle,
    LeastFrequent,
    PoissonAdmission,
    RowwiseGroupAdagrad,
    SketchAdmission,
    SlabSpec,
    SmallNorm,
    ZeroRows,
)
from features.errors import InputError
from training.fit import policies
from training.fit.trainer import TrainRequest, train_day
from training.settings import AdmissionSettings, EvictionSettings, ModelSettings, OptimizerSettings

FIELDS = ("user", "item")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (AdmissionSettings(), AlwaysAdmit()),
        (AdmissionSettings(min_count=3), CountAdmission(3)),
        (AdmissionSettings(kind="sketch", min_count=3, capacity=100), SketchAdmission(3, 100)),
    ],
)
def test_admission_is_what_the_yaml_says(settings, expected):
    assert policies.admission(settings, FIELDS) == expected


def test_poisson_admission_takes_horizon_and_a_sketch_that_can_count_so_far():
    policy = policies.admission(
        AdmissionSettings(kind="poisson", min_count=400, horizon=9_000, capacity=50), FIELDS
    )
    assert isinstance(policy, PoissonAdmission)
    assert (policy.min_count, policy.horizon, policy.sketch.capacity, policy.sketch.max_count) == (
        400,
        9_000,
        50,
        400,
    )


def test_fields_have_thresholds_of_their_own_and_unknown_ones_are_refused():
    by_field = policies.admission(AdmissionSettings(min_count=2, min_counts={"item": 5}), FIELDS)
    assert by_field.resolve(FIELDS) == (CountAdmission(2), CountAdmission(5))
    with pytest.raises(
        InputError, match=r"names \['itme'\]: the schema's id fields are \['item', 'user'\]"
    ):
        policies.admission(AdmissionSettings(min_counts={"itme": 5}), FIELDS)


def test_eviction_joins_what_is_set():
    assert policies.eviction(EvictionSettings()) is None
    every = policies.eviction(
        EvictionSettings(zero_rows=True, idle_days=3, min_norm=0.1, max_rows=9, keep_rows=4)
    )
    assert every.policies == (ZeroRows(), Idle(days=3), SmallNorm(0.1), LeastFrequent(9))
    assert (every.every, every.keep_rows) == (0, 4)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("adam", GroupAdam), ("amsgrad", GroupAMSGrad), ("adagrad", GroupAdagrad), ("ftrl", GroupFTRL),
     ("rowwise_adagrad", RowwiseGroupAdagrad)],
)  # fmt: skip
def test_an_optimizer_takes_rate_and_strengths(kind, rule):
    found = policies.optimizer(
        OptimizerSettings(kind=kind, learning_rate=0.3, l2=0.1, l21=0.2, exact=True)
    )
    assert type(found) is rule
    assert (found.learning_rate, found.l2, found.l21, found.exact) == (0.3, 0.1, 0.2, True)


def test_rare_ids_pay_more_and_dense_weights_no_group_penalty():
    settings = OptimizerSettings(l1=0.1, l21=0.2, l2=0.3, rare_multiple=3, rare_count=10)
    assert policies.optimizer(settings).dynamic_l1 == DynamicL1(3, 10)
    dense = policies.dense_optimizer(settings)
    assert (dense.l1, dense.l2, dense.l21, dense.dynamic_l1) == (0.0, 0.3, 0.0, None)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    return [planted_day(folder / str(day), day) for day in range(2)]


@pytest.fixture(scope="module")
def first(days, tmp_path_factory):
    """The first day's request, checkpoint and figures, by Adam."""
    request, out = (
        TrainRequest(SCHEMA, MODEL, TRAINING, (), days[0]),
        tmp_path_factory.mktemp("first") / "checkpoint",
    )
    return request, out, train_day(request, out)


# Each rule is tested against a reference in `elastic_embeddings/test_group_rules.py`; here train
# the one with the most state and the one with the least.
KINDS = [
    *(pytest.param(kind, marks=pytest.mark.sweep) for kind in ("adagrad", "ftrl")),
    "amsgrad",
    "rowwise_adagrad",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_day_learns_with_every_kind_in_bfloat16(kind, days, tmp_path):
    model = MODEL.model_copy(
        update={"deep": OptimizerSettings(kind=kind, learning_rate=0.05), "storage": "bfloat16"}
    )
    passes = TRAINING.model_copy(update={"passes": 4})
    figures = train_day(TrainRequest(SCHEMA, model, passes, (), days[0]), tmp_path / "out")
    assert figures["auc"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rows_go_on_under_another_rule(kind, days, first, tmp_path):
    request, checkpoint, before = first
    rule = OptimizerSettings(kind=kind, learning_rate=0.05)
    model = MODEL.model_copy(update={"deep": rule, "wide": rule})
    after = train_day(
        replace(request, model=model, partition=days[1], previous_checkpoint=checkpoint),
        tmp_path / "second",
    )
    assert after["rows_in_table"] >= before["rows_in_table"]
    assert after["auc"] > 0.6


@pytest.mark.parametrize("kind", ["adagrad", "ftrl", "rowwise_adagrad"])
def test_rules_for_rows_are_refused_for_dense_weights(kind):
    with pytest.raises(ValidationError, match="dense weights are trained by adam or amsgrad"):
        ModelSettings(dense=OptimizerSettings(kind=kind))


@pytest.mark.slow
def test_days_admit_by_field_and_evict_who_stays_away(tmp_path):
    """The second day's items are others, so that the first day's go after one day without them."""
    training = TRAINING.model_copy(
        update={
            "admission": AdmissionSettings(
                kind="poisson", min_count=3, horizon=500, min_counts={"item_id": 2}
            ),
            "eviction": EvictionSettings(idle_days=1),
        }
    )
    days = [planted_day(tmp_path / "0", 0, items=40), planted_day(tmp_path / "1", 1, items=8)]
    first = TrainRequest(SCHEMA, MODEL, training, (), days[0])
    train_day(first, tmp_path / "first")
    train_day(
        replace(first, partition=days[1], previous_checkpoint=tmp_path / "first"),
        tmp_path / "second",
    )
    third = replace(first, partition=days[1], previous_checkpoint=tmp_path / "second")
    figures = train_day(third, tmp_path / "third")
    items = [
        read_json(tmp_path / name / "table_statistics.json")["fields"]["item_id"]
        for name in ("first", "third")
    ]
    assert items[0]["rows"] > items[1]["rows"]
    assert items[1]["evicted"] >= items[0]["rows"] - items[1]["rows"] > 10
    assert figures["table.evicted"] >= items[1]["evicted"]
    assert (tmp_path / "third" / "plots" / "table.png").stat().st_size > 10_000


def test_seeds_of_draws_and_vectors_are_the_table_s():
    one, other = (
        ElasticTable(SlabSpec(2), PoissonAdmission(4, 1_000), seed=seed) for seed in (1, 2)
    )
    keys = np.arange(3_000)
    assert one.prepare(keys).new_keys.tolist() != other.prepare(keys).new_keys.tolist()
