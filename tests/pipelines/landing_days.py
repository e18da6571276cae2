"""A log of a few hundred rows, cut into small files, for the tests of following."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
DOCUMENT = {
    "name": "landing",
    "source": {"path": "unused/*.csv", "format": "csv", "null_values": ["\\N"]},
    "features": {
        "label": "click",
        "user": "user_id",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "ms"},
        "fields": [
            {"kind": "categorical", "name": "user_id"},
            {"kind": "categorical", "name": "ad"},
            {"kind": "multi_valued", "name": "tags", "separator": "|"},
            {"kind": "numeric", "name": "price"},
            {"kind": "time", "name": "hour"},
        ],
    },
    "model": {
        "dim": 4,
        "hidden": [8],
        "deep": {"learning_rate": 0.02},
        "dense": {"learning_rate": 0.01},
    },
    "training": {"batch_size": 64, "eviction": {"zero_rows": True}},
    "follow": {"every_s": 0.2, "max_files": 1, "full_every": 3},
}


def write_config(folder, **sections):
    """Write the configuration, some sections changed, and return its path."""
    path = folder / "landing.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, **sections}), encoding="utf-8")
    return path


def rows_of(number, rows=200, **columns):
    """The n-th file's rows: clicks depend on the ad; users and ads come and go."""
    draw = np.random.default_rng((3, number))
    ads = draw.integers(number, number + 20, rows)
    made = {
        "time": START_MS + number * 7_200_000 + np.arange(rows),
        "user_id": [f"u{user}" for user in draw.integers(0, 50, rows)],
        "ad": [f"a{ad}" for ad in ads],
        "tags": [f"t{ad % 4}|t{ad % 3}" for ad in ads],
        "price": draw.lognormal(size=rows).round(2),
        "click": (draw.random(rows) < 0.1 + 0.5 * (ads % 2)).astype(int),
    }
    return pd.DataFrame(made | columns)


def land(folder, number, rows=None):
    """Write the n-th file as a producer does: under a hidden name, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"part-{number:03d}.{'parquet' if number % 2 else 'csv'}"
    rows = rows_of(number) if rows is None else rows
    if number % 2:
        rows.to_parquet(folder / f".{name}", index=False)
    else:
        rows.to_csv(folder / f".{name}", index=False)
    return (folder / f".{name}").rename(folder / name)


def start(config, landing, out, *options):
    """Start `elastic-ctr follow` in a new process."""
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "follow",
        "-c",
        config,
        "--watch",
        landing,
        "--out",
        out,
    ]
    command += ["-w", out.parent / "workspace", *options]
    with (out.parent / f"{out.name}.log").open("a") as log:
        return subprocess.Popen(
            [str(part) for part in command], cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
        )
