"""Masks over the columns of rows, learned on the day's impressions (`masks.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.steps.learning import day_of, learner_over, lesson
from compression.steps.masks import SlabMasks, full_masks
from compression.steps.settings import Widths
from compression.steps.work import Work
from training.data.field_groups import own_slab, slab_of
from training.fit.frozen_rows import Places, with_zero_row
from training.fit.passes import learn_passes
from training.fit.routing import Routing
from training.packed.rows import PackedRows

Ranks = dict[str, dict[str, tuple[int, ...]]]

_DENSE_RATE = 1e-4


class MaskedRows:
    """The rows of a model behind the interface of a table: slabs with masks learn their widths, nothing else moves.

    Args:
        tables: rows by group.
        masks: by the slab's name in the model.
        routing: which field belongs to which group.
    """

    def __init__(
        self, tables: Mapping[str, PackedRows], masks: Mapping[str, SlabMasks], routing: Routing
    ) -> None:
        self.step = 0
        self._masks = masks
        self._places = Places({name: np.sort(rows.keys) for name, rows in tables.items()}, routing)
        self._narrow = {
            slab_of(name, slab): with_zero_row(stored.rows()[np.argsort(rows.keys)])
            for name, rows in tables.items()
            for slab, stored in rows.slabs.items()
            if slab_of(name, slab) not in masks
        }

    def prepare(
        self,
        keys: NDArray[np.int64],
        fields: NDArray[np.int16] | None = None,
        *,
        ahead: bool = False,
    ) -> dict[str, NDArray[np.int32]]:
        """Return rows int32 of a batch's keys int64 [n] of fields int16 [n], by group; 0 for an unknown key."""
        return self._places.of(keys, fields)

    def begin(self, batch: dict[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
        """Return a prepared batch as it is."""
        return batch

    def gather_all(self, batch: dict[str, NDArray[np.int32]]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of a batch, by slab."""
        narrow = {name: rows[batch[own_slab(name)[0]]] for name, rows in self._narrow.items()}
        return narrow | {
            name: masks.vectors(batch[own_slab(name)[0]]) for name, masks in self._masks.items()
        }

    def lookup_all(
        self, keys: NDArray[np.int64], fields: NDArray[np.int16] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of keys, by slab."""
        return self.gather_all(self.prepare(keys, fields))

    def apply(self, batch: dict[str, NDArray[np.int32]], gradients: Mapping[str, Any]) -> None:
        """Move the logits of the masks."""
        self.step += 1
        for name, masks in self._masks.items():
            slope = tf.convert_to_tensor(gradients[name]).numpy()
            masks.step(masks.gradient(batch[own_slab(name)[0]], slope), self.step)


def learned_ranks(work: Work, cuts: Mapping[str, tuple[int, ...]], settings: Widths) -> Ranks:
    """Return the width of each band, by table and slab wider than 1.

    The dense weights learn along, slowly, and what they learn is thrown away.

    Raises:
        InputError: there are no impressions to learn.
        UnsoundError: the loss is not finite.
    """
    masks = {
        slab_of(name, slab): full_masks(
            stored.rows(), rows.keys, work.facts[name], cuts[name], settings.price or 0.0
        )
        for name, rows in work.model.tables.items()
        for slab, stored in rows.slabs.items()
        if stored.width > 1 and len(rows.keys)
    }
    inputs = lesson(work, day_of(work, "widths with `price`"))
    learner = learner_over(
        work.model, lambda routing: MaskedRows(work.model.tables, masks, routing), _DENSE_RATE
    )
    learn_passes(
        learner,
        [inputs],
        work.model.description.training,
        settings.epochs,
        "price of compression.steps widths",
    )
    ranks: Ranks = {name: {} for name in work.model.tables}
    for name, one in masks.items():
        group, slab = own_slab(name)
        ranks[group][slab] = tuple(one.widths().tolist())
    return ranks
