"""A plan is evaluated like its written folder; standard errors against draws; halves of users."""

import hashlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from awkward_day import MODEL, RELATIONS, SCHEMA
from step_models import SCALERS, state_of

from compression.model import read_compact
from compression.pruning import compress
from compression.search.evaluator import HeldOutHalves, PlanEvaluator
from compression.search.greedy_search import Goal
from compression.search.search import SEARCHED, TUNED, search, with_tuning
from compression.search.space import SearchSpace, baselines
from compression.settings import CompressionSettings
from compression.steps.product import encode_rows
from compression.steps.sequence import run_steps
from compression.steps.settings import ProductCodes, PruneRows
from features.errors import InputError
from training.data.examples import heldout_start, read_examples
from training.evaluation.metrics import auc, auc_difference_error, in_reported_half, resample_users
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description
from training.settings import TrainingSettings

pytestmark = pytest.mark.slow

PLAN = [
    {"kind": "drop_fields", "fields": ["price"]},
    {"kind": "prune_rows", "keep": 0.6},
    {"kind": "quantize", "form": "int4"},
    {"kind": "dense", "form": "int8", "relu": 0.2},
]


KNOWN = [
    bool(hashlib.blake2b(letter, digest_size=1).digest()[0] % 2)
    for letter in (b"a", b"b", b"c", b"d", b"e", b"f")
]


@pytest.fixture(scope="module")
def evaluator(checkpoint, partition):
    return PlanEvaluator.of(checkpoint, partition, 0.0)


def test_a_plan_is_worth_what_its_folder_is_worth(evaluator, checkpoint, partition, tmp_path):
    plan = CompressionSettings.model_validate({"steps": PLAN})
    found = evaluator.measure("plan", plan.steps)
    compress(checkpoint, plan, tmp_path)
    scorer = Scorer.load(tmp_path)
    whole = read_examples(partition, scorer.description.schema, scorer.description.relations)
    start = heldout_start(len(whole), scorer.description.training.holdout_fraction)
    last = whole.slice(start, len(whole))
    scores, trained = (
        scorer.score(last),
        Scorer.load(checkpoint).score(read_examples(partition, SCHEMA, RELATIONS))[start:],
    )
    half = in_reported_half(last.users)[last.user]
    np.testing.assert_array_equal(found.scores, scores[half])
    assert found.drop_reported == pytest.approx(
        auc(last.label[half], trained[half]) - auc(last.label[half], scores[half])
    )
    assert found.drop == pytest.approx(
        auc(last.label[~half], trained[~half]) - auc(last.label[~half], scores[~half])
    )
    assert found.bytes == evaluator.bytes_after(plan.steps) == read_compact(tmp_path).nbytes
    assert found.rows == read_compact(tmp_path).rows
    interval = evaluator.interval(found)
    assert interval.low < found.drop_reported < interval.high


def test_no_step_loses_nothing_for_certain(evaluator):
    found = evaluator.measure("none", ())
    assert (found.drop, found.error, found.drop_reported, found.bytes) == (0, 0, 0, evaluator.bytes)


def test_a_remembered_beginning_changes_no_plan(evaluator):
    steps = CompressionSettings.model_validate({"steps": PLAN}).steps
    first = [evaluator.measure("x", steps[:n]).scores.tobytes() for n in range(5)]
    for _ in range(30):
        evaluator.bytes_after(steps[:1])
    assert [
        evaluator.measure("x", steps[:n]).scores.tobytes() for n in reversed(range(5))
    ] == first[::-1]


def pairwise_error(label, first, second, user):
    """The standard error by its definition: every click against every other impression."""
    won = [
        (s[label == 1][:, None] > s[label == 0]) + 0.5 * (s[label == 1][:, None] == s[label == 0])
        for s in (first, second)
    ]
    moved = np.zeros(len(label))
    for sign, wins in zip((1, -1), won, strict=True):
        moved[label == 1] += sign * (wins.mean(axis=1) - wins.mean()) / (label == 1).sum()
        moved[label == 0] += sign * (wins.mean(axis=0) - wins.mean()) / (label == 0).sum()
    return np.sqrt(sum(moved[user == u].sum() ** 2 for u in np.unique(user)))


def scored(rows=4000, users=800):
    draw = np.random.default_rng(4)
    user, taste = draw.integers(users, size=rows), draw.normal(size=users)
    first = taste[user] + draw.normal(size=rows)
    label = (draw.random(rows) < 1 / (1 + np.exp(-first))).astype(np.float32)
    second = first + 0.7 * draw.normal(size=rows) + 0.5 * draw.normal(size=users)[user]
    return label, first.round(1).astype(np.float32), second.astype(np.float32), user


def test_the_standard_error_is_that_of_the_definition_and_of_drawing():
    label, first, second, user = scored()
    found = auc_difference_error(label, first, second, user)
    assert found == pytest.approx(pairwise_error(label, first, second, user), rel=1e-6)
    as_probability = {
        name: 1 / (1 + np.exp(-s)) for name, s in (("first", first), ("second", second))
    }
    drawn = resample_users(label, as_probability, user, resamples=400)
    assert found == pytest.approx(np.std(drawn["first"].auc - drawn["second"].auc), rel=0.15)
    assert auc_difference_error(label, first, first, user) == 0


def test_a_user_is_in_one_half_in_every_process():
    users = np.array([f"user {n}" for n in range(2000)], object)
    half = in_reported_half(users)
    np.testing.assert_array_equal(
        half, [in_reported_half(users[n : n + 1])[0] for n in range(2000)]
    )
    assert 0.45 < half.mean() < 0.55
    assert in_reported_half(np.array(["a", "b", "c", "d", "e", "f"], object)).tolist() == KNOWN


def test_a_half_without_clicks_is_refused(partition, tmp_path):
    folder = tmp_path / "impressions"
    shutil.copytree(partition / "impressions", folder)
    for part in folder.glob("*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.set_column(1, "label", [np.zeros(len(table), np.int8)]), part)
    description = Description(SCHEMA, MODEL, TrainingSettings(), SCALERS, RELATIONS, 1)
    with pytest.raises(InputError, match="impressions of one label; search on a larger day"):
        HeldOutHalves.of(tmp_path, description)


@pytest.mark.parametrize("kind", ["deepfm", "fusion", "grouped"])
def test_every_level_of_every_axis_is_a_plan_that_can_be_carried_out(kind, learned):
    state = state_of(learned(kind))
    space = SearchSpace.of(state)
    assert ("units" in [axis.name for axis in space.axes]) == (
        kind != "deepfm"
    )  # whose hidden layers have layer norm
    for number, axis in enumerate(space.axes):
        point, sizes = space.start, [state.model.nbytes]
        while (point := space.moved(point, number, 1)) is not None:
            steps = space.steps(point)
            assert CompressionSettings(steps=steps).steps == steps
            sizes.append(run_steps(state, steps)[0].model.nbytes)
        assert len(sizes) == len(axis.levels)
        falling = [
            size
            for size, level in zip(sizes, axis.levels, strict=True)
            if not isinstance(level, ProductCodes)
        ]
        assert falling == sorted(
            falling, reverse=True
        )  # codes and their codebooks are small only with many rows
    last = tuple(len(axis.levels) - 1 for axis in space.axes)
    assert (
        run_steps(state, CompressionSettings(steps=space.steps(last)).steps)[0].model.nbytes
        < 0.3 * state.model.nbytes
    )


def test_fields_with_many_rows_have_an_axis_of_their_own(learned):
    state = state_of(learned("deepfm"))
    stats = state.row_stats[""]
    rows = {name: int((stats.fields == code).sum()) for code, name in enumerate(stats.names)}
    large = {name for name, count in rows.items() if count >= 0.1 * state.model.rows}
    space = SearchSpace.of(state)
    axes = {axis.name: axis.fields for axis in space.axes if axis.name.startswith("rows")}
    assert axes.pop("rows") == tuple(
        name for name, count in rows.items() if count and name not in large
    )
    assert axes == {f"rows of {name}": (name,) for name in large}
    assert len(large) > 1
    numbers = [n for n, axis in enumerate(space.axes) if axis.name.startswith("rows of")]
    point = tuple(4 if n in numbers else 0 for n in range(len(space.axes)))
    assert sorted(step.fields for step in space.steps(point)) == sorted((name,) for name in large)


def test_the_chosen_plan_is_tuned_and_the_better_one_is_taken(evaluator):
    goal = Goal(max_bytes=evaluator.bytes // 3)
    found = search(evaluator, CompressionSettings(), goal, 40, tune=True)
    *others, tuned = found.plans
    assert (tuned.name, {one.name for one in others}) == (TUNED, {SEARCHED})
    before = goal.best(others)
    assert tuned.steps == with_tuning(before.steps)
    assert found.chosen is (tuned if goal.rank(tuned) < goal.rank(before) else before)
    assert tuned.bytes == before.bytes
    assert tuned.scores.tobytes() != before.scores.tobytes()
    assert (
        found.intervals[found.chosen.steps].low
        <= found.chosen.drop_reported
        <= found.intervals[found.chosen.steps].high
    )


def test_every_plan_can_be_tuned(evaluator):
    space = SearchSpace.of(evaluator.state)
    last = space.steps(tuple(len(axis.levels) - 1 for axis in space.axes))
    for steps in ((), last, last[:2]):
        tuned = CompressionSettings(steps=with_tuning(steps)).steps
        assert [step for step in tuned if step.kind != "fine_tune"] == sorted(
            steps, key=lambda step: step.kind == "dense"
        )


def test_codebooks_are_made_once_for_all_plans_that_prune_their_rows(evaluator, monkeypatch):
    made = []
    monkeypatch.setattr(
        "compression.steps.product.encode_rows",
        lambda *given: made.append(1) or encode_rows(*given),
    )
    codes = ProductCodes(columns=2, codes=16)
    evaluator.measure("x", (codes,))
    once = len(made)
    for share in (0.5, 0.25, 0.9):
        model = evaluator.after((codes, PruneRows(by="norm", keep=share))).model
        assert model.rows == round(share * evaluator.state.model.rows)
    assert len(made) == once > 0
    space = SearchSpace.of(evaluator.state)
    point = [0] * len(space.axes)
    at = {axis.name: number for number, axis in enumerate(space.axes)}
    point[at["form"]], point[next(n for name, n in at.items() if name.startswith("rows"))] = 4, 3
    assert [step.kind for step in space.steps(tuple(point))] == ["product", "prune_rows"]


def test_fields_that_are_dropped_are_dropped_in_every_plan_and_baseline(evaluator):
    settings = CompressionSettings.model_validate({"steps": PLAN})
    found = search(evaluator, settings, Goal(max_drop=1.0), 5)
    assert all(one.steps[0] == settings.steps[0] for one in (*found.plans, *found.baselines))
    assert "prune_rows" not in [step.kind for step in found.plans[0].steps]
    space = SearchSpace.of(evaluator.after(settings.steps[:1]), settings.steps[:1])
    assert space.steps(space.start) == settings.steps[:1]
    assert all(
        plan[0] == settings.steps[0] for plans in baselines(space, 15).values() for plan in plans
    )
    assert len(baselines(space, 15)) == 5


def test_a_search_from_end_to_end(evaluator):
    reported = []
    found = search(
        evaluator,
        CompressionSettings(),
        Goal(max_bytes=evaluator.bytes // 3),
        40,
        lambda number, one: reported.append(number),
    )
    assert found.chosen.bytes <= evaluator.bytes // 3
    assert reported == list(range(1, len(found.plans) + 1))
    assert len(found.plans) <= 40
    assert found.chosen in found.plans
    document = found.as_dict()
    assert document["chosen"]["ratio"] == pytest.approx(evaluator.bytes / found.chosen.bytes)
    assert (
        CompressionSettings.model_validate(found.section()["compression"]).steps
        == found.chosen.steps
    )
    assert {line["name"] for line in document["baselines"]} == set(
        baselines(SearchSpace.of(evaluator.state), 15)
    )
    for line in document["pareto"]:
        assert line["auc_drop_low"] <= line["auc_drop_high"]


def test_a_short_search_compares_with_fewer_levels_the_outer_ones_included(evaluator):
    space = SearchSpace.of(evaluator.state)
    whole, few = baselines(space, 15), baselines(space, 4)
    assert {name: len(plans) for name, plans in whole.items() if "prun" in name} == {
        "magnitude pruning": 15,
        "pruning by count": 15,
    }
    for name, plans in few.items():
        assert len(plans) == min(4, len(whole[name]))
        assert plans[0] == whole[name][0]
        assert plans[-1] == whole[name][-1]
