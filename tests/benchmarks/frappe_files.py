"""Small files in the layout of `frappe_x1`, with a click law that a model can learn."""

import gzip
from pathlib import Path

import numpy as np
from harness.frappe_data import FIELDS

ROWS = {"train": 1500, "valid": 400, "test": 400}
_CARDINALITIES = (30, 40, 7, 7, 2, 3, 2, 9, 8, 23)


def write_frappe(folder: Path, seed: int = 5) -> None:
    """Write three splits; a click is likely where user and item have the same parity of their place
    in the field.
    """
    rng = np.random.default_rng(seed)
    first = np.cumsum((0, *_CARDINALITIES[:-1]))
    for name, rows in ROWS.items():
        places = np.stack([rng.integers(0, size, rows) for size in _CARDINALITIES], axis=1)
        likely = np.where((places[:, 0] + places[:, 1]) % 2 == 0, 0.9, 0.1)
        table = np.column_stack([rng.random(rows) < likely, places + first])
        lines = [",".join(("label", *FIELDS)), *(",".join(map(str, row)) for row in table.tolist())]
        with gzip.open(folder / f"{name}.csv.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
