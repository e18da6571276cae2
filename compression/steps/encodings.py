"""Step `encodings`: frozen cross encodings and their corrections in half precision. Tables of pairs stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compression.steps.settings import FloatEncodings
from compression.steps.step import Plan, Step
from compression.steps.work import Work
from training.models.cross_input import Encoding, Nodes, PairTable


class EncodingsPlan(Plan):
    """Names of the relations whose encodings become float16."""

    relations: tuple[str, ...]


class EncodingPrecision(Step[FloatEncodings, EncodingsPlan]):
    """See `FloatEncodings`."""

    def fit(self, work: Work) -> EncodingsPlan:
        """Return the relations with node vectors."""
        encodings = work.model.encodings.items()
        return EncodingsPlan(
            relations=tuple(
                sorted(name for name, found in encodings if isinstance(found, Encoding))
            )
        )

    def apply(self, work: Work, plan: EncodingsPlan) -> Work:
        """Round their nodes' vectors and biases, and corrections."""
        encodings = dict(work.model.encodings)
        for name in plan.relations:
            found = encodings[name]
            if isinstance(found, Encoding):
                fixed = found.corrections and _half_pairs(found.corrections)
                encodings[name] = replace(
                    found, left=_half(found.left), right=_half(found.right), corrections=fixed
                )
        return replace(work, model=replace(work.model, encodings=encodings))


def _half(nodes: Nodes) -> Nodes:
    return Nodes(nodes.keys, nodes.vectors.astype(np.float16), nodes.biases.astype(np.float16))


def _half_pairs(table: PairTable) -> PairTable:
    return replace(table, values=table.values.astype(np.float16))
