"""Widths that are learned: a mask over the columns of each band of frequency, as AMTL's (Yan et al., CIKM 2021).

A band's rows are turned into the basis of their weighted SVD, where the first k columns hold the most, so that keeping k of them
is a mask of k ones. With logits θ [d] of a band, t = softmax(θ) says which width it has, the soft mask is m_j = Σ_{k ≥ j} t_k,
and what the model reads is the hard one, of the likeliest width: gradients pass as if it were the soft one (straight through).

    loss = log loss + price · Σ_bands n Σ_k t_k k / Σ_bands n d          n: rows of the band

AMTL's logits come from two networks that read the frequency; bands have logits of their own, as many as it takes for a few bands.
It begins at the full width. The dense weights learn along, slowly, and what they learn is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.steps.bands import band_of, spectrum
from compression.steps.work import Facts
from training.fit import policies
from training.fit.frozen_rows import with_zero_row
from training.settings import OptimizerSettings

Floats = NDArray[np.float64]

_FULL = 1.0
"""Logit of the full width at first; the others are 0."""
_RATE = 0.05
_RULE = policies.dense_optimizer(OptimizerSettings(learning_rate=_RATE))


@dataclass
class SlabMasks:
    """A slab's rows in the bases of their bands, and the logits of the bands' widths.

    Attributes:
        turned: float32 [N + 1, d], keys ascending behind a zero row, which is in no band's count.
        band: int64 [N + 1].
        bases: float32 [B, d, d], columns are directions.
        logits: float64 [B, d], of widths 1 … d.
        price: float64 [B, d], the log loss that each width costs.
    """

    turned: NDArray[np.float32]
    band: NDArray[np.int64]
    bases: NDArray[np.float32]
    logits: Floats
    price: Floats

    def __post_init__(self) -> None:
        """Begin without state."""
        self._slots = {name: tf.zeros_like(self.logits) for name in _RULE.slot_names}

    def widths(self) -> NDArray[np.int64]:
        """Return the likeliest width of each band, int64 [B]."""
        return self.logits.argmax(axis=1) + 1

    def vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the masked rows float32 [m, d], turned back."""
        kept = np.arange(self.turned.shape[1]) < self.widths()[:, None]
        band = self.band[rows]
        masked = self.turned[rows] * kept[band]
        return self._turn(masked, band, self.bases.transpose(0, 2, 1))

    def gradient(self, rows: NDArray[np.int32], slope: NDArray[np.float32]) -> Floats:
        """Return the loss's derivatives by the logits, float64 [B, d], from those by `vectors`, float32 [m, d]."""
        band = self.band[rows]
        by_mask = np.zeros_like(self.logits)
        np.add.at(by_mask, band, self._turn(slope, band, self.bases) * self.turned[rows])
        by_chance = np.cumsum(by_mask, axis=1) + self.price
        chance = _softmax(self.logits)
        return chance * (by_chance - np.sum(chance * by_chance, axis=1, keepdims=True))

    def step(self, gradient: Floats, number: int) -> None:
        """Move the logits against a gradient, by Adam."""
        logits, self._slots = _RULE.update(
            tf.constant(self.logits),
            self._slots,
            tf.constant(gradient),
            tf.constant(number, tf.int64),
        )
        self.logits = logits.numpy()

    @staticmethod
    def _turn(
        vectors: NDArray[np.float32], band: NDArray[np.int64], bases: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        turned = np.empty_like(vectors)
        for number, basis in enumerate(bases):
            turned[band == number] = vectors[band == number] @ basis
        return turned


def full_masks(
    rows: NDArray[np.float32],
    keys: NDArray[np.int64],
    facts: Facts,
    cuts: tuple[int, ...],
    price: float,
) -> SlabMasks:
    """Return masks of full width.

    Args:
        rows: float32 [N, d].
        keys: int64 [N].
        facts: of the rows.
        cuts: counts between the bands.
        price: log loss that all values together cost.
    """
    order, width = np.argsort(keys), rows.shape[1]
    band, counts = band_of(facts, cuts), facts.counts
    bases = [
        spectrum(rows[band == b], counts[band == b])[1].astype(np.float32)
        for b in range(len(cuts) + 1)
    ]
    turned = np.empty_like(rows)
    for number, basis in enumerate(bases):
        turned[band == number] = rows[band == number] @ basis
    sizes = np.bincount(band, minlength=len(bases)).astype(np.float64)
    logits = np.zeros((len(bases), width))
    logits[:, -1] = _FULL
    cost = price * sizes[:, None] * np.arange(1, width + 1) / (sizes.sum() * width)
    places = np.concatenate([[0], band[order]])
    return SlabMasks(with_zero_row(turned[order]), places, np.stack(bases), logits, cost)


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    softened: Floats = raised / raised.sum(axis=1, keepdims=True)
    return softened
