"""The summary of the simulated worlds: paired differences, and the parts that are left out."""

import math

import numpy as np
import pytest
import simulated

from pipelines.config import load_config

FIGURES = {"auc": 0.7, "log_loss": 0.4, "rows": 30.0, "ids_seen": 100.0}


def test_differences_are_paired_by_world():
    whole = [FIGURES | {"auc": auc} for auc in (0.70, 0.74, 0.78)]
    arm = [FIGURES | {"auc": auc} for auc in (0.69, 0.73, 0.76)]
    summary = simulated._summary(arm, whole)
    differences = np.array([-0.01, -0.01, -0.02])
    assert summary["auc_minus_first"] == pytest.approx(differences.mean())
    assert summary["auc_minus_first_standard_error"] == pytest.approx(
        differences.std(ddof=1) / math.sqrt(3)
    )
    assert summary["log_loss_minus_first"] == 0
    assert summary["rows_share"] == 0.3
    alone = simulated._summary(arm[:1], whole[:1])
    assert math.isnan(alone["auc_minus_first_standard_error"])


@pytest.mark.parametrize("arm", [name for name in simulated.ARMS if name != "whole"])
def test_an_arm_leaves_out_something_that_the_profile_has(arm, tmp_path):
    whole, without = (
        load_config(simulated.PROFILE, list(overrides), tmp_path)
        for overrides in ((), simulated.ARMS[arm])
    )
    assert whole != without
