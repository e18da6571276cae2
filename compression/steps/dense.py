"""Step `dense`: store kernels in fewer bits, and remove the hidden units with the lowest scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compression.steps.settings import Dense
from compression.steps.step import CompressionState, Plan, Step
from features.errors import InputError, UnsoundError
from training.data.arrays import Arrays
from training.packed.dense import pack_dense, unpacked
from training.packed.matrix import Form
from training.settings import ModelSettings

_WITH_LAYERS = ("wide_deep", "deepfm", "dcnv2")
_EPSILON = 1e-5
"""Equals `training.models.parts.perceptron.EPSILON`, whose import would load TensorFlow."""


class DensePlan(Plan):
    """Form of the kernels, and units to keep by layer, `deep/0` or `<kind>/deep/0`; empty: all."""

    form: Literal["float32", "float16", "int8"]
    units: dict[str, tuple[int, ...]]


class DenseReduction(Step[Dense, DensePlan]):
    """See `Dense`.

    A unit's score is the norm of its input weights, bias included and scaled by batch norm as in
    scoring, times the norm of its output weights. A unit that reads nothing or that nothing reads
    has score 0. Of units with equal scores the last ones are removed first. Every layer keeps at
    least one unit.
    """

    def fit(self, state: CompressionState) -> DensePlan:
        """Return the form and the units to keep."""
        settings, share = state.model.description.model, self.settings.relu
        if not share:
            return DensePlan(form=self.settings.form, units={})
        _check_has_units(settings)
        weights = unpacked(state.model.dense)
        units = {}
        for prefix in _prefixes(settings):
            for number in range(len(settings.hidden)):
                scores = unit_scores(weights, f"{prefix}deep", number)
                kept = max(1, len(scores) - round(share * len(scores)))
                # Stable, so that of equal scores the last units are removed.
                strongest = np.argsort(-scores, kind="stable")[:kept]
                units[f"{prefix}deep/{number}"] = tuple(sorted(strongest.tolist()))
        return DensePlan(form=self.settings.form, units=units)

    def apply(self, state: CompressionState, plan: DensePlan) -> CompressionState:
        """Remove the units, then store the kernels; raises UnsoundError for values too large."""
        description, weights = state.model.description, unpacked(state.model.dense)
        if plan.units:
            settings = description.model
            prefixes, layers = _prefixes(settings), range(len(settings.hidden))
            for prefix in prefixes:
                for number in layers:
                    units = np.array(plan.units[f"{prefix}deep/{number}"])
                    weights = _with_units(weights, f"{prefix}deep", number, units)
            # All members of a fusion have equally many units in a layer.
            hidden = tuple(len(plan.units[f"{prefixes[0]}deep/{number}"]) for number in layers)
            settings = settings.model_copy(update={"hidden": hidden})
            description = replace(description, model=settings)
        try:
            dense = pack_dense(weights, Form(plan.form))
        except (ValueError, FloatingPointError) as error:
            raise UnsoundError(
                f"dense weights: {error}; no form of fewer bits can hold them"
            ) from error
        return replace(state, model=replace(state.model, description=description, dense=dense))


def unit_scores(weights: Mapping[str, NDArray[Any]], part: str, number: int) -> NDArray[np.float64]:
    """Return the score of each unit of a hidden layer, float64 [units].

    Args:
        weights: dense weights by name.
        part: `deep`, in a fusion `<kind>/deep`.
        number: of the layer.
    """
    layer = f"{part}/{number}"
    kernel, bias = (weights[f"{layer}/{name}"].astype(np.float64) for name in ("kernel", "bias"))
    # Batch norm with fixed statistics is a linear map of each unit: it is folded into its weights.
    if f"{layer}/variance" in weights:
        variance = weights[f"{layer}/variance"].astype(np.float64)
        factor = weights[f"{layer}/scale"] / np.sqrt(variance + _EPSILON)
        kernel, bias = kernel * factor, bias - weights[f"{layer}/mean"] * factor
    out = weights[_reader(weights, part, number)].astype(np.float64)
    inputs = np.sqrt(np.sum(np.square(kernel), axis=0) + np.square(bias))
    return inputs * (np.abs(out) if out.ndim == 1 else np.linalg.norm(out, axis=1))


def _with_units(weights: Arrays, part: str, number: int, units: NDArray[np.int64]) -> Arrays:
    """The weights with some units of a hidden layer: its columns, the next one's rows."""
    layer, reader = f"{part}/{number}/", _reader(weights, part, number)
    own = {name: value[..., units] for name, value in weights.items() if name.startswith(layer)}
    # The trailing axis of every weight of a layer is that of its units, batch norm included.
    return weights | own | {reader: weights[reader][units]}


def _reader(weights: Mapping[str, NDArray[Any]], part: str, number: int) -> str:
    """Name of the weight whose rows read a layer's units."""
    following = f"{part}/{number + 1}/kernel"
    return following if following in weights else f"{part}/out"


def _prefixes(settings: ModelSettings) -> tuple[str, ...]:
    # The members of a fusion have their own weights, named after them.
    if settings.kind == "fusion":
        return tuple(f"{kind}/" for kind in settings.members if kind in _WITH_LAYERS)
    return ("",) if settings.kind in _WITH_LAYERS else ()


def _check_has_units(settings: ModelSettings) -> None:
    if not _prefixes(settings) or not settings.hidden:
        raise InputError(
            "compression.steps: dense.relu prunes hidden units, and a "
            f"{settings.kind} here has none: leave relu out"
        )
    if settings.norm == "layer":
        raise InputError(
            "compression.steps: dense.relu cannot prune units of layers with norm: layer, whose "
            "mean and variance are over all units: leave relu out, or use norm: none or batch"
        )
