"""Who gets blessed: the truth table of the model gate."""

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from validation.checks import Check
from validation.model.gates import BOOTSTRAP, Evidence, GateResult, decide
from validation.settings import DataGateSettings, ModelGateSettings

GOOD = Evidence(
    auc=0.74,
    auc_exported=0.74,
    log_loss=0.55,
    calibration=1.02,
    calibration_baseline=1.0,
    auc_baseline=0.72,
    auc_champion=0.735,
    parity_max_abs_diff=2e-7,
    bytes_exported=5_000_000,
    p99_ms=4.0,
    impressions=20_000,
    errors={"baseline": 0.01, "champion": 0.01, "champion_recipe": 0.01, "compressed": 0.0001},
)
SETTINGS = ModelGateSettings()

TABLE = [
    ("as good as it gets", {}, GateResult.BLESSED, set()),
    (
        "a little worse than the champion, within the margin",
        {"auc_champion": 0.7449},
        GateResult.BLESSED,
        set(),
    ),
    (
        "worse than the champion",
        {"auc_champion": 0.7451},
        GateResult.REFUSED,
        {"auc_minus_champion"},
    ),
    (
        "better than the champion by newer data alone",
        {"auc_champion_recipe": 0.7451},
        GateResult.REFUSED,
        {"auc_minus_champion_recipe"},
    ),
    (
        "level with the champion's settings",
        {"auc_champion_recipe": 0.74},
        GateResult.BLESSED,
        set(),
    ),
    ("within the margin of the baseline", {"auc_baseline": 0.7499}, GateResult.BLESSED, set()),
    (
        "worse than the baseline",
        {"auc_baseline": 0.7501},
        GateResult.REFUSED,
        {"auc_minus_baseline"},
    ),
    ("too slow", {"p99_ms": 251.0}, GateResult.REFUSED, {"p99_ms"}),
    (
        "worse and slow",
        {"auc_champion": 0.8, "p99_ms": 251.0},
        GateResult.REFUSED,
        {"auc_minus_champion", "p99_ms"},
    ),
    ("parity at the limit", {"parity_max_abs_diff": 1e-6}, GateResult.BLESSED, set()),
    ("parity broken", {"parity_max_abs_diff": 1.1e-6}, GateResult.UNSOUND, {"parity_max_abs_diff"}),
    (
        "parity unknown",
        {"parity_max_abs_diff": math.nan},
        GateResult.UNSOUND,
        {"parity_max_abs_diff"},
    ),
    ("parity missing", {"parity_max_abs_diff": None}, GateResult.UNSOUND, {"parity_max_abs_diff"}),
    (
        "predicts too few clicks",
        {"calibration": 0.49},
        GateResult.UNSOUND,
        {"calibration", "calibration_ratio"},
    ),
    (
        "predicts too many clicks",
        {"calibration": 2.1},
        GateResult.UNSOUND,
        {"calibration", "calibration_ratio"},
    ),
    (
        "an evening with more clicks, for the baseline too",
        {"calibration": 0.6, "calibration_baseline": 0.65},
        GateResult.BLESSED,
        set(),
    ),
    (
        "predicts fewer clicks than the baseline",
        {"calibration": 0.7, "calibration_baseline": 1.0},
        GateResult.UNSOUND,
        {"calibration_ratio"},
    ),
    (
        "no click to calibrate on",
        {"calibration": math.inf},
        GateResult.UNSOUND,
        {"calibration", "calibration_ratio"},
    ),
    ("worse than chance", {"auc": 0.49}, GateResult.UNSOUND, {"auc"}),
    ("AUC undefined", {"auc": math.nan}, GateResult.UNSOUND, {"auc"}),
    ("log loss is NaN", {"log_loss": math.nan}, GateResult.UNSOUND, {"log_loss"}),
    ("log loss is infinite", {"log_loss": math.inf}, GateResult.UNSOUND, {"log_loss"}),
    (
        "the champion's AUC is NaN",
        {"auc_champion": math.nan},
        GateResult.REFUSED,
        {"auc_minus_champion"},
    ),
    (
        "the baseline's AUC is NaN",
        {"auc_baseline": math.nan},
        GateResult.REFUSED,
        {"auc_minus_baseline"},
    ),
    ("latency unknown", {"p99_ms": math.nan}, GateResult.REFUSED, {"p99_ms"}),
    (
        "unsound beats refused",
        {"calibration": 9.0, "p99_ms": 999.0},
        GateResult.UNSOUND,
        {"calibration", "calibration_ratio", "p99_ms"},
    ),
    (
        "the export lost what training learned",
        {"auc_exported": 0.4},
        GateResult.UNSOUND,
        {"auc_exported", "auc_minus_baseline", "auc_minus_champion"},
    ),
]


@pytest.mark.covers("infrastructure-4", "model-5")
@pytest.mark.parametrize(
    ("changes", "outcome", "failed"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_truth_table(changes, outcome, failed):
    verdict = decide(replace(GOOD, **changes), SETTINGS)
    assert verdict.result is outcome
    assert {c.name for c in verdict.checks if not c.passed} == failed
    assert len(verdict.reasons) == len(failed)
    assert len(verdict.checks) == 9 + ("auc_champion_recipe" in changes)


@pytest.mark.parametrize(
    ("change", "passes"), [(-0.0004, True), (-0.0006, False), (0.01, True), (math.nan, False)]
)
def test_lossy_compression_may_cost_so_much_and_no_more(change, passes):
    lossy = replace(GOOD, auc_compressed=0.74, auc_change_by_compression=change)
    verdict = decide(lossy, SETTINGS)
    assert verdict.result is (GateResult.BLESSED if passes else GateResult.REFUSED)
    assert {c.name for c in verdict.checks if not c.passed} == (
        set() if passes else {"auc_minus_trained"}
    )
    assert "compressed model's probability" in verdict.checks[0].words


@pytest.mark.covers("F26", "model-5", "audit-M7")
@pytest.mark.parametrize("rival", ["champion", "baseline"])
@pytest.mark.parametrize(
    ("drop", "error", "passes"),
    [
        (0.004, 0.0015, False),  # shown to be worse, though within the allowed drop
        (0.0029, 0.0015, True),
        (0.0051, 0.004, False),  # not shown, but more than any drop that is allowed
        (0.004, 0.004, True),
        (-0.1, 0.0001, True),
        (-0.1, math.nan, False),
    ],
)
def test_a_drop_is_judged_by_its_standard_error(rival, drop, error, passes):
    """Point estimates alone let through what is worse by several standard errors."""
    settings = ModelGateSettings(max_auc_drop_to_baseline=0.005)
    auc = {"auc_champion": 0.7, "auc_baseline": 0.7, f"auc_{rival}": 0.74 + drop}
    verdict = decide(replace(GOOD, **auc, errors={**GOOD.errors, rival: error}), settings)
    assert verdict.result is (GateResult.BLESSED if passes else GateResult.REFUSED)
    if not passes:
        assert f"standard error {error:.2g}, 20,000 impressions" in verdict.reasons[0]


@pytest.mark.covers("F15", "H12")
def test_an_auc_that_is_too_good_to_be_true_is_unsound():
    """Fault H12: a field that spells the label had AUC 1.0 and was blessed."""
    verdict = decide(replace(GOOD, auc_exported=1.0), SETTINGS)
    assert verdict.result is GateResult.UNSOUND
    assert "a field tells the label" in verdict.reasons[0]


def test_without_a_champion_the_bootstrap_is_explicit():
    verdict = decide(replace(GOOD, auc_champion=None), SETTINGS)
    assert verdict.result is GateResult.BLESSED
    assert verdict.reasons == (BOOTSTRAP,)
    assert "auc_minus_champion" not in {c.name for c in verdict.checks}


def test_a_bootstrap_does_not_excuse_the_other_gates():
    worse = decide(replace(GOOD, auc_champion=None, auc_baseline=0.8), SETTINGS)
    unsound = decide(replace(GOOD, auc_champion=None, parity_max_abs_diff=0.1), SETTINGS)
    assert (worse.result, unsound.result) == (GateResult.REFUSED, GateResult.UNSOUND)
    assert worse.reasons[-1] == unsound.reasons[-1] == BOOTSTRAP


NO_FIGURES = {"bytes_exported", "impressions", "errors", "auc_compressed", "same_hours"}


@given(st.sampled_from([f.name for f in fields(Evidence) if f.name not in NO_FIGURES]))
def test_no_figure_may_be_nan(name):
    assert decide(replace(GOOD, **{name: math.nan}), SETTINGS).result is not GateResult.BLESSED


@given(st.floats(0.3, 0.9), st.floats(0.3, 0.9))
def test_a_better_candidate_never_gets_a_worse_verdict(first, second):
    rank = [GateResult.UNSOUND, GateResult.REFUSED, GateResult.BLESSED]
    low, high = sorted((first, second))
    worse, better = (
        decide(replace(GOOD, auc=a, auc_exported=a), SETTINGS).result for a in (low, high)
    )
    assert rank.index(worse) <= rank.index(better)


@pytest.mark.covers("F27")
@pytest.mark.parametrize("name", sorted(ModelGateSettings.model_fields))
def test_a_gate_cannot_be_switched_off_by_removing_its_threshold(name):
    with pytest.raises(ValidationError):
        ModelGateSettings.model_validate({name: None})
    with pytest.raises(ValidationError):
        ModelGateSettings.model_validate({name: math.nan})
    with pytest.raises(ValidationError):
        ModelGateSettings.model_validate({name: math.inf})


def test_limits_that_nothing_could_pass_are_refused():
    with pytest.raises(ValidationError, match="no model could pass"):
        ModelGateSettings(min_calibration=1.2, max_calibration=0.8)
    with pytest.raises(ValidationError, match="no day could pass"):
        DataGateSettings(min_ctr=0.5, max_ctr=0.4)


def test_a_check_without_a_limit_cannot_be_made():
    with pytest.raises(ValueError, match="no limit"):
        Check("auc", 0.7, None, None, "AUC")
    with pytest.raises(ValueError, match="no limit"):
        Check("auc", 0.7, math.nan, None, "AUC")


def test_the_verdict_file_is_plain_json_even_with_nan():
    document = json.loads(
        json.dumps(decide(replace(GOOD, log_loss=math.nan), SETTINGS).as_dict(), allow_nan=False)
    )
    assert document["verdict"] == "unsound"
    assert document["reasons"] == [
        "log loss of the exported model: not a number, must be at least 0"
    ]
    assert document["metrics"]["log_loss"] is None
    assert document["metrics"]["auc"] == 0.74
    assert set(document["checks"][0]) == {field.name for field in fields(Check)} - {
        "low",
        "high",
    } | {"limit", "passed"}


def test_limits_are_said_in_words():
    limits = [
        Check("x", 1.0, low, high, "x").limit
        for low, high in [(0.5, None), (None, 1e-6), (0, 0), (0.7, 1.4)]
    ]
    assert limits == ["at least 0.5", "at most 1e-06", "exactly 0", "between 0.7 and 1.4"]


def test_the_limits_themselves_pass():
    assert Check("x", 0.7, 0.7, 1.4, "x").passed
    assert Check("x", 1.4, 0.7, 1.4, "x").passed
    assert not Check("x", math.nextafter(1.4, 2), 0.7, 1.4, "x").passed
