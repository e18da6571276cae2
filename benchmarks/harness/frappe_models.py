"""Which models are compared, by which library, and with which settings.

Settings are BARS' for `frappe_x1` where a library has them (width 10, hidden 400 × 3, batch 4,096,
Adam 1e-3, dropout .2, batch norm, FuxiCTR's embedding L2 .05, patience 2). Beyond that the peers
are as they come: DeepCTR's L2 is its default and was not searched. Our row settings were picked by
validation AUC among a few (wide_deep, deepfm, dcnv2 and fm, seed 2).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environments import interpreter

_COMMON: dict[str, Any] = {
    "dim": 10,
    "hidden": [400, 400, 400],
    "dropout": 0.2,
    "batch": 4096,
    "learning_rate": 1e-3,
    "patience": 2,
    "max_epochs": 100,
    "threads": 2,
}
# Decay, up to 50 times (the steps of an epoch) for rare rows, holds embeddings back over several
# passes as L2 on a table would.
_OURS = _COMMON | {
    "norm": "batch",
    "cross_layers": 3,
    "matmul": "bfloat16",
    "rows": {"learning_rate": 1e-3, "decay": 0.05, "decay_steps": 50},
    "wide_rows": {"learning_rate": 1e-3},
}
_FUXICTR = _COMMON | {"embedding_l2": 0.05, "batch_norm": True, "cross_layers": 3}
_DEEPCTR = _COMMON | {"embedding_l2": 1e-5, "linear_l2": 1e-5, "batch_norm": True}
_NO_MLP: dict[str, Any] = {"hidden": [], "dropout": 0.0}
_QUICK: dict[str, Any] = {"max_epochs": 2, "batch": 64}
_QUICK_HIDDEN = 8


@dataclass(frozen=True)
class Entry:
    """A model of a library.

    Attributes:
        module: whose `create(data, settings, seed)` makes the trainer.
        settings: of that function and of the loop.
        environment: the name of the library's own environment; None runs in ours.
        variables: environment variables it needs.
    """

    module: str
    settings: Mapping[str, Any]
    environment: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def python(self, environments: Path) -> Path:
        """Return the interpreter, its environment made.

        Raises:
            NoEnvironment: that failed.
        """
        return (
            interpreter(self.environment, environments)
            if self.environment
            else Path(sys.executable)
        )

    def settings_for(self, quick: bool) -> dict[str, Any]:
        """Return the settings of a whole or of a tiny run."""
        if not quick:
            return dict(self.settings)
        return {
            **self.settings,
            **_QUICK,
            "hidden": [_QUICK_HIDDEN for _ in self.settings["hidden"][:1]],
        }


def _ours(kind: str, **settings: Any) -> Entry:
    return Entry("harness.frappe_ours", {**_OURS, "kind": kind, **settings})


def _fuxictr(kind: str, **settings: Any) -> Entry:
    return Entry("frappe_peers.fuxictr_worker", {**_FUXICTR, "kind": kind, **settings}, "fuxictr")


def _deepctr(kind: str, **settings: Any) -> Entry:
    return Entry(
        "frappe_peers.deepctr_worker",
        {**_DEEPCTR, "kind": kind, **settings},
        "deepctr",
        {"TF_USE_LEGACY_KERAS": "1"},
    )


MODELS = {
    "ours_lr": _ours("logistic_regression", **_NO_MLP, wide_rows={"learning_rate": 5e-3}),
    "ours_fm": _ours(
        "fm", **_NO_MLP, rows={"learning_rate": 3e-3}, wide_rows={"learning_rate": 3e-3}
    ),
    "ours_wide_deep": _ours("wide_deep"),
    "ours_deepfm": _ours("deepfm"),
    "ours_dcnv2": _ours("dcnv2"),
    "fuxictr_lr": _fuxictr("lr", **_NO_MLP),
    "fuxictr_fm": _fuxictr("fm", **_NO_MLP),
    "fuxictr_dnn": _fuxictr("dnn"),
    "fuxictr_deepfm": _fuxictr("deepfm"),
    "fuxictr_dcnv2": _fuxictr("dcnv2"),
    "deepctr_wdl": _deepctr("wdl"),
    "deepctr_deepfm": _deepctr("deepfm"),
}

FUSION = ("ours_wide_deep", "ours_deepfm", "ours_dcnv2")
"""What `ours_best` is the mean of logits of, seed by seed."""
