"""What the click model is given beside its fields, by name, and the click model: the same one for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.models.encoding_inputs import Encodings
from training.pretraining.graph import CrossGraph
from training.pretraining.measures import evaluate, predictions
from training.pretraining.pretrain import FITS, final_fit
from training.pretraining.settings import PretrainSettings
from training.pretraining.task import Task
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

ARMS: Mapping[str, PretrainSettings | None] = {
    "alone": None,
    "lookup": PretrainSettings(kind="lookup"),
    "pcf_gnn": PretrainSettings(),
    "pcf_gnn_half": PretrainSettings(dim=4, storage="float16"),
    "pcf_gnn_corrected": PretrainSettings(dim=4, storage="float16", corrections=0.2),
    "factorisation": PretrainSettings(kind="factorisation", epochs=10),
    "node_bias": PretrainSettings(kind="node_bias"),
}
"""No cross features, or the settings of what makes them; `half`: 4 numbers of 2 bytes a node instead of 8 of 4;
`corrected`: that, and a fifth of the pairs keep their own statistic."""

_ROWS = OptimizerSettings(learning_rate=1e-3, beta_1=0.0, beta_2=0.99)
MODEL = ModelSettings(dim=8, hidden=(32,), deep=_ROWS, wide=_ROWS)
TRAINING = TrainingSettings(batch_size=256)


@dataclass(frozen=True)
class Made:
    """Cross features of one graph.

    Attributes:
        encodings: of the relations that passed the gate.
        figures: by relation `r2, r2_node_bias, refused`.
        bytes: of all of them.
    """

    encodings: Encodings
    figures: dict[str, dict[str, float | str]] = field(default_factory=dict)
    bytes: int = 0


def made(settings: PretrainSettings | None, graph: CrossGraph) -> Made:
    """Return what an arm makes of a graph, as the stage would: measured, gated, fitted to all edges."""
    if settings is None:
        return Made({})
    task = Task.of(graph, settings, {})
    measured = FITS[settings.kind](task)
    final = final_fit(task, measured)
    judged = evaluate(task, predictions(task, measured), final)
    used = {
        name: encoding for name, encoding in final.encodings.items() if not judged[name].refused
    }
    figures = {
        n: {"r2": j.r2, "r2_node_bias": j.r2_node_bias, "refused": j.refused}
        for n, j in judged.items()
    }
    return Made(used, figures, sum(encoding.nbytes for encoding in used.values()))
