"""Benchmarks are scripts, not a package: their folder is put on the path, as Python does when one of them is run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
