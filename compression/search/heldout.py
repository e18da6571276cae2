"""The held-out slice of a day in two halves of its users: plans are chosen on one and reported on the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.data.examples import Examples, heldout_start, read_examples
from training.fit.checkpoints import Description


@dataclass(frozen=True)
class HeldOut:
    """The slice as a model of the day reads it, and as models of fewer fields do.

    Attributes:
        partition: the day's `impressions` artifact.
        rows: its last impressions that are held out, n.
        label: float32 [n].
        user: int64 [n], codes.
        reported: bool [n], users of the half that is reported; the others choose.
    """

    partition: Path
    rows: int
    label: NDArray[np.float32]
    user: NDArray[np.int64]
    reported: NDArray[np.bool_]

    @classmethod
    def of(cls, partition: Path, told: Description) -> Self:
        """Read the slice that the model's training held out.

        Raises:
            InputError: a half has no click or no impression without one, so that nothing can be measured on it.
        """
        examples = last(
            read_examples(partition, told.schema, told.relations), told.training.holdout_fraction
        )
        reported = of_reported_half(examples.users)[examples.user]
        for half, name in ((reported, "reported"), (~reported, "choosing")):
            if len(np.unique(examples.label[half])) < 2:
                raise InputError(
                    f"{partition}: the {name} half of the held-out users has {int(half.sum())} impressions of one label; search "
                    "on a larger day, or raise training.holdout_fraction"
                )
        return cls(partition, len(examples), examples.label, examples.user, reported)

    @property
    def choosing(self) -> NDArray[np.bool_]:
        """The other half, bool [n]."""
        return ~self.reported

    def examples(self, told: Description) -> Examples:
        """Return the slice as a model of this description reads it."""
        whole = read_examples(self.partition, told.schema, told.relations)
        return whole.slice(len(whole) - self.rows, len(whole))


def last(examples: Examples, fraction: float) -> Examples:
    """Return the held-out slice of a day."""
    return examples.slice(heldout_start(len(examples), fraction), len(examples))


def of_reported_half(users: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which users, bool [u], are of the half that is reported: by a bit of their hash, the same in every process."""
    bits = (hashlib.blake2b(str(user).encode(), digest_size=1).digest()[0] & 1 for user in users)
    return np.fromiter(bits, bool, len(users))
