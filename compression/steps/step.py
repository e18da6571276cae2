"""What a step of compression is: fitted to a model it gives a plan, and the plan applied to the model gives a smaller one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from compression.steps.settings import StepSettings
from compression.steps.work import Work
from features.schema import Settings


class Plan(Settings):
    """What a fitted step does: plain values, so that it can be written, read and compared."""


SettingsT = TypeVar("SettingsT", bound=StepSettings)
Planned = TypeVar("Planned", bound=Plan)


class Step(ABC, Generic[SettingsT, Planned]):
    """One step. The same settings and the same model give the same plan and the same result, to the bit.

    Args:
        settings: what the YAML says of it.
    """

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    @abstractmethod
    def fit(self, work: Work) -> Planned:
        """Return what to do with a model; raises InputError where the settings do not fit it."""

    @abstractmethod
    def apply(self, work: Work, plan: Planned) -> Work:
        """Return the model with the plan carried out; raises InputError where the plan is not one of this model's."""
