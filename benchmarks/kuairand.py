"""KuaiRand-Pure, learned day by day to 2022-05-05 and then frozen: AUC on 2022-05-06 … 08, whole
and within tab 1.

`python benchmarks/kuairand.py --json`. The model is that of `conf/kuairand_pure.yaml`, then, unless
`--configured`, the best one: a fusion without group lasso. The peer in the same run is the built-in
logistic regression on the same fields, learned from the same batches. Days are those of `time_ms`
at +08:00 (42,374 test records); nothing is tuned on them. Data: KuaiRand (Gao et al., CIKM 2022, CC
BY-SA 4.0), found through ELASTIC_CTR_DATA.
"""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.options import LEARNING, print_json

from features.partition import days_between
from pipelines.cli import console
from pipelines.config import Config, load_config
from pipelines.stages.chain import run_day
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store

FIRST, LAST = date(2022, 4, 25), date(2022, 5, 5)
TEST = (date(2022, 5, 6), date(2022, 5, 8))
TAB = "1"
BEST = (
    "model.kind=fusion",
    "model.members=[wide_deep, dcnv2, deepfm]",
    "model.deep.l21=0",
    "model.wide.l21=0",
)
"""What the best model sets beyond the configuration: chosen by mean progressive AUC on 04-28 …
05-05.
"""


def main(
    workspace: Annotated[
        Path, typer.Option(help="Where artifacts go; reused when they are there.")
    ] = Path("workspace-kuairand"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a configuration key.")
    ] = None,
    configured: Annotated[bool, typer.Option(help="The configured model alone.")] = False,
) -> None:
    """Learn the days, freeze, score the test days."""
    given = overrides or []
    models = {"configured": given} if configured else {"configured": given, "best": [*BEST, *given]}
    figures = {name: _figures(changes, workspace) for name, changes in models.items()}
    if as_json:
        print_json(figures)
        return
    for name, of_model in figures.items():
        console.table(
            f"KuaiRand-Pure, {name} model, frozen after 2022-05-05, test 05-06 to 05-08",
            ("figure", "value"),
            of_model.items(),
        )


def _figures(overrides: list[str], workspace: Path) -> dict[str, Any]:
    started = time.monotonic()
    # No model is validated here, so each day starts from a checkpoint without a verdict.
    overrides = [*overrides, "training.unvalidated_parent=true"]
    config = load_config(
        Path(__file__).parents[1] / "conf" / "kuairand_pure.yaml", overrides, workspace
    )
    store = Store(workspace)
    progressive = [_learn(config, store, day) for day in days_between(FIRST, LAST)]
    figures = _score(config, store)
    figures["auc_progressive_mean_from_04_28"] = float(np.mean(progressive[3:]))
    figures["seconds"] = round(time.monotonic() - started, 1)
    return figures


def _learn(config: Config, store: Store, day: date) -> float:
    outcomes = list(run_day(Context(config, day, store), LEARNING))
    return float(outcomes[-1].version.metrics["auc_progressive"])


def _score(config: Config, store: Store) -> dict[str, Any]:
    """Score every test day with the frozen checkpoint of the last day learned."""
    from training.evaluation.metrics import auc, auc_within, log_loss

    checkpoint = store.current("checkpoint", LAST)
    assert checkpoint is not None
    parts = [_score_day(config, store, checkpoint.path, day) for day in days_between(*TEST)]
    label, model, baseline, inside = (
        np.concatenate(columns) for columns in zip(*parts, strict=True)
    )
    figures: dict[str, Any] = {"rows": len(label), "rows_tab_1": int(inside.sum())}
    for name, scores in (("model", model), ("lr_baseline", baseline)):
        figures |= {
            f"auc_{name}": auc(label, scores),
            f"auc_tab_1_{name}": auc_within(label, scores, inside),
        }
        figures[f"log_loss_{name}"] = log_loss(label, scores)
    return {
        **figures,
        **{
            k: checkpoint.metrics[k]
            for k in ("rows_in_table", "zero_rows", "bytes_trained", "examples_per_s")
        },
    }


def _score_day(config: Config, store: Store, checkpoint: Path, day: date) -> tuple[np.ndarray, ...]:
    """Return label, model's and baseline's probability, and whether the record is of tab 1; each
    [n].
    """
    import pyarrow.parquet as pq

    from training.data.examples import read_examples
    from training.data.inputs import Featurizer
    from training.fit.checkpoints import read_description
    from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
    from training.models.encoding_inputs import read_encodings

    (ingested,) = run_day(Context(config, day, store), ("ingest",))
    about = read_description(checkpoint)
    learners = ModelAndBaseline.from_checkpoint(
        LearnerConfig(about.schema, about.model, about.training, about.relations), checkpoint, about
    )
    examples = read_examples(ingested.version.path, about.schema, about.relations)
    encodings = read_encodings(checkpoint / "encodings.npz")
    inputs = Featurizer(about.schema, about.relations, about.scalers, encodings).inputs(examples)
    tab = pq.read_table(ingested.version.path / "impressions", columns=["tab"])["tab"].to_numpy(
        zero_copy_only=False
    )
    return (
        examples.label,
        learners.model.predict(inputs),
        learners.baseline.predict(inputs),
        tab == TAB,
    )


if __name__ == "__main__":
    typer.run(main)
