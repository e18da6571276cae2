"""Admission policies by the names that `elastic-ctr explain-admission --policy` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elastic_embeddings.admission.arrivals import GammaPrior, PlugIn
from elastic_embeddings.admission.policies import (
    Admission,
    AlwaysAdmit,
    ByField,
    CountAdmission,
    PoissonAdmission,
    SketchAdmission,
)
from features.errors import InputError

KINDS = {
    "always": "a row at the first sighting",
    "count": "at the k-th sighting, counted exactly",
    "sketch": "at the k-th sighting, counted in a sketch of --capacity keys",
    "plug-in": "when k sightings in the pass are likely at the rate seen so far",
    "poisson": "the same, the rate estimated with a Gamma prior",
    "poisson-half": "as poisson, admitted where that chance is above one half",
    "configured": "what training.admission says",
}
"""What each kind does."""

_WITHOUT_COUNT = ("always", "configured")


@dataclass(frozen=True)
class Setting:
    """What policies are made from.

    Attributes:
        min_count: occurrences wanted where a name gives no other number.
        events: field name → its events in the pass, the horizon of the Poisson rules.
        capacity: keys that a sketch holds in each generation.
        configured: what the policy `configured` stands for.
    """

    min_count: int
    events: Mapping[str, int]
    capacity: int
    configured: Admission | ByField


def default_names(min_count: int) -> tuple[str, ...]:
    """Return the policies that are worth comparing when none are named."""
    counts = sorted({2, min_count})
    return tuple(f"count:{k}" for k in counts) + tuple(
        f"{kind}:{min_count}" for kind in ("sketch", "plug-in", "poisson")
    )


def policies(names: Sequence[str], setting: Setting) -> dict[str, Admission | ByField]:
    """Return the policies of names such as `poisson` or `count:2`, by their full names.

    Raises:
        InputError: a name is of no known kind, or its number is not one.
    """
    parsed = [_parse(name, setting.min_count) for name in names]
    return {_full_name(kind, k): _policy(kind, k, setting) for kind, k in parsed}


def _full_name(kind: str, k: int) -> str:
    return kind if kind in _WITHOUT_COUNT else f"{kind}:{k}"


def _parse(name: str, min_count: int) -> tuple[str, int]:
    kind, _, number = name.partition(":")
    if kind not in KINDS or (number and (kind in _WITHOUT_COUNT or not number.isdecimal())):
        kinds = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
        raise InputError(
            f"--policy {name!r}: expected KIND or KIND:COUNT, such as count:2. {kinds}"
        )
    return kind, int(number) if number else min_count


def _policy(kind: str, k: int, setting: Setting) -> Admission | ByField:
    if kind == "always":
        return AlwaysAdmit()
    if kind == "configured":
        return setting.configured
    if kind == "count":
        return CountAdmission(k)
    if kind == "sketch":
        return SketchAdmission(k, setting.capacity)
    return ByField(
        {name: _poisson(kind, k, max(events, 1)) for name, events in setting.events.items()},
        AlwaysAdmit(),
    )


def _poisson(kind: str, k: int, until: int) -> PoissonAdmission:
    prior: GammaPrior | PlugIn | None = PlugIn() if kind == "plug-in" else None
    return PoissonAdmission(
        k, prior=prior, until=until, threshold_only=kind == "poisson-half", sketch=None
    )
