"""One run of one model with one seed: taken from the cache, or made in a process of its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.frappe_data import Frappe
from harness.processes import BENCHMARKS, ROOT, run_json

from frappe_peers.cache import Cache, Result, digest
from frappe_peers.registry import MODELS, Entry
from pipelines.store.source_digest import source_digest

_HERE = Path(__file__).resolve().parent
_SHARED = tuple(_HERE / f"{name}.py" for name in ("data", "loop", "worker"))
_OURS = "training.fit.model_and_baseline"


@dataclass(frozen=True)
class Bench:
    """The data, the finished runs and the environments of a comparison."""

    data: Frappe
    cache: Cache
    environments: Path
    quick: bool = False

    def result(self, model: str, seed: int, say: Callable[[str], None]) -> Result:
        """Return a run, made if it is not there yet.

        Raises:
            NoEnvironment: its library could not be installed.
            ProcessFailed: its process ended without an answer.
        """
        entry = MODELS[model]
        settings = entry.settings_for(self.quick)
        path = self.cache.path(
            model, seed, settings=settings, source=_source(entry), data=self._data_digest
        )

        def run(answer: Path) -> dict[str, Any]:
            """Learn with one seed, keep the answer, and return its figures."""
            say(f"{model}, seed {seed}")
            return self._run(model, seed, answer, settings)

        return self.cache.get_or_run(path, run)

    def figures(self, model: str, seed: int, **changes: Any) -> dict[str, Any]:
        """Return the figures of a run with some settings changed, of which nothing is kept."""
        with tempfile.TemporaryDirectory() as folder:
            return self._run(
                model,
                seed,
                Path(folder) / "answer.npz",
                MODELS[model].settings_for(self.quick) | changes,
            )

    def _run(self, model: str, seed: int, answer: Path, settings: dict[str, Any]) -> dict[str, Any]:
        entry = MODELS[model]
        with tempfile.TemporaryDirectory() as folder:
            data, job = Path(folder) / "data.npz", Path(folder) / "job.json"
            self.data.write(data)
            described = {"module": entry.module, "settings": settings, "seed": seed}
            job.write_text(
                json.dumps(described | {"data": str(data), "answer": str(answer)}), encoding="utf-8"
            )
            return _answer(
                entry, [str(entry.python(self.environments)), "-m", "frappe_peers.worker", str(job)]
            )

    @cached_property
    def _data_digest(self) -> str:
        return self.data.digest()


def _source(entry: Entry) -> str:
    """Return a digest of all code of this repository that a run depends on."""
    library = (
        "" if entry.environment else source_digest(_OURS) + digest([_HERE / "falling_rate.py"])
    )
    return library + digest([*_SHARED, _HERE / f"{entry.module}.py"])


def _answer(entry: Entry, command: list[str]) -> dict[str, Any]:
    threads = {"OMP_NUM_THREADS": str(entry.settings["threads"])}
    paths = [str(BENCHMARKS), *([] if entry.environment else [str(ROOT)])]
    return run_json(command, {**threads, **entry.variables, "PYTHONPATH": os.pathsep.join(paths)})
