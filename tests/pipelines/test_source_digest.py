"""The source digest follows imports, and only imports."""

import pytest

from pipelines.source_digest import closure, source_digest


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
    assert "training.trainer" in names
    assert "spark_jobs.ingest" not in names
