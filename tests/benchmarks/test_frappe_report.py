"""Means and deviations over seeds, the fusion, and what is missed: values computed by hand."""

import numpy as np
import pytest
from frappe import BEST, LIKE, figures_of, fused, mean_of_logits, verdicts, with_speeds
from harness.cache import Result
from harness.frappe_models import FUSION

LABEL = np.array([0, 1, 0, 1], np.float32)
PERFECT = np.array([0.1, 0.9, 0.2, 0.8], np.float32)
HALF_RIGHT = np.array([0.2, 0.9, 0.5, 0.1], np.float32)  # two of the four pairs are in order


def result(
    test: np.ndarray, speed: float = 100.0, valid_auc: tuple[float, ...] = (0.7, 0.9, 0.8)
) -> Result:
    return Result({"examples_per_s": speed, "valid_auc": list(valid_auc)}, test, test)


def test_figures_are_means_over_the_seeds():
    figures = figures_of(
        [result(PERFECT, 100), result(HALF_RIGHT, 300), result(PERFECT, 200)], LABEL
    )
    assert figures["auc_mean"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert figures["auc_std"] == pytest.approx(np.sqrt(1 / 12))
    perfect = -np.mean(np.log([0.9, 0.9, 0.8, 0.8]))
    half = -np.mean(np.log([0.8, 0.9, 0.5, 0.1]))
    assert figures["log_loss_mean"] == pytest.approx((2 * perfect + half) / 3)
    assert figures["examples_per_s"] == 200
    assert figures["valid_auc_mean"] == pytest.approx(0.9)
    assert figures["seeds"] == 3


def test_one_seed_has_no_deviation():
    assert figures_of([result(PERFECT)], LABEL)["auc_std"] is None


def test_the_mean_of_logits_of_opposites_is_one_half_and_of_equals_is_themselves():
    np.testing.assert_allclose(mean_of_logits([PERFECT, 1 - PERFECT]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(mean_of_logits([PERFECT, PERFECT]), PERFECT, rtol=1e-6)
    assert np.isfinite(
        mean_of_logits([np.array([0.0, 1.0], np.float32), np.array([0.5, 0.5], np.float32)])
    ).all()


def test_a_fusion_takes_the_time_of_its_members_and_its_own_validation_auc():
    run = fused([result(PERFECT, 100), result(PERFECT, 50)], LABEL)
    assert run.figures["examples_per_s"] == pytest.approx(1 / (1 / 100 + 1 / 50))
    assert run.figures["valid_auc"] == [1.0]


def model(auc: float, speed: float = 100.0) -> dict[str, float | None]:
    return {"auc_mean": auc, "examples_per_s": speed}


def test_shortfall_is_to_the_better_peer_and_speed_to_the_faster_one():
    figures = verdicts(
        {
            "ours_deepfm": model(0.983, 100),
            "fuxictr_deepfm": model(0.984, 40),
            "deepctr_deepfm": model(0.97, 60),
        }
    )
    assert figures["compared"]["ours_deepfm"]["auc_shortfall"] == pytest.approx(0.001)
    assert figures["compared"]["ours_deepfm"]["speed_ratio"] == pytest.approx(100 / 60)
    assert figures["missed"] == ["ours_deepfm.auc_shortfall", "ours_deepfm.speed_ratio"]


def test_a_model_without_peers_misses_nothing():
    figures = verdicts({"ours_dcnv2": model(0.5)})
    assert figures["compared"] == {"ours_dcnv2": {"auc_shortfall": None, "speed_ratio": None}}
    assert figures["missed"] == []
    assert figures["best_over_all_others"] is None


@pytest.mark.parametrize(
    ("best", "missed"), [(0.99, []), (0.9856, [f"{BEST}.auc_mean"]), (0.9854, [f"{BEST}.auc_mean"])]
)
def test_the_best_must_beat_every_other_and_the_published_bar(best: float, missed: list[str]):
    figures = verdicts({BEST: model(best), "fuxictr_dcnv2": model(0.986)})
    assert figures["missed"] == missed
    assert figures["best_over_all_others"] == pytest.approx(best - 0.986)


def test_every_model_that_is_compared_is_registered():
    from harness.frappe_models import FUSION, MODELS

    assert {*LIKE, *FUSION, *(peer for peers in LIKE.values() for peer in peers)} <= set(MODELS)


def test_speeds_measured_side_by_side_take_the_place_of_those_of_the_runs():
    kept = {name: model(0.9) for name in (*FUSION, BEST, "fuxictr_dnn")}
    timed = with_speeds(kept, dict.fromkeys(FUSION, 30.0))
    assert {name: row["examples_per_s"] for name, row in timed.items()} == pytest.approx(
        dict.fromkeys(FUSION, 30.0) | {BEST: 10.0, "fuxictr_dnn": 100.0}
    )
    assert with_speeds(kept, {}) == kept
