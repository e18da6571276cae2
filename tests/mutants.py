"""Small faults put into the code on purpose: how many of them does a test notice?

    python tests/mutants.py --sample 20 --seed 1 > mutants.json

Each mutant changes one constant, comparison or operator of one file in a copy of the checkout; the
tests named beside the file run on it. One that no test fails on *survived*: read it, and write the
test, unless it changes nothing that is promised.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300
# Files of the core that need no compiled kernel: a change of those compiles for a minute.
CORE = {
    "validation/model/gates.py": ["validation/test_gates.py"],
    "validation/checks.py": ["validation/test_checks.py", "validation/test_gates.py"],
    "training/evaluation/metrics.py": [
        "training/test_metrics.py",
        "training/test_metrics_bootstrap.py",
        "training/test_metrics_slices.py",
        "compression/test_search_evaluator.py",
    ],
    "training/models/parts/relation_network.py": ["training/test_relation_network.py"],
    "compression/selection/footprint.py": ["compression/test_selection_footprint.py"],
    "pipelines/store/artifacts.py": [
        "pipelines/test_artifacts.py",
        "pipelines/test_store_faults.py",
    ],
    "pipelines/store/lineage.py": ["pipelines/test_lineage.py", "pipelines/test_champion.py"],
    "pipelines/stages/promote.py": ["pipelines/test_promote.py", "pipelines/test_champion.py"],
    "pipelines/stages/validate_model.py": ["pipelines/test_champion.py"],
    "features/redaction.py": ["pipelines/test_secrets.py"],
}
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


def places(tree):
    """Yield the nodes that can be changed, in a fixed order."""
    for node in ast.walk(tree):
        comparison = isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS
        operation = isinstance(node, ast.BinOp) and type(node.op) in OPERATORS
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float, bool)
        if comparison or operation or number or isinstance(node, ast.BoolOp):
            yield node


def change(node):
    """Change a node in place."""
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    else:
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1


def run(copy, name, number):
    """Put one mutant into the copy, run its tests, and return what became of it."""
    source = (ROOT / name).read_text(encoding="utf-8")
    tree = ast.parse(source)
    node = list(places(tree))[number]
    before = ast.unparse(node)
    change(node)
    (copy / name).write_text(ast.unparse(tree), encoding="utf-8")
    tests = [f"tests/{path}" for path in CORE[name]]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, "-m", "not sweep"], cwd=copy, env=environment, capture_output=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        noticed = done.returncode != 0
    except subprocess.TimeoutExpired:
        noticed = True
    (copy / name).write_text(source, encoding="utf-8")
    return {
        "file": name,
        "line": node.lineno,
        "before": before,
        "after": ast.unparse(node),
        "noticed": noticed,
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sample", type=int, default=20, help="how many mutants")
    options.add_argument("--seed", type=int, default=1, help="which ones")
    chosen = options.parse_args()
    every = [
        (name, number)
        for name in CORE
        for number in range(len(list(places(ast.parse((ROOT / name).read_text())))))
    ]
    sample = random.Random(chosen.seed).sample(every, min(chosen.sample, len(every)))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        ignored = shutil.ignore_patterns(".venv", ".git", ".run", "build", "workspace")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for name, number in sample:
            results.append(run(copy, name, number))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    noticed = sum(each["noticed"] for each in results)
    survivors = [each for each in results if not each["noticed"]]
    score = {"seed": chosen.seed, "mutants": len(results), "noticed": noticed, "of": len(every)}
    print(json.dumps({**score, "survivors": survivors}, indent=1))


if __name__ == "__main__":
    main()
