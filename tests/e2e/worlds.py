"""A small simulated world and the command line on it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from pipelines.store.artifacts import Store

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("elastic-ctr")
FIRST, LAST = "2026-01-01", "2026-01-03"
SMALL = {
    "simulator": {
        "impressions_per_day": 4000,
        "users": 1500,
        "items": 400,
        "new_items_per_day": 20,
    },
    "graph": {"relations": []},
    "training": {"batch_size": 128, "admission": {"min_count": 1}},
    "model": {"hidden": [16], "dim": 8},
    "data_gate": {"min_rows": 100},
    "model_gate": {
        "max_auc_drop_to_champion": 0.2,
        "max_auc_drop_to_baseline": 0.2,
        "max_p99_ms": 10_000,
        "max_standard_errors": 100,
        "min_calibration": 0.2,
        "max_calibration": 5,
        "max_calibration_ratio": 5,
    },
    "spark": {"master": "local[2]", "shuffle_partitions": 2},
}


@dataclass(frozen=True)
class World:
    """A workspace, its configuration, and the command line on it, run by an interpreter."""

    workspace: Path
    config: Path
    python: Path = Path(sys.executable)

    @property
    def store(self):
        return Store(self.workspace)

    def environment(self):
        quiet = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MLFLOW_TRACKING", "ELASTIC_CTR"))
        }
        return {**quiet, "NO_PROXY": "*", "CUDA_VISIBLE_DEVICES": "-1"}

    def command(self, *arguments):
        return [str(self.python), str(COMMAND), *arguments, "--workspace", str(self.workspace)]

    def run(self, *arguments, code=0):
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=1400,
        )
        assert done.returncode == code, (
            f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        )
        return done


def make_world(folder: Path, changes: dict | None = None, python: Path = World.python) -> World:
    """Write the simulated profile, made small, into a folder."""
    document = yaml.safe_load((REPOSITORY / "conf" / "simulated.yaml").read_text())
    return World(
        folder / "workspace", write_config(folder, document, {**SMALL, **(changes or {})}), python
    )


def copy_world(world: World, folder: Path, changes: dict, without: tuple[str, ...] = ()) -> World:
    """Copy a world without some files of its workspace, and change its configuration."""
    shutil.copytree(
        world.workspace,
        folder / "workspace",
        ignore=shutil.ignore_patterns(*without) if without else None,
    )
    config = write_config(folder, yaml.safe_load(world.config.read_text()), changes)
    return replace(world, workspace=folder / "workspace", config=config)


def write_config(folder: Path, document: dict, changes: dict) -> Path:
    """Write a configuration, some keys of its sections changed, and return its path."""
    changed = {
        section: {**document.get(section, {}), **values} for section, values in changes.items()
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**document, **changed}))
    return path
