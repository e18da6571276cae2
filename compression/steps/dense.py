"""Step `dense`: kernels in fewer bits, and hidden units away whose weights say least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compression.steps.settings import Dense
from compression.steps.step import Plan, Step
from compression.steps.work import Work
from features.errors import InputError, UnsoundError
from training.data.arrays import Arrays
from training.packed.dense import pack_dense, unpacked
from training.packed.matrix import Form
from training.settings import ModelSettings

_WITH_LAYERS = ("wide_deep", "deepfm", "dcnv2")
_EPSILON = 1e-5  # training.models.parts.hidden.EPSILON, which only TensorFlow's side can import


class DensePlan(Plan):
    """The kernels' form, and the units that stay by layer, `deep/0` or in a fusion `<kind>/deep/0`; none: all of all layers."""

    form: Literal["float32", "float16", "int8"]
    units: dict[str, tuple[int, ...]]


class DenseReduction(Step[Dense, DensePlan]):
    """See `Dense`. A unit's score is the length of what it reads, bias included, times the length of what reads it.

    The first is scaled by batch norm as in scoring. A dead unit, which nothing reads or which reads nothing, has score 0; units
    of equal score go from the last on. At least one unit a layer stays.
    """

    def fit(self, work: Work) -> DensePlan:
        """Return the form and the units that stay."""
        told = work.model.description.model
        if not self.settings.relu:
            return DensePlan(form=self.settings.form, units={})
        _refuse_unfit(told)
        weights = unpacked(work.model.dense)
        layers = [
            (prefix, number) for prefix in _prefixes(told) for number in range(len(told.hidden))
        ]
        return DensePlan(
            form=self.settings.form,
            units={f"{p}deep/{n}": self._strongest(weights, p, n) for p, n in layers},
        )

    def apply(self, work: Work, plan: DensePlan) -> Work:
        """Take the units out, then store the kernels; raises UnsoundError where a form cannot hold them."""
        description, weights = work.model.description, unpacked(work.model.dense)
        if plan.units:
            prefixes, layers = _prefixes(description.model), range(len(description.model.hidden))
            for prefix in prefixes:
                for number in layers:
                    weights = _without_units(
                        weights, prefix, number, np.array(plan.units[f"{prefix}deep/{number}"])
                    )
            hidden = tuple(len(plan.units[f"{prefixes[0]}deep/{number}"]) for number in layers)
            description = replace(
                description, model=description.model.model_copy(update={"hidden": hidden})
            )
        try:
            dense = pack_dense(weights, Form(plan.form))
        except (ValueError, FloatingPointError) as error:
            raise UnsoundError(
                f"dense weights: {error}; no form of fewer bits can hold them"
            ) from error
        return replace(work, model=replace(work.model, description=description, dense=dense))

    def _strongest(self, weights: Arrays, prefix: str, number: int) -> tuple[int, ...]:
        scores = unit_scores(weights, f"{prefix}deep", number)
        stay = max(1, len(scores) - round(self.settings.relu * len(scores)))
        return tuple(sorted(np.argsort(-scores, kind="stable")[:stay].tolist()))


def unit_scores(weights: Mapping[str, NDArray[Any]], part: str, number: int) -> NDArray[np.float64]:
    """Return the score of each unit of a hidden layer, float64 [units].

    Args:
        weights: dense weights by name.
        part: `deep`, in a fusion `<kind>/deep`.
        number: of the layer.
    """
    layer = f"{part}/{number}"
    kernel, bias = (weights[f"{layer}/{name}"].astype(np.float64) for name in ("kernel", "bias"))
    if f"{layer}/variance" in weights:
        factor = weights[f"{layer}/scale"] / np.sqrt(
            weights[f"{layer}/variance"].astype(np.float64) + _EPSILON
        )
        kernel, bias = kernel * factor, bias - weights[f"{layer}/mean"] * factor
    out = weights[_reader(weights, part, number)].astype(np.float64)
    read = np.sqrt(np.sum(np.square(kernel), axis=0) + np.square(bias))
    return read * (np.abs(out) if out.ndim == 1 else np.linalg.norm(out, axis=1))


def _without_units(weights: Arrays, prefix: str, number: int, stay: NDArray[np.int64]) -> Arrays:
    layer, reader = f"{prefix}deep/{number}/", _reader(weights, f"{prefix}deep", number)
    own = {name: value[..., stay] for name, value in weights.items() if name.startswith(layer)}
    return weights | own | {reader: weights[reader][stay]}


def _reader(weights: Mapping[str, NDArray[Any]], part: str, number: int) -> str:
    """The weight whose rows read a layer's units."""
    following = f"{part}/{number + 1}/kernel"
    return following if following in weights else f"{part}/out"


def _prefixes(settings: ModelSettings) -> tuple[str, ...]:
    if settings.kind == "fusion":
        return tuple(f"{kind}/" for kind in settings.members if kind in _WITH_LAYERS)
    return ("",) if settings.kind in _WITH_LAYERS else ()


def _refuse_unfit(settings: ModelSettings) -> None:
    if not _prefixes(settings) or not settings.hidden:
        raise InputError(
            f"compression.steps: dense.relu prunes hidden units, and a {settings.kind} here has none: leave relu out"
        )
    if settings.norm == "layer":
        raise InputError(
            "compression.steps: dense.relu cannot prune units of layers with norm: layer, whose mean and variance are over all "
            "units: leave relu out, or train with norm: none or batch"
        )
