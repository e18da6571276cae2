"""Which heavy libraries a stage loads: each costs its users seconds in every process."""

import subprocess
import sys

import pytest

from pipelines.chain import STAGES

HEAVY = ("great_expectations", "matplotlib", "mlflow", "numba", "pandas", "pyspark", "scipy", "sklearn", "tensorflow")

TRAINING = ("matplotlib", "numba", "pandas", "scipy", "sklearn", "tensorflow")

RUNS = {
    "ingest": ("spark_jobs.ingest, spark_jobs.session", {"pyspark"}),
    "validate-data": ("validation.expectations", {"great_expectations", "pandas"}),
    "feature-statistics": ("spark_jobs.feature_statistics, spark_jobs.session", {"pyspark"}),
    "cross-counts": ("spark_jobs.cross_counts, spark_jobs.session", {"pyspark"}),
    "cross-graph": ("spark_jobs.cross_graph, spark_jobs.session", {"matplotlib", "pyspark"}),
    "pretrain": ("spark_jobs.graph_files, training.pretraining.pretrain", {"matplotlib", "numba", "scipy"}),
    "train": ("training.trainer", set(TRAINING)),
    "compress": ("compression.pruning", set()),
    "export": ("compression.export", set(TRAINING)),
    "validate-model": ("validation.model_check", set(TRAINING)),
    "promote": ("pipelines.registry, pipelines.tracking", set()),
    "monitor": ("pipelines.report", set()),
}
"""What a stage imports when it works, and the heavy libraries that may come with it. Great Expectations brings
others along, Spark's client brings pandas; MLflow is loaded only where something is sent to it."""

BRINGS = {"great_expectations": {"scipy", "sklearn", "pyspark", "matplotlib"}, "pyspark": {"pandas"}, "numba": {"scipy"}}


def loaded(statement: str) -> set[str]:
    """The heavy libraries in a fresh process after a statement."""
    script = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    # A file, not -c: PySpark ends a process whose main module has no file when it is imported.
    done = subprocess.run([sys.executable, "/dev/stdin"], input=script, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_stage_is_listed():
    assert list(RUNS) == list(STAGES)


def test_the_command_line_and_every_stage_that_has_nothing_to_do_load_nothing_heavy():
    modules = ", ".join(target.partition(":")[0] for target in STAGES.values())
    assert loaded(f"import pipelines.cli, {modules}") == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_works_loads_only_what_it_uses(stage):
    modules, allowed = RUNS[stage]
    assert loaded(f"import {modules}") <= allowed.union(*(BRINGS.get(name, set()) for name in allowed))
