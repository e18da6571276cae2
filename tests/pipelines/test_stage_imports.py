"""Which heavy libraries a stage loads: each costs its users seconds in every process."""

import subprocess
import sys

import pytest

from pipelines.stages.registry import STAGES

pytestmark = pytest.mark.process

HEAVY = (
    "great_expectations",
    "matplotlib",
    "mlflow",
    "numba",
    "pandas",
    "pyspark",
    "scipy",
    "sklearn",
    "tensorflow",
)

RUNS = {
    ("ingest", "feature-statistics", "cross-counts"): (
        "spark_jobs.ingest, spark_jobs.feature_statistics, "
        "spark_jobs.cross_counts, spark_jobs.session",
        {"pyspark"},
    ),
    ("cross-graph",): ("spark_jobs.cross_graph, spark_jobs.session", {"matplotlib", "pyspark"}),
    ("validate-data",): ("validation.data.expectations", {"great_expectations", "pandas"}),
    ("pretrain",): (
        "spark_jobs.graph_files, training.pretraining.pretrain",
        {"matplotlib", "numba", "scipy"},
    ),
    ("train", "export", "validate-model"): (
        "training.fit.trainer, compression.export.write, validation.model.check",
        {"matplotlib", "numba", "pandas", "scipy", "sklearn", "tensorflow"},
    ),
    ("compress", "promote", "monitor"): (
        "compression.pruning, pipelines.tracking.registry, "
        "pipelines.tracking.sync, pipelines.stages.report",
        set(),
    ),
}
"""What stages import when they run, and the heavy libraries that this may load. Great Expectations
loads others, Spark's client loads pandas; MLflow is loaded only where something is sent to it."""

BRINGS = {
    "great_expectations": {"scipy", "sklearn", "pyspark", "matplotlib"},
    "pyspark": {"pandas"},
    "numba": {"scipy"},
}


def loaded(statement: str) -> set[str]:
    """The heavy libraries in a fresh process after a statement."""
    script = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    # A file, not -c: PySpark ends a process whose main module has no file when it is imported.
    done = subprocess.run(
        [sys.executable, "/dev/stdin"], input=script, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_every_stage_is_listed():
    assert sorted(stage for stages in RUNS for stage in stages) == sorted(STAGES)


def test_the_command_line_and_every_stage_that_has_nothing_to_do_load_nothing_heavy():
    modules = ", ".join(target.partition(":")[0] for target in STAGES.values())
    assert loaded(f"import pipelines.cli.main, {modules}") == set()


@pytest.mark.parametrize("stages", RUNS, ids="+".join)
def test_stages_that_work_load_only_what_they_use(stages):
    modules, allowed = RUNS[stages]
    assert loaded(f"import {modules}") <= allowed.union(
        *(BRINGS.get(name, set()) for name in allowed)
    )
