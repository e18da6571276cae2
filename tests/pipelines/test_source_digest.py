"""The source digest follows imports, and only imports."""

import ast
from importlib.metadata import version

import pytest

from pipelines.store.source_digest import (
    PACKAGES,
    ROOT,
    closure,
    imports_of,
    library_versions,
    source_digest,
)


@pytest.fixture
def tree(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)
        return tmp_path

    return write


def test_lazy_and_indirect_imports_count(tree):
    root = tree(
        pipelines__a="def f():\n    from training.b import g\n",
        training__b="import features.c\nimport os\n",
        features__c="",
        features__other="",
    )
    assert set(closure("pipelines.a", root)) == {"pipelines.a", "training.b", "features.c"}


def test_importing_a_module_from_a_package_counts_both(tree):
    root = tree(pipelines__a="from training import b\n", training__b="")
    assert set(closure("pipelines.a", root)) == {"pipelines.a", "training", "training.b"}


def test_a_change_in_the_closure_changes_the_digest_and_one_outside_does_not(tree):
    root = tree(pipelines__a="import training.b\n", training__b="x = 1\n", training__d="y = 1\n")
    before = source_digest("pipelines.a", root)
    (root / "training" / "d.py").write_text("y = 2\n")
    assert source_digest("pipelines.a", root) == before
    (root / "training" / "b.py").write_text("x = 2\n")
    assert source_digest("pipelines.a", root) != before


def test_circles_end(tree):
    root = tree(training__a="import training.b\n", training__b="import training.a\n")
    assert set(closure("training.a", root)) == {"training.a", "training.b"}


def test_the_train_stage_depends_on_the_table_but_not_on_spark():
    names = closure("pipelines.stages.train")
    assert "training.fit.trainer" in names
    assert "spark_jobs.ingest" not in names


def parsed(path):
    """What a parser finds in the place of patterns."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_statements_of_every_source_are_found():
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(paths) > 200
    for path in paths:
        assert set(imports_of(path)) == {
            name for name in parsed(path) if name.split(".")[0] in PACKAGES
        }, path


def test_remarks_renamed_members_and_several_lines_are_read(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        "import os, training.a as a, features.b\n"
        "from training import (\n    c as d,  # why, and how\n    e,\n)\n"
        "def f():\n    from pipelines.g import h, i  # late\n"
    )
    expected = [
        "training.a",
        "features.b",
        "training",
        "training.c",
        "training.e",
        "pipelines.g",
        "pipelines.g.h",
        "pipelines.g.i",
    ]
    assert list(imports_of(path)) == expected


@pytest.mark.covers("audit-L14")
def test_the_libraries_that_a_stage_imports_count_by_their_version(tree, monkeypatch, tmp_path):
    root = tree(
        pipelines__a="def f():\n    from training.b import g\n",
        training__b="import os\nimport numpy as np\nfrom tensorflow.keras import layers\n",
        training__c="import pyspark\n",
    )
    versions = library_versions("pipelines.a", root)
    assert versions == {name: version(name) for name in ("numpy", "tensorflow")}
    # Another TensorFlow is found first.
    (tmp_path / "libraries" / "tensorflow-9.9.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: tensorflow\nVersion: 9.9\n"
    (tmp_path / "libraries" / "tensorflow-9.9.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path / "libraries")
    assert library_versions("pipelines.a", root) == {**versions, "tensorflow": "9.9"}


@pytest.mark.covers("audit-L14")
@pytest.mark.parametrize(
    ("stage", "library"),
    [("ingest", "pyspark"), ("train", "tensorflow"), ("train", "numpy"), ("export", "tensorflow")],
)
def test_the_version_of_a_stage_knows_its_libraries(stage, library):
    assert library in library_versions(f"pipelines.stages.{stage}")
