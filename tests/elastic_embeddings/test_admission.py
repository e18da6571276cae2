"""Admission policies against sums and simulations written from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_embeddings.admission.policies import (
    AlwaysAdmit,
    ByField,
    Candidates,
    CountAdmission,
    PoissonAdmission,
    SketchAdmission,
    draws,
    resolve,
)
from elastic_embeddings.admission.rate_models import GammaPrior, PlugInRate
from elastic_embeddings.admission.sketch import SketchSpec
from features.errors import InputError

POLICIES = [AlwaysAdmit(), CountAdmission(2), SketchAdmission(2), PoissonAdmission(2, horizon=10)]


def candidates(counts, events=1000, keys=None, fields=0, seed=0, coverage=1.0):
    counts = np.array(counts, np.int64)
    keys = np.arange(len(counts)) if keys is None else keys
    events = np.broadcast_to(np.array(events, np.int64), counts.shape)
    fields = np.broadcast_to(np.array(fields, np.int16), counts.shape)
    return Candidates(keys, counts, events, fields, seed, coverage)


def reference(min_count, count, event, until, shape, rate):
    """P(NegBin(a + n, q) ≥ k - n) as one minus the published sum, q = (b + t) / (b + T)."""
    if count >= min_count:
        return 1.0
    q, r = (rate + event) / (rate + until), shape + count
    terms = (
        math.lgamma(i + r) - math.lgamma(r) - math.lgamma(i + 1) for i in range(min_count - count)
    )
    return 1 - math.fsum(
        math.exp(c + r * math.log(q) + i * math.log1p(-q)) for i, c in enumerate(terms)
    )


def plug_in_reference(min_count, count, event, until):
    mean = count / event * (until - event)
    return 1 - math.fsum(
        math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(min_count - count)
    )


def probability(policy, count, event):
    return policy.probability(np.array([count]), np.array([event]))[0]


def test_always_admits_at_the_first_occurrence():
    assert AlwaysAdmit().admit(candidates([1, 5])).tolist() == [True, True]


@pytest.mark.parametrize("policy", [CountAdmission(3), SketchAdmission(3)])
def test_counts_below_the_threshold_wait(policy):
    assert policy.admit(candidates([1, 2, 3, 4])).tolist() == [False, False, True, True]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_key_no_decision(policy):
    decided = policy.admit(candidates([]))
    assert decided.dtype == np.bool_
    assert len(decided) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_frozen_hashable_and_equal_by_value(policy):
    assert policy == type(policy)(
        **{name: getattr(policy, name) for name in policy.__dataclass_fields__}
    )
    assert len({policy, CountAdmission(99)}) == 2
    with pytest.raises(AttributeError):
        policy.min_count = 7


WORKED = [
    (100_000, 1, 0.583),
    (100_000, 2, 0.871),
    (100_000, 3, 0.974),
    (500_000, 1, 0.005),
    (500_000, 3, 0.128),
]
WORKED += [(500_000, 6, 0.790), (500_000, 9, 0.999), (900_000, 6, 0.010), (900_000, 9, 0.633)]


@pytest.mark.parametrize(("event", "count", "expected"), WORKED)
def test_gamma_poisson_gives_the_worked_values(event, count, expected):
    policy = PoissonAdmission(10, until=1_000_000, prior=GammaPrior(0.5, 1))
    assert probability(policy, count, event) == pytest.approx(
        expected, abs=0.0006
    )  # the last is .6325, printed as .633


@pytest.mark.parametrize(("count", "expected"), [(1, 0.544), (2, 0.997), (3, 1.000)])
def test_plug_in_gives_the_worked_values(count, expected):
    policy = PoissonAdmission(10, until=1_000_000, prior=PlugInRate())
    assert probability(policy, count, 100_000) == pytest.approx(expected, abs=0.0005)


@given(
    min_count=st.integers(1, 60),
    count=st.integers(1, 60),
    event=st.integers(60, 10**7),
    ahead=st.integers(1, 10**7),
    shape=st.floats(0.01, 5),
    rate=st.floats(0, 1e7),
)
@settings(max_examples=200, deadline=None)
def test_probability_equals_the_published_sum(min_count, count, event, ahead, shape, rate):
    expected = reference(min_count, count, event, event + ahead, shape, rate)
    sliding = PoissonAdmission(min_count, horizon=ahead, prior=GammaPrior(shape, rate))
    fixed = PoissonAdmission(min_count, until=event + ahead, prior=GammaPrior(shape, rate))
    assert probability(sliding, count, event) == pytest.approx(expected, abs=1e-9)
    assert probability(fixed, count, event) == pytest.approx(expected, abs=1e-9)


@given(
    min_count=st.integers(2, 40),
    count=st.integers(1, 39),
    event=st.integers(40, 10**6),
    ahead=st.integers(1, 10**6),
)
@settings(max_examples=200, deadline=None)
def test_plug_in_equals_the_poisson_sum(min_count, count, event, ahead):
    policy = PoissonAdmission(min_count, horizon=ahead, prior=PlugInRate())
    expected = (
        1.0 if count >= min_count else plug_in_reference(min_count, count, event, event + ahead)
    )
    assert probability(policy, count, event) == pytest.approx(expected, abs=1e-9)


def test_the_default_prior_weighs_three_tenths_of_the_span():
    assert PoissonAdmission(10, horizon=1000).rate_model == GammaPrior(0.3, 300.0)
    assert PoissonAdmission(10, until=500).rate_model == GammaPrior(0.3, 150.0)


def test_past_its_end_a_fixed_horizon_admits_what_reached_the_count_alone():
    policy = PoissonAdmission(3, until=100)
    assert policy.probability(np.array([1, 2, 3, 9]), np.full(4, 100)).tolist() == [0, 0, 1, 1]
    assert policy.admit(candidates([1, 2, 3, 9], events=5000)).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_a_sliding_horizon_never_ends():
    policy = PoissonAdmission(3, horizon=1_000_000, prior=GammaPrior(0.3, 10))
    assert probability(policy, 2, 10**9) < probability(policy, 2, 10**5)
    assert probability(policy, 2, 10**9) > 0


def test_threshold_only_is_the_same_for_every_key():
    policy = PoissonAdmission(10, until=1_000_000, prior=GammaPrior(0.5, 1), threshold_only=True)
    decided = policy.admit(candidates([3, 6, 3, 6], events=500_000, keys=np.array([1, 2, 3, 4])))
    assert decided.tolist() == [False, True, False, True]


def test_the_share_admitted_is_the_probability():
    """Of 100,000 keys with one count, a binomial number is admitted: 5 standard errors: 0.008."""
    policy = PoissonAdmission(10, until=1_000_000, prior=GammaPrior(0.5, 1))
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 100_000, dtype=np.int64)
    for count, expected in ((1, 0.583), (2, 0.871)):
        decided = policy.admit(candidates(np.full(100_000, count), 100_000, keys))
        assert decided.mean() == pytest.approx(expected, abs=0.008)


def test_one_draw_for_ever_instead_of_one_at_each_sighting():
    """Twenty occurrences at p = 0.128: new draws would admit 94 % of the keys, one 12.8 %."""
    policy = PoissonAdmission(10, until=1_000_000, prior=GammaPrior(0.5, 1))
    keys = np.arange(20_000)
    ever = np.zeros(20_000, np.bool_)
    for _ in range(20):
        ever |= policy.admit(candidates(np.full(20_000, 3), 500_000, keys))
    assert ever.mean() == pytest.approx(0.128, abs=0.012)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3000)), min_size=1, max_size=12),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_evaluating_each_sighting_is_the_maximum_so_far(sightings, seed):
    """Admitted by some sighting ⇔ u < max of p over all sightings, p from the published sum."""
    policy = PoissonAdmission(12, horizon=4000, prior=GammaPrior(0.4, 500), sketch=None)
    key = np.array([seed * 7 - 11])
    u = draws(key, seed)[0]
    count, event, highest, admitted = 0, 0, 0.0, False
    for more, gap in sightings:
        count, event = count + more, event + gap + more
        admitted |= bool(policy.admit(candidates([count], event, key, seed=seed))[0])
        highest = max(highest, reference(12, count, event, event + 4000, 0.4, 500))
    assert admitted == (u < highest)


def test_draws_are_uniform_and_depend_on_key_and_seed_alone():
    keys = np.arange(200_000) - 100_000
    numbers = draws(keys, seed=3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    share = np.bincount((numbers * 50).astype(int), minlength=50)
    chi_squared = (
        (share - 4000) ** 2 / 4000
    ).sum()  # 49 degrees of freedom: above 94.6 once in 10,000
    assert chi_squared < 94.6
    np.testing.assert_array_equal(draws(keys[::-1], seed=3)[::-1], numbers)
    assert abs(np.corrcoef(numbers, draws(keys, seed=4))[0, 1]) < 0.02


def test_each_field_has_its_own_clock():
    """One batch of two fields at different times, decided together as they would be one by one."""
    policy = PoissonAdmission(10, until=1_000_000, prior=GammaPrior(0.5, 1))
    rng = np.random.default_rng(1)
    fields = rng.integers(0, 3, 500).astype(np.int16)
    counts, keys = rng.integers(1, 15, 500), rng.integers(-(2**40), 2**40, 500)
    events = np.array([100_000, 500_000, 900_000])[fields]
    together = policy.admit(candidates(counts, events, keys, fields))
    for field in range(3):
        mine = fields == field
        np.testing.assert_array_equal(
            policy.admit(candidates(counts[mine], events[mine], keys[mine], field)), together[mine]
        )
    assert 0 < together.sum() < 500
    expected = [
        draws(keys, 0)[i] < reference(10, int(counts[i]), int(events[i]), 10**6, 0.5, 1)
        for i in range(500)
    ]
    assert together.tolist() == expected


def test_counts_over_half_of_the_events_speak_of_twice_the_rate():
    policy = PoissonAdmission(10, horizon=1000, prior=GammaPrior(0.5, 1))
    halved = policy.probability(np.array([3]), np.array([2000]), coverage=0.5)
    np.testing.assert_allclose(
        halved, policy.probability(np.array([3]), np.array([1000])), rtol=1e-12
    )
    keys = np.arange(1000)
    decided = policy.admit(candidates(np.full(1000, 3), 2000, keys, coverage=0.5))
    np.testing.assert_array_equal(decided, policy.admit(candidates(np.full(1000, 3), 1000, keys)))


def test_what_counts_the_unadmitted():
    assert CountAdmission(2).sketch is None
    assert AlwaysAdmit().sketch is None
    assert SketchAdmission(2, 1000, 0.05, 10**6).sketch == SketchSpec(1000, 0.05, 10**6, 255)
    assert SketchAdmission(300).sketch.dtype == np.uint16
    assert PoissonAdmission(2, horizon=9).sketch == SketchSpec()
    assert PoissonAdmission(2, horizon=9, sketch=None).sketch is None


def test_policies_by_field():
    policy = ByField({"ad": CountAdmission(5), "user": AlwaysAdmit()}, otherwise=CountAdmission(2))
    assert policy.resolve(["hour", "ad", "user"]) == (
        CountAdmission(2),
        CountAdmission(5),
        AlwaysAdmit(),
    )
    assert resolve(policy, ["user", "ad"]) == (AlwaysAdmit(), CountAdmission(5))
    assert resolve(CountAdmission(3), ["a", "b"]) == (CountAdmission(3), CountAdmission(3))


def test_a_policy_for_no_field_is_refused():
    with pytest.raises(InputError, match=r"\['usr'\].*\['ad', 'user'\]"):
        ByField({"usr": AlwaysAdmit()}, AlwaysAdmit()).resolve(["user", "ad"])


WRONG = {
    "a count of 0": (lambda: CountAdmission(0), "min_count is 0"),
    "a sketch's count of 0": (lambda: SketchAdmission(0), "min_count is 0"),
    "no capacity": (lambda: SketchAdmission(2, 0), "capacity"),
    "a count beyond two bytes": (lambda: SketchAdmission(70_000), "max_count"),
    "no horizon": (lambda: PoissonAdmission(2), "horizon"),
    "two horizons": (lambda: PoissonAdmission(2, 10, until=10), "horizon"),
    "an empty horizon": (lambda: PoissonAdmission(2, until=0), "at least 1"),
    "a Poisson count of 0": (lambda: PoissonAdmission(0, 10), "min_count is 0"),
    "counters too small": (lambda: PoissonAdmission(300, 10), r"max_count=300"),
    "a shape of 0": (lambda: GammaPrior(0, 1), "PlugInRate"),
    "a negative rate": (lambda: GammaPrior(1, -1), "rate of at least 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_numbers_out_of_range_are_refused(case):
    make, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        make()
