"""From medians to the figures that are asked for, and which of their targets they miss. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elastic_peers.rounds import Measured

LARGE, SMALL = "400x400", "128x64"
_PEERS = ("tfra", "torch_sparse", "keras_1m", "keras_4m", "mutable_hash_table")
_OWN_DENSE = ("tfra", "torch_sparse")


@dataclass(frozen=True)
class Target:
    """What a figure should reach: at most or at least a value."""

    value: float
    at_most: bool = False

    def missed(self, figure: float) -> bool:
        """Return whether the figure is on the wrong side."""
        return figure > self.value if self.at_most else figure < self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:,g}"


TARGETS = {
    "over_dense.mlp_400": Target(1.2, at_most=True),
    "over_dense.mlp_128": Target(1.6, at_most=True),
    "step_ratio.tfra": Target(3),
    "step_ratio.torch_sparse": Target(2.3),
    "step_ratio.keras_4m": Target(15),
    "embedding_part_ratio.tfra": Target(5),
    "embedding_part_ratio.torch_sparse": Target(3.5),
    "index_keys_per_s_core": Target(30e6),
    "bytes_per_row_ratio": Target(1.3, at_most=True),
    "key_cost_50m_over_10m": Target(2, at_most=True),
    "save_peak_over_table": Target(1.1, at_most=True),
    "growth_stall_s": Target(1, at_most=True),
}


def step_figures(measured: Measured, batch: int) -> dict[str, Any]:
    """Return the ratios of medians; None where a system is missing.

    `step_ratio` is theirs over ours, and `embedding_part_ratio` the same after subtracting from each its own dense part: ours
    is TensorFlow's as installed here, TFRA's is measured in its environment's TensorFlow 2.16, torch's in torch. Both are of
    the small MLP. `over_dense` is ours over our dense part.
    """
    ours, dense = measured.median("ours", "step", SMALL), measured.median("dense", "dense", SMALL)
    theirs = {name: measured.median(name, "step", SMALL) for name in _PEERS}
    own_dense = {name: measured.median(name, "dense", SMALL) for name in _OWN_DENSE}
    part = _minus(ours, dense)
    return {
        "step_ratio": {name: _over(time, ours) for name, time in theirs.items()},
        "embedding_part_ratio": {
            name: _over(_minus(theirs[name], own), part) for name, own in own_dense.items()
        },
        "over_dense": {
            "mlp_400": _over(
                measured.median("ours", "step", LARGE), measured.median("dense", "dense", LARGE)
            ),
            "mlp_128": _over(ours, dense),
        },
        "examples_per_s": _over(1e3 * batch, ours),
    }


def raw_figures(measured: Measured) -> dict[str, Any]:
    """Return the median milliseconds and the last losses by `system` or `system.dense` and MLP."""
    timed = [
        (system, part, mlp)
        for system, part, mlp in measured.times
        if system not in measured.missing
    ]
    medians: dict[str, dict[str, float | None]] = {}
    losses: dict[str, dict[str, float]] = {}
    for system, part, mlp in timed:
        name = system if part == "step" or system == "dense" else f"{system}.{part}"
        medians.setdefault(name, {})[mlp] = measured.median(system, part, mlp)
        losses.setdefault(name, {})[mlp] = measured.losses[system, part, mlp]
    return {
        "median_ms": medians,
        "losses": losses,
        "ready_s": measured.ready_s,
        "missing": measured.missing,
    }


def with_targets(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with `targets` and the names of those `missed`; a figure that is None misses nothing."""
    flat = flattened(figures)
    missed = [
        name
        for name, target in TARGETS.items()
        if flat.get(name) is not None and target.missed(flat[name])
    ]
    return {
        **figures,
        "targets": {name: str(target) for name, target in TARGETS.items()},
        "missed": missed,
    }


def flattened(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `a.b` → value for nested figures."""
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        flat |= (
            flattened(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None or below <= 0 else above / below


def _minus(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else whole - part
