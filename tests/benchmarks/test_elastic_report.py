"""Ratios are of medians, in the direction that the issue asks for; what is missing is None and not
a number.
"""

import pytest
from elastic import Measured, flattened, step_figures, with_targets


def measured() -> Measured:
    """Ours 20 ms on a dense part of 14; TFRA 58 on its own dense part of 13; torch failed half way."""
    times = {
        ("ours", "step", "128x64"): [20.0, 19.0, 90.0],
        ("dense", "dense", "128x64"): [14.0],
        ("ours", "step", "400x400"): [60.0],
        ("dense", "dense", "400x400"): [50.0],
        ("tfra", "step", "128x64"): [58.0],
        ("tfra", "dense", "128x64"): [13.0],
        ("torch_sparse", "step", "128x64"): [70.0],
        ("keras_4m", "step", "128x64"): [390.0],
    }
    return Measured(times=times, missing={"torch_sparse": "killed"})


def test_ratios_are_theirs_over_ours_and_parts_are_less_their_own_dense_part():
    figures = step_figures(measured(), batch=4096)
    assert figures["step_ratio"]["tfra"] == pytest.approx(58 / 20)
    assert figures["embedding_part_ratio"]["tfra"] == pytest.approx((58 - 13) / (20 - 14))
    assert figures["over_dense"] == pytest.approx({"mlp_400": 60 / 50, "mlp_128": 20 / 14})
    assert figures["examples_per_s"] == pytest.approx(4096 / 0.020)


def test_a_missing_or_failed_system_is_none():
    figures = step_figures(measured(), batch=4096)
    assert figures["step_ratio"]["torch_sparse"] is None
    assert figures["embedding_part_ratio"]["torch_sparse"] is None
    assert figures["step_ratio"]["keras_1m"] is None


def test_targets_missed_are_named_and_none_misses_nothing():
    figures = with_targets(step_figures(measured(), batch=4096))
    assert figures["missed"] == ["step_ratio.tfra"]
    assert figures["targets"]["over_dense.mlp_128"] == "≤ 1.6"


def test_nested_figures_get_dotted_names():
    assert flattened({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
