"""Every rule in both executions against float64 references over hundreds of lazy steps."""

from collections import deque
from dataclasses import replace

import numpy as np
import optimizer_reference as reference
import pytest
from optimizer_executions import GraphRows, HostRows, RowBatch, batches

from elastic_embeddings.optimizers.learning_rates import CosineDecay
from elastic_embeddings.optimizers.proximal import DynamicL1
from elastic_embeddings.optimizers.rules import (
    GroupAdagrad,
    GroupAdam,
    GroupAMSGrad,
    GroupFTRL,
    RowwiseGroupAdagrad,
)
from features.errors import InputError

pytestmark = pytest.mark.slow

DIM, ROWS, STEPS = 4, 16, 300

RULES = {
    "adam": (GroupAdam(0.05), reference.AdamRow),
    "amsgrad": (GroupAMSGrad(0.05), reference.AmsgradRow),
    "adagrad": (GroupAdagrad(0.05), reference.AdagradRow),
    "ftrl": (GroupFTRL(0.05, beta=0.5), reference.FtrlRow),
    "forgetful_ftrl": (GroupFTRL(0.05, beta=0.5, keep_initial=False), reference.ForgetfulFtrlRow),
    "rowwise": (RowwiseGroupAdagrad(0.05, beta=0.5), reference.RowwiseRow),
}
STRENGTHS = {
    "none": {},
    "l1": {"l1": 0.1},
    "l2": {"l2": 0.5},
    "l21": {"l21": 0.2},
    "all": {"l1": 0.05, "l2": 0.2, "l21": 0.15},
}


def run(optimizer, row, strengths, executions, rate=0.05, **more):
    """Let the executions and reference rows learn the same batches; yield after each step."""
    rng = np.random.default_rng(7)
    start = rng.uniform(-0.3, 0.3, (ROWS, DIM)).astype(np.float32)
    rows = [row(x, rate, **strengths, **more) for x in start]
    runs = [make(optimizer, start) for make in executions]
    for t, batch in enumerate(batches(rng, ROWS, DIM, STEPS), start=1):
        for each in runs:
            each.learn(batch, t)
        for number, gradient, count in zip(batch.rows, batch.sums(), batch.counts, strict=True):
            if number:
                rows[number - 1].learn(gradient, t, count)
        yield runs, rows


def agreeing(steps):
    for runs, rows in steps:
        np.testing.assert_allclose(runs[0].weights, runs[1].weights, rtol=1e-6, atol=1e-6)
        yield runs, rows


def last(steps):
    return deque(steps, maxlen=1).pop()


def in_float64(optimizer, start):
    return GraphRows(optimizer, start, np.float64)


def assert_equal(execution, rows, **tolerance):
    np.testing.assert_allclose(execution.weights[1:], [row.x for row in rows], **tolerance)
    np.testing.assert_allclose(execution.state[1:], [row.state() for row in rows], **tolerance)
    assert not execution.weights[0].any()


CASES = [(name, strengths) for name in RULES for strengths in ("none", "all")]
CASES += [("adam", "l1"), ("adam", "l2"), ("adam", "l21")]


@pytest.mark.parametrize(("name", "strengths"), CASES)
def test_both_executions_equal_the_reference(name, strengths):
    (rule, row), given = RULES[name], STRENGTHS[strengths]
    runs, rows = last(
        agreeing(run(replace(rule, **given), row, given, [HostRows, GraphRows, in_float64]))
    )
    assert_equal(runs[0], rows, rtol=2e-5, atol=2e-5)
    assert_equal(runs[2], rows, rtol=1e-6, atol=1e-6)


GROUP_STRENGTH = {
    "adam": 0.2,
    "amsgrad": 0.2,
    "adagrad": 1.0,
    "ftrl": 2.0,
    "forgetful_ftrl": 0.4,
    "rowwise": 0.1,
}


@pytest.mark.parametrize("name", RULES)
def test_zero_sets_are_the_references_in_both_executions(name):
    rule, strengths = RULES[name], {"l1": 0.05, "l21": GROUP_STRENGTH[name]}
    optimizer, row = replace(rule[0], **strengths), rule[1]
    undecided = deaths = revivals = 0
    for runs, rows in run(optimizer, row, strengths, [HostRows, GraphRows]):
        zero = np.array([each.x == 0 for each in rows])
        clear = np.array([(np.minimum(each.l1_margin, each.margin) > 1e-4) for each in rows])
        for execution in runs:
            assert (((execution.weights[1:] == 0) == zero) | ~clear).all()
        undecided += np.count_nonzero(~clear)
        deaths += np.count_nonzero(zero.all(axis=1))
        revivals = sum(each.revivals for each in rows)
    assert undecided < 0.02 * STEPS * ROWS * DIM
    assert deaths > 20
    assert revivals > 0


@pytest.mark.parametrize("name", ["adam", "ftrl"])
def test_the_exact_step_equals_the_reference(name):
    strengths = {"l1": 0.05, "l2": 0.1, "l21": 0.2, "exact": True}
    optimizer, row = replace(RULES[name][0], **strengths), RULES[name][1]
    runs, rows = last(run(optimizer, row, strengths, [HostRows, in_float64]))
    assert_equal(runs[0], rows, rtol=5e-5, atol=5e-5)
    assert_equal(runs[1], rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "rowwise"])
def test_a_schedule_weights_gradients_in_both_executions(name):
    schedule = CosineDecay(0.05, 200, 0.1)

    def rate(t):
        progress = min(max(t - 1, 0) / 200, 1)
        return 0.05 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress)))

    strengths = {"l1": 0.05, "l21": 0.1}
    optimizer, row = replace(RULES[name][0], learning_rate=schedule, **strengths), RULES[name][1]
    runs, rows = last(run(optimizer, row, strengths, [HostRows, in_float64], rate))
    assert_equal(runs[0], rows, rtol=2e-5, atol=2e-5)
    assert_equal(runs[1], rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "ftrl"])
def test_l1_by_frequency_reads_the_count_of_the_moment(name):
    strengths = {"l1": 0.05}
    optimizer = replace(RULES[name][0], dynamic_l1=DynamicL1(3.0, 100), **strengths)
    factor = {"factor": lambda count: 1 + 3.0 * max(100 - count, 0) / 100}
    runs, rows = last(run(optimizer, RULES[name][1], strengths, [HostRows, in_float64], **factor))
    assert_equal(runs[0], rows, rtol=2e-5, atol=2e-5)
    assert_equal(runs[1], rows, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "dynamic", [DynamicL1(0.0, 10), DynamicL1(5.0, 1)], ids=["no multiple", "all seen often enough"]
)
def test_a_factor_of_one_is_the_static_result_bit_for_bit(dynamic):
    strengths = {"l1": 0.05, "l21": 0.1}
    static = GroupAdam(0.05, **strengths)
    made = [
        lambda o, x, kind=kind: kind(replace(o, dynamic_l1=dynamic), x)
        for kind in (HostRows, GraphRows)
    ]
    for runs, _ in run(static, reference.AdamRow, strengths, [HostRows, GraphRows, *made]):
        np.testing.assert_array_equal(
            runs[0].weights.view(np.uint32), runs[2].weights.view(np.uint32)
        )
        np.testing.assert_array_equal(
            runs[1].weights.view(np.uint32), runs[3].weights.view(np.uint32)
        )


def test_the_graph_refuses_a_dynamic_l1_without_counts():
    optimizer = GroupAdam(l1=0.1, dynamic_l1=DynamicL1(1.0, 5))
    zeros = np.zeros((1, 2), np.float32)
    with pytest.raises(InputError, match="counts"):
        optimizer.update(zeros, dict.fromkeys("zmv", zeros), zeros, 1)


@pytest.mark.parametrize(("rule", "slots"), [
    (GroupAdam(), {"z": 8, "m": 8, "v": 8}),
    (GroupAMSGrad(), {"z": 8, "m": 8, "v": 8, "v_max": 8}),
    (GroupAdagrad(), {"z": 8, "n": 8}),
    (GroupFTRL(), {"z": 8, "n": 8}),
    (RowwiseGroupAdagrad(), {"accumulator": 1}),
])  # fmt: skip
def test_the_packed_state_is_as_wide_as_the_slots(rule, slots):
    assert rule.slots(8) == slots
    assert rule.initial_state(np.ones((3, 8), np.float32)).shape == (3, sum(slots.values()))


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES.values()], ids=RULES.keys())
def test_a_restated_row_goes_on_from_where_it_was(rule):
    """A step without gradient at another rate: an unchanged state would scale the weights."""
    rng = np.random.default_rng(3)
    start = rng.uniform(-0.3, 0.3, (ROWS, DIM)).astype(np.float32)
    before = GraphRows(rule, start, np.float64)
    for t, batch in enumerate(batches(rng, ROWS, DIM, 20), start=1):
        before.learn(batch, t)
    after = GraphRows(replace(rule, learning_rate=rule.learning_rate / 10), start, np.float64)
    after.weights = before.weights.copy()
    after.state = after.optimizer.restated(before.state, before.weights, rule)
    for t, batch in enumerate(batches(rng, ROWS, DIM, 1), start=100_000):
        rows = batch.rows[batch.rows > 0]
        after.learn(replace(batch, gradients=0 * batch.gradients), t)
    momentum = 0.03 if isinstance(rule, GroupAdam) else 1e-6
    np.testing.assert_allclose(after.weights[rows], before.weights[rows], atol=momentum)
    assert np.abs(before.weights[rows]).max() > 0.05


@pytest.mark.covers("audit-H3")
@pytest.mark.parametrize("exact", [False, True], ids=["closed", "exact"])
@pytest.mark.parametrize(
    "penalties",
    [{"l21": 0.1}, {"l1": 0.1}, {"l2": 3.0}, {"l1": 0.01, "l2": 1.0, "l21": 0.02},
     {"l1": 0.01, "l21": 0.02, "dynamic_l1": DynamicL1(3.0, 12)}],
    ids=["l21", "l1", "l2", "all", "dynamic"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (GroupAdam(0.05, 0.0), {"learning_rate": 0.005}),
        (GroupAdam(0.05, 0.0), {"learning_rate": 0.1, "epsilon": 1e-3}),
        (GroupAMSGrad(0.05, 0.0), {"learning_rate": 0.2}),
        (GroupFTRL(0.05), {"learning_rate": 0.005, "beta": 1.0}),
        (GroupAdagrad(0.05), {"learning_rate": 0.5}),
    ],
)
def test_another_rate_moves_no_row_and_revives_none(rule, change, penalties, exact):
    """Fault H3: rows that group lasso had set to zero came back under another learning rate."""
    rule = replace(rule, **penalties, exact=exact)
    rng = np.random.default_rng(4)
    start = rng.uniform(-0.3, 0.3, (ROWS, DIM)).astype(np.float32)
    before, seen = GraphRows(rule, start, np.float64), np.ones(ROWS + 1, np.int32)
    for t, batch in enumerate(batches(rng, ROWS, DIM, 25, scale=1.0), start=1):
        before.learn(batch, t)
        seen[batch.rows] = batch.counts
    after = GraphRows(replace(rule, **change), start, np.float64)
    after.weights = before.weights.copy()
    after.state = after.optimizer.restated(before.state, before.weights, rule, seen)
    rows = np.arange(1, ROWS + 1, dtype=np.int32)
    still = RowBatch(rows, np.arange(ROWS), np.zeros((ROWS, DIM), np.float32), seen[1:])
    after.learn(still, 100_000)
    # Second moments decay in the step, which turns rows of unequal curvatures a little.
    np.testing.assert_allclose(after.weights, before.weights, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(after.weights == 0, before.weights == 0)
    assert before.weights.any()


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES.values()], ids=RULES.keys())
def test_a_batch_cut_into_other_ranges_gives_the_same_bytes(rule):
    rng = np.random.default_rng(5)
    start = rng.uniform(-0.3, 0.3, (200, DIM)).astype(np.float32)
    runs = [HostRows(replace(rule, l21=0.1), start, ranges=ranges) for ranges in (1, 2, 7)]
    for t, batch in enumerate(batches(rng, 200, DIM, 10), start=1):
        for each in runs:
            each.learn(batch, t)
    for each in runs[1:]:
        assert each.weights.tobytes() == runs[0].weights.tobytes()
        assert each.state.tobytes() == runs[0].state.tobytes()


@pytest.mark.parametrize("dim", [1, 3, 16])
def test_widths_of_one_odd_ones_and_cache_lines(dim):
    """More rows than a block holds, so that blocks begin and end everywhere."""
    rng = np.random.default_rng(6)
    rows = 700
    start = rng.uniform(-0.3, 0.3, (rows, dim)).astype(np.float32)
    optimizer = GroupAdam(0.05, l1=0.01, l21=0.1)
    host, graph = HostRows(optimizer, start), GraphRows(optimizer, start)
    for t, batch in enumerate(batches(rng, rows, dim, 30), start=1):
        host.learn(batch, t)
        graph.learn(batch, t)
    np.testing.assert_allclose(host.weights, graph.weights, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(host.state, graph.state, rtol=1e-5, atol=1e-6)


def test_a_width_that_kernels_do_not_serve_is_refused():
    with pytest.raises(InputError, match="widths of 1 to 512"):
        GroupAdam().row_kernel(513, 1)


@pytest.mark.parametrize("bad", [
    lambda: GroupFTRL(beta=-1.0),
    lambda: GroupAdagrad(initial_accumulator=0.0),
    lambda: RowwiseGroupAdagrad(initial_accumulator=0.0),
    lambda: RowwiseGroupAdagrad(l21=-0.1),
    lambda: DynamicL1(-1.0, 5),
    lambda: DynamicL1(1.0, 0),
])  # fmt: skip
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match="must"):
        bad()
