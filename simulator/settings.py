"""What YAML says of the simulated log: its size, its world, its logging policy and its faults. Plain data."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.schema import Settings

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Days = Annotated[tuple[date, ...], Field(min_length=1)]


class FaultKind(StrEnum):
    """What can be broken on purpose."""

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
    """Break `floor(rate · impressions_per_day)` records of a day (of every day when `days` is empty).

    `duplicate` appends an exact copy; `late` puts an impression of the day before in the record's place;
    `bad_timestamp` and `bad_label` write text that cannot be read (the column is text that day); `missing_label`
    leaves the label null. No record gets two faults.
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
    """Break the files of some days: `empty_day` has columns and no record, `truncated_file` loses its second half."""

    kind: Literal[FaultKind.EMPTY_DAY, FaultKind.TRUNCATED_FILE]
    days: Days


class MissingColumn(Settings):
    """Leave a column out on some days."""

    kind: Literal[FaultKind.MISSING_COLUMN] = FaultKind.MISSING_COLUMN
    column: str
    days: Days


class ShiftedCtr(Settings):
    """Add `logit_shift` to every true logit of some days; the truth knows of it."""

    kind: Literal[FaultKind.SHIFTED_CTR] = FaultKind.SHIFTED_CTR
    logit_shift: float
    days: Days


Fault = Annotated[RecordFault | FileFault | MissingColumn | ShiftedCtr, Field(discriminator="kind")]


class EffectSettings(Settings):
    """Standard deviations, in logits, of the parts that a true click probability is the sum of.

    `context` holds for each of slot, device, hour, position and country; `interaction` for each of (slot, category)
    and (user tags, category); `latent` for the inner product of user and item factors.
    """

    user: NonNegative = 0.3
    item: NonNegative = 0.4
    category: NonNegative = 0.4
    advertiser: NonNegative = 0.4
    context: NonNegative = 0.3
    interaction: NonNegative = 0.4
    latent: NonNegative = 0.4
    price: NonNegative = 0.2


class PolicySettings(Settings):
    """The logging policy: a softmax over `candidates` items by a noisy score, mixed with uniform exploration.

    The score is `skill` times the true logit plus normal noise of standard deviation `noise`. A share `exploration`
    of the choice is uniform, so no propensity is below `exploration / candidates`.
    """

    candidates: Annotated[int, Field(ge=2, le=100)] = 8
    skill: float = 1.0
    noise: NonNegative = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.5
    exploration: Share = 0.1


class SimulatorSettings(Settings):
    """The simulated world and its log. Days are UTC days, from `first_day` on.

    A user's or item's popularity falls with its rank to the power `-user_exponent` / `-item_exponent`. Besides the
    `items` there from the start, `new_items_per_day` appear every day; they take `fresh_share` of the candidates,
    and a day's arrivals lose a share `1 - fresh_decay` of that with each day of age. Factors of users and items turn
    by `drift_per_day` radians a day. `base_ctr` is about what the uniformly random policy gets. `random_share` of
    the impressions are chosen uniformly among the candidates.
    """

    first_day: date = date(2026, 1, 1)
    impressions_per_day: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100_000
    users: Count = 50_000
    items: Count = 5_000
    new_items_per_day: Annotated[int, Field(ge=0)] = 100
    categories: Count = 40
    advertisers: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    latent_dim: Annotated[int, Field(ge=1, le=64)] = 8
    user_exponent: NonNegative = 0.7
    item_exponent: NonNegative = 1.0
    fresh_share: Share = 0.15
    fresh_decay: Annotated[float, Field(gt=0, lt=1)] = 0.7
    base_ctr: Annotated[float, Field(gt=0, lt=1)] = 0.08
    drift_per_day: NonNegative = 0.05
    random_share: Share = 0.05
    null_price_share: Share = 0.03
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 17
    effects: EffectSettings = EffectSettings()
    policy: PolicySettings = PolicySettings()
    faults: tuple[Fault, ...] = ()
    chunk_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 200_000
    file_rows: Count = 4_000_000

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.items < self.policy.candidates:
            raise ValueError(
                f"`items` ({self.items}) must be at least `policy.candidates` ({self.policy.candidates})"
            )
        _refuse_crowded_days(self.faults)
        return self


def _refuse_crowded_days(faults: tuple[Fault, ...]) -> None:
    rated = [f for f in faults if isinstance(f, RecordFault)]
    for day in {None, *(day for f in rated for day in f.days)}:
        total = sum(f.rate for f in rated if not f.days or day in f.days)
        if total > 1:
            where = "every day" if day is None else day.isoformat()
            raise ValueError(
                f"the rates of record faults sum to {total:g} on {where}: no record gets two, keep them at 1 or less"
            )
