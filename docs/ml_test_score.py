"""The ML Test Score: which of its 28 tests this project has, found by the markers of the tests.

The tests and the rule of the score are those of Breck et al., "The ML Test Score: A Rubric for ML
Production Readiness and Technical Debt Reduction", IEEE Big Data 2017: one point for a test that
runs automatically, half a point for one that is done by hand and written down, the least of the
four sums is the score.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

MARKER = "covers"
_SHOWN = 3
TESTS = Path(__file__).resolve().parents[1] / "tests"

RUBRIC: dict[str, dict[str, tuple[str, str]]] = {
    "Data": {
        "data-1": ("Expectations of features are captured in a schema", ""),
        "data-2": ("All features are beneficial", ""),
        "data-3": ("No feature's cost is too much", ""),
        "data-4": ("Features keep to requirements, such as forbidden columns", ""),
        "data-5": ("The data pipeline has privacy controls", ""),
        "data-6": ("New features can be added quickly", ""),
        "data-7": ("All code that makes features is tested", ""),
    },
    "Model": {
        "model-1": ("Model specifications are reviewed and kept in version control", ""),
        "model-2": ("Offline and online metrics correlate", "missing: needs a live experiment"),
        "model-3": ("All hyperparameters were tuned", "by hand: docs/results/kuairand.md"),
        "model-4": ("The impact of staleness is known", "by hand: docs/results/globo.md"),
        "model-5": ("A simpler model is not better", ""),
        "model-6": ("Quality is sufficient on important slices", ""),
        "model-7": (
            "The model was tested for inclusion",
            "missing: needs a log that says who is who",
        ),
    },
    "Infrastructure": {
        "infrastructure-1": ("Training is reproducible", ""),
        "infrastructure-2": ("Model code is unit tested", ""),
        "infrastructure-3": ("The pipeline is integration tested", ""),
        "infrastructure-4": ("Quality is validated before a model serves", ""),
        "infrastructure-5": (
            "One example can be followed through the model",
            "missing: a command that explains one",
        ),
        "infrastructure-6": (
            "Models are tried on a few users first",
            "missing: a rollout in steps",
        ),
        "infrastructure-7": ("A serving model can be rolled back", ""),
    },
    "Monitoring": {
        "monitoring-1": ("Changes of dependencies are noticed", "by hand: `make audit`, the lock"),
        "monitoring-2": ("Invariants of the data hold in training and serving", ""),
        "monitoring-3": ("Training and serving compute the same features", ""),
        "monitoring-4": ("Models are not too stale", ""),
        "monitoring-5": ("Models are numerically stable", ""),
        "monitoring-6": ("Speed and memory are watched", ""),
        "monitoring-7": ("Quality on served data is watched", ""),
    },
}
"""Section → id → what is tested, and what stands in for a test: `by hand: …` or `missing: …`."""


def covered() -> dict[str, list[str]]:
    """Return the tests by what they cover: id → `path::test`, from `@pytest.mark.covers(id, …)`.

    A whole file that is marked (`pytestmark`) is `path`.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        tree, file = ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(TESTS))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for name in _ids(node.decorator_list):
                    found[name].append(f"{file}::{node.name}")
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                marks = node.value.elts if isinstance(node.value, ast.List) else [node.value]
                for name in _ids(marks):
                    found[name].append(file)
    return found


def _ids(marks: Iterable[ast.expr]) -> Iterator[str]:
    for mark in marks:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{MARKER}":
            yield from (str(ast.literal_eval(argument)) for argument in mark.args)


def tests_of(name: str) -> str:
    """Return the tests that cover an id, as Markdown; raises KeyError when there is none."""
    found = covered()[name]
    if not found:
        raise KeyError(f"no test is marked with @pytest.mark.{MARKER}({name!r})")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(f"`{test}`" for test in found[:_SHOWN]) + more


def ml_test_score() -> str:
    """Return the rubric as a table for each section, with the sums and the score."""
    tests = covered()
    parts, sums = [], {}
    for section, items in RUBRIC.items():
        sums[section] = 0.0
        rows = ["| test | points | shown by |", "|---|---|---|"]
        for name, (title, note) in items.items():
            points = 1.0 if tests[name] else 0.5 if note.startswith("by hand") else 0.0
            sums[section] += points
            shown = ", ".join(f"`{test}`" for test in tests[name][:_SHOWN]) or note
            rows.append(f"| {title} | {points:g} | {shown} |")
        parts.append("\n".join([f"## {section}: {sums[section]:g} of 7\n", *rows, ""]))
    sections = ", ".join(f"{name} {points:g}" for name, points in sums.items())
    return "\n".join([f"**Score {min(sums.values()):g}** ({sections}).\n", *parts])
