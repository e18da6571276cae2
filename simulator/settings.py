"""Settings of the simulated log: size, world, logging policy and faults. Plain data."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.schema import EvolvingSettings, Settings

SETTINGS_FILE = "_settings.json"
"""File in the folder of a simulated day, with the settings that it was made with."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Days = Annotated[tuple[date, ...], Field(min_length=1)]


class FaultKind(StrEnum):
    """Kinds of faults in the log."""

    DUPLICATE = "duplicate"
    LATE = "late"
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_LABEL = "bad_label"
    MISSING_LABEL = "missing_label"
    MISSING_COLUMN = "missing_column"
    EMPTY_DAY = "empty_day"
    TRUNCATED_FILE = "truncated_file"
    SHIFTED_CTR = "shifted_ctr"


class RecordFault(Settings):
    """Break `floor(rate · impressions_per_day)` records of some days.

    No record gets two faults.

    Attributes:
        kind: `duplicate` adds an exact copy; `late` replaces the record by an impression of the
            day before; `bad_timestamp` and `bad_label` write text that cannot be parsed, and the
            column is text on that day; `missing_label` makes the label null.
        rate: share of the records.
        days: the days; every day if empty.
    """

    kind: Literal[
        FaultKind.DUPLICATE,
        FaultKind.LATE,
        FaultKind.BAD_TIMESTAMP,
        FaultKind.BAD_LABEL,
        FaultKind.MISSING_LABEL,
    ]
    rate: Share
    days: tuple[date, ...] = ()


class FileFault(Settings):
    """Break the files of some days.

    Files of an `empty_day` have columns but no records. A `truncated_file` loses its second half.
    """

    kind: Literal[FaultKind.EMPTY_DAY, FaultKind.TRUNCATED_FILE]
    days: Days


class MissingColumn(Settings):
    """Omit a column on some days."""

    kind: Literal[FaultKind.MISSING_COLUMN] = FaultKind.MISSING_COLUMN
    column: str
    days: Days


class ShiftedCtr(Settings):
    """Add `logit_shift` to every true logit of some days. The truth includes it."""

    kind: Literal[FaultKind.SHIFTED_CTR] = FaultKind.SHIFTED_CTR
    logit_shift: float
    days: Days


Fault = Annotated[RecordFault | FileFault | MissingColumn | ShiftedCtr, Field(discriminator="kind")]


class EffectSettings(Settings):
    """Standard deviations of the terms of a true logit.

    `context` applies to each of slot, device, hour, position and country, `interaction` to each of
    (slot, category) and (user tags, category), `latent` to the inner product of user and item
    factors, `segment` to that of the factors of the user's segment and of the item's topic, which
    also holds for pairs that were never seen.
    """

    user: NonNegative = 0.3
    item: NonNegative = 0.4
    category: NonNegative = 0.4
    advertiser: NonNegative = 0.4
    context: NonNegative = 0.3
    interaction: NonNegative = 0.4
    latent: NonNegative = 0.4
    segment: NonNegative = 0.4
    price: NonNegative = 0.2


class PolicySettings(Settings):
    """The logging policy: a softmax over noisy scores of the candidates, mixed with exploration.

    The score is `skill` times the true logit plus normal noise of standard deviation `noise`. A
    share `exploration` of the choices is uniform, so no propensity is below
    `exploration / candidates`.
    """

    candidates: Annotated[int, Field(ge=2, le=100)] = 8
    skill: float = 1.0
    noise: NonNegative = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.5
    exploration: Share = 0.1


class SimulatorSettings(EvolvingSettings):
    """The simulated world and its log.

    Attributes:
        first_day: first day of the simulation; days are UTC days.
        new_items_per_day: items that appear each day in addition to the `items` of the first day.
        segments: of users, and `topics` of items; there are more pairs of them than a day shows.
        user_exponent: a user's popularity is (rank + `user_shift`)^-exponent; `item_exponent` and
            `item_shift` are those of items. A shift keeps the first ones from being too frequent.
        fresh_share: share of the candidates that are items of `new_items_per_day`.
        fresh_decay: factor by which the share of a day's new items falls with each day of age.
        base_ctr: approximate CTR of the uniformly random policy.
        drift_per_day: radians by which factors of users and items turn each day.
        random_share: share of the impressions that are chosen uniformly among the candidates.
        noise: for each column `noise_0`, `noise_1`, … the number of its values, which are drawn
            uniformly and have no effect on a click.
        click_delay_s: median of the seconds from impression to click, above 0: the log then lacks
            the clicks that come after it is written. The share that takes longer than d is
            `click_delay_s / (click_delay_s + d)`, so a few come days later.
        log_delay_s: seconds from the end of a day until its log is written.
    """

    added_later = ("click_delay_s", "log_delay_s")

    first_day: date = date(2026, 1, 1)
    impressions_per_day: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100_000
    users: Count = 50_000
    items: Count = 5_000
    new_items_per_day: Annotated[int, Field(ge=0)] = 100
    categories: Count = 40
    advertisers: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    segments: Count = 400
    topics: Count = 300
    latent_dim: Annotated[int, Field(ge=1, le=64)] = 8
    segment_dim: Annotated[int, Field(ge=1, le=64)] = 4
    user_exponent: NonNegative = 0.7
    user_shift: NonNegative = 0.0
    item_exponent: NonNegative = 1.0
    item_shift: NonNegative = 0.0
    fresh_share: Share = 0.15
    fresh_decay: Annotated[float, Field(gt=0, lt=1)] = 0.7
    base_ctr: Annotated[float, Field(gt=0, lt=1)] = 0.08
    drift_per_day: NonNegative = 0.05
    random_share: Share = 0.05
    null_price_share: Share = 0.03
    noise: tuple[Count, ...] = ()
    click_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    log_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 17
    effects: EffectSettings = EffectSettings()
    policy: PolicySettings = PolicySettings()
    faults: tuple[Fault, ...] = ()
    chunk_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 200_000
    file_rows: Count = 4_000_000

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.items < self.policy.candidates:
            raise ValueError(
                f"`items` ({self.items}) must be at least `policy.candidates` "
                f"({self.policy.candidates})"
            )
        rated = [fault for fault in self.faults if isinstance(fault, RecordFault)]
        for day in {None, *(day for fault in rated for day in fault.days)}:
            total = sum(fault.rate for fault in rated if not fault.days or day in fault.days)
            if total > 1:
                where = "every day" if day is None else day.isoformat()
                raise ValueError(
                    f"the rates of record faults sum to {total:g} on {where}: no record gets two "
                    "faults, keep the sum at 1 or less"
                )
        return self
