"""What a run's process does: `python -m frappe_peers.worker JOB.json`, in the environment of the
job's library.

The job says the module that makes the trainer, the data, the settings and where the answer goes.
The answer is an `.npz` with the probabilities of the best epoch, and beside it, on the last line of
standard output, the run's figures as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from harness.frappe_data import Frappe, Trainer, fit


def main(job_file: str) -> None:
    """Make the trainer, run it, write the probabilities and print the figures."""
    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    data = Frappe.load(Path(job["data"]))
    module = import_module(job["module"])
    trainer: Trainer = module.create(data, job["settings"], job["seed"])
    fitted = fit(trainer, data, job["settings"]["max_epochs"], job["settings"]["patience"])
    np.savez(job["answer"], valid=fitted.valid, test=fitted.test)
    figures = {
        "epochs": len(fitted.valid_auc),
        "valid_auc": fitted.valid_auc,
        "seconds": fitted.seconds,
        "examples_per_s": fitted.examples_per_s(len(data.train)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
