"""Settings of the gates. Free of Great Expectations and TensorFlow.

A gate without thresholds would pass everything: every threshold has a value, and `null` is invalid.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.schema import EvolvingSettings, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(gt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataGateSettings(Settings):
    """When a day's data may be trained on.

    Drift: a day is compared with the earlier days together, up to seven, and each earlier day with
    the others. The limit of a distance is twice the largest one among the earlier days, but at
    least the setting (`validation.data.drift`). With fewer than `drift_min_days` earlier days there
    is no judgement. `drift` says whether a day that drifts fails or is only reported. An hour is
    compared with the same hour of earlier days. `max_field_auc` and `max_damaged_text_share` hold
    without history, and fail the day.
    """

    min_rows: Annotated[int, Field(ge=1)] = 1000
    max_quarantined_share: Share = 0.05
    min_ctr: Share = 0.0005
    max_ctr: Share = 0.95
    max_null_share: Share = 0.5
    null_share_by_field: dict[str, Share] = {}
    max_rows_ratio: Ratio = 10.0
    drift: Literal["fail", "warn", "off"] = "fail"
    drift_min_days: Annotated[int, Field(ge=3, le=7)] = 7
    drift_ignored_fields: tuple[str, ...] = ()
    max_psi: Positive = 0.25
    max_share_change: Share = 0.2
    max_js: Share = 0.1
    max_new_value_rate: Share = 0.3
    max_cardinality_change: Ratio = 3.0
    max_rows_change: Ratio = 1.6
    max_ctr_change: Ratio = 1.5
    max_hour_change: Ratio = 1.8
    max_field_auc: Share = 0.9
    max_damaged_text_share: Share = 0.01

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Self:
        if self.min_ctr > self.max_ctr:
            raise ValueError(
                f"min_ctr {self.min_ctr} is above max_ctr {self.max_ctr}: no day could pass"
            )
        return self


class ModelGateSettings(EvolvingSettings):
    """When a candidate is sound (parity, calibration), and when it is blessed (AUC, latency).

    AUC differences are candidate minus rival on the same held-out impressions; `calibration` is
    Σp / Σy. At the end of a day people click more or less than before, which no model of the day
    can know; so the model's calibration is also held against the baseline's on the same
    impressions: neither may be more than `max_calibration_ratio` times the other.
    `max_auc_drop_by_compression` limits what lossy compression steps may cost against the trained
    model itself, on the users that did not choose them. A drop against champion or baseline is also
    refused when it is more than `max_standard_errors` of its standard error, that is, shown to be
    real. Calibration is also compared with that of up to 14 earlier days over the same hours, once
    there are `calibration_min_days`: a change by more than a factor of `max_calibration_change`
    that is as rare as `max_calibration_standard_errors` is refused. An AUC above `max_auc` is
    unsound: a field then tells the label. Without a champion to compare with, a candidate is
    blessed only if `bootstrap` is `always`, or `first` and no version was ever promoted. When
    features, graph, model or training were configured otherwise for the champion, its settings are
    trained on the candidate's days too, at most the last `champion_recipe_days` (0: not at all),
    and the candidate may lose no more to that than to the champion: newer data alone makes no
    better settings.
    """

    added_later = (
        "max_auc_drop_by_compression",
        "champion_recipe_days",
        "calibration_min_days",
        "max_calibration_change",
        "max_calibration_standard_errors",
    )

    max_parity_diff: Positive = 1e-6
    min_calibration: Positive = 0.5
    max_calibration: Positive = 2.0
    max_calibration_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.4
    calibration_min_days: Annotated[int, Field(ge=3, le=14)] = 5
    max_calibration_change: Ratio = 1.05
    max_calibration_standard_errors: Positive = 3.0
    min_auc: Share = 0.5
    max_auc: Share = 0.99
    max_auc_drop_to_champion: Share = 0.005
    bootstrap: Literal["never", "first", "always"] = "first"
    max_auc_drop_to_baseline: Share = 0.01
    max_auc_drop_by_compression: Share = 0.0005
    max_standard_errors: Positive = 2.0
    max_p99_ms: Positive = 250.0
    champion_recipe_days: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Self:
        if self.min_calibration > self.max_calibration:
            raise ValueError(
                f"min_calibration {self.min_calibration} is above max_calibration "
                f"{self.max_calibration}: no model could pass"
            )
        return self
