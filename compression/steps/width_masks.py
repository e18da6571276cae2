"""Trained widths: a mask over the columns of each frequency band (AMTL; Yan et al., CIKM 2021).

The rows of a band are turned into the basis of their weighted SVD, whose first k columns hold the
most, so keeping k columns is a mask of k ones. With logits θ [d] of a band, t = softmax(θ) is the
distribution of its width, the soft mask is m_j = Σ_{k ≥ j} t_k, and the model reads the hard mask
of the most probable width. Gradients pass as if it were the soft one (straight-through estimator).

    loss = log loss + price · Σ_bands n Σ_k t_k k / Σ_bands n d          n: rows of the band

AMTL computes the logits by two networks that read the frequency; here every band has its own
logits, as there are few bands. Training begins at the full width. The dense weights are trained
slowly along with the masks; the result is discarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.steps.fine_tune import learner_over, training_inputs
from compression.steps.settings import Widths
from compression.steps.step import CompressionState, RowStats
from training.data.layout import slab_of, split_slab
from training.fit import policies
from training.fit.frozen_rows import FrozenIndex, with_zero_row
from training.fit.grouped_table import Routing
from training.fit.training_loop import train_learner
from training.packed.rows import PackedRows
from training.settings import OptimizerSettings

Floats = NDArray[np.float64]
RowVectors = NDArray[np.float32]
Keys = NDArray[np.int64]
Fields = NDArray[np.int16] | None
BatchRows = dict[str, NDArray[np.int32]]
"""Row numbers of a batch by group; 0 for an unknown key."""

_FULL_WIDTH_LOGIT = 1.0
"""Initial logit of the full width; the others are 0."""
_DENSE_RATE = 1e-4
_LOGIT_RULE = policies.dense_optimizer(OptimizerSettings(learning_rate=0.05))


def spectrum(rows: RowVectors, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return eigenvalues [d] of Xᵀ diag(c) X, the largest first, and eigenvectors as columns."""
    wide = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(wide.T @ (wide * np.maximum(counts, 1)[:, None]))
    basis = vectors[:, ::-1]
    # The sign of an eigenvector is arbitrary: its entry largest in absolute value is made positive,
    # so that one matrix has one basis.
    signs = np.sign(np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0))
    return np.maximum(values[::-1], 0.0), basis * signs


@dataclass
class SlabMasks:
    """A slab's rows in the bases of their bands, and the logits of the bands' widths.

    Attributes:
        turned: float32 [N + 1, d], keys ascending after a zero row, which no band counts.
        band: int64 [N + 1].
        bases: float32 [B, d, d], columns are directions.
        logits: float64 [B, d], of widths 1 to d.
        price: float64 [B, d], log loss that each width costs.
    """

    turned: RowVectors
    band: NDArray[np.int64]
    bases: RowVectors
    logits: Floats
    price: Floats

    def __post_init__(self) -> None:
        self._slots = {name: tf.zeros_like(self.logits) for name in _LOGIT_RULE.slot_names}

    def widths(self) -> NDArray[np.int64]:
        """Return the most probable width of each band, int64 [B]."""
        return self.logits.argmax(axis=1) + 1

    def vectors(self, rows: NDArray[np.int32]) -> RowVectors:
        """Return the masked rows float32 [m, d] in the original basis."""
        kept = np.arange(self.turned.shape[1]) < self.widths()[:, None]
        band = self.band[rows]
        return _turned(self.turned[rows] * kept[band], band, self.bases.transpose(0, 2, 1))

    def gradient(self, rows: NDArray[np.int32], slope: RowVectors) -> Floats:
        """Return the derivatives by the logits, float64 [B, d], from those by `vectors` [m, d]."""
        band = self.band[rows]
        by_mask = np.zeros_like(self.logits)
        np.add.at(by_mask, band, _turned(slope, band, self.bases) * self.turned[rows])
        # m_j = Σ_{k ≥ j} t_k: width k is in the masks of columns 1 to k.
        by_width = np.cumsum(by_mask, axis=1) + self.price
        raised = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        probability = raised / raised.sum(axis=1, keepdims=True)
        expected = np.sum(probability * by_width, axis=1, keepdims=True)
        gradient: Floats = probability * (by_width - expected)
        return gradient

    def step(self, gradient: Floats, number: int) -> None:
        """Update the logits by Adam."""
        # Adam's state starts at zero and is not kept: only the widths of the last step are used.
        logits, self._slots = _LOGIT_RULE.update(
            tf.constant(self.logits),
            self._slots,
            tf.constant(gradient),
            tf.constant(number, tf.int64),
        )
        self.logits = logits.numpy()


def full_masks(
    rows: RowVectors, keys: NDArray[np.int64], stats: RowStats, cuts: tuple[int, ...], price: float
) -> SlabMasks:
    """Return masks of full width over rows float32 [N, d] of keys int64 [N].

    `cuts` are the counts between the bands, and `price` the log loss that all values cost.
    """
    order, width, band = np.argsort(keys), rows.shape[1], stats.bands(cuts)
    members = [band == number for number in range(len(cuts) + 1)]
    bases = [spectrum(rows[m], stats.counts[m])[1].astype(np.float32) for m in members]
    sizes = np.bincount(band, minlength=len(bases)).astype(np.float64)
    logits = np.zeros((len(bases), width))
    logits[:, -1] = _FULL_WIDTH_LOGIT
    # Normalised by all values of the slab, so that a price means the same for every size.
    cost = price * sizes[:, None] * np.arange(1, width + 1) / (sizes.sum() * width)
    turned = with_zero_row(_turned(rows, band, bases)[order])
    return SlabMasks(turned, np.concatenate([[0], band[order]]), np.stack(bases), logits, cost)


def _turned(
    vectors: RowVectors, band: NDArray[np.int64], bases: Iterable[RowVectors]
) -> RowVectors:
    """Vectors float32 [m, d], each multiplied by the basis of its band."""
    turned = np.empty_like(vectors)
    for number, basis in enumerate(bases):
        turned[band == number] = vectors[band == number] @ basis
    return turned


class MaskedRows:
    """The rows of a model with the interface of a table; only the masks are trained.

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
        self._places = FrozenIndex(
            {name: np.sort(rows.keys) for name, rows in tables.items()}, routing
        )
        self._unmasked = {}
        # Keys ascending behind a zero row, which is what `FrozenIndex` indexes.
        for group, rows in tables.items():
            for own_name, stored in rows.slabs.items():
                slab = slab_of(group, own_name)
                if slab not in masks:
                    self._unmasked[slab] = with_zero_row(stored.rows()[np.argsort(rows.keys)])

    def prepare(self, keys: Keys, fields: Fields = None, *, ahead: bool = False) -> BatchRows:
        """Return the rows of keys int64 [n] of fields int16 [n]."""
        return self._places.rows(keys, fields)

    def begin(self, batch: BatchRows) -> BatchRows:
        """Return a prepared batch unchanged."""
        return batch

    def gather_all(self, batch: BatchRows) -> dict[str, RowVectors]:
        """Return the vectors of a batch, by slab."""
        vectors = {n: rows[batch[split_slab(n)[0]]] for n, rows in self._unmasked.items()}
        masked = {n: masks.vectors(batch[split_slab(n)[0]]) for n, masks in self._masks.items()}
        return vectors | masked

    def lookup_all(self, keys: Keys, fields: Fields = None) -> dict[str, RowVectors]:
        """Return the vectors of keys, by slab."""
        return self.gather_all(self.prepare(keys, fields))

    def apply(self, batch: BatchRows, gradients: Mapping[str, Any]) -> None:
        """Update the logits of the masks."""
        self.step += 1
        for name, masks in self._masks.items():
            slope = tf.convert_to_tensor(gradients[name]).numpy()
            masks.step(masks.gradient(batch[split_slab(name)[0]], slope), self.step)


def trained_ranks(
    state: CompressionState, cuts: Mapping[str, tuple[int, ...]], settings: Widths
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the trained width of each band, by table and slab wider than 1.

    Raises:
        InputError: there are no impressions to train on.
        UnsoundError: the loss is not finite.
    """
    masks = {}
    for name, rows in state.model.tables.items():
        for slab, stored in rows.slabs.items():
            if stored.width > 1 and len(rows.keys):
                stats, price = state.row_stats[name], settings.price or 0.0
                masks[slab_of(name, slab)] = full_masks(
                    stored.rows(), rows.keys, stats, cuts[name], price
                )
    inputs = training_inputs(state, "widths with `price`")
    learner = learner_over(
        state.model, lambda routing: MaskedRows(state.model.tables, masks, routing), _DENSE_RATE
    )
    training = state.model.description.training
    price_to_lower = "price of compression.steps widths"
    train_learner(learner, [inputs], training, settings.epochs, price_to_lower)
    # The learner's dense weights are discarded; the step keeps the widths alone.
    ranks: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in state.model.tables}
    for name, trained in masks.items():
        group, slab = split_slab(name)
        ranks[group][slab] = tuple(trained.widths().tolist())
    return ranks
