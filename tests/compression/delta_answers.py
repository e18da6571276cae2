"""Answer requests with an export and the deltas after it, with TensorFlow, NumPy and two scripts.

Usage: delta_answers.py SAVED_MODEL DELTAS_FOLDER REQUESTS_NPZ OUT_NPY
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[2]


def loaded_file(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(saved_model, deltas, requests, out):
    client = loaded_file(ROOT / "compression" / "delta" / "delta_client.py")
    asked = loaded_file(ROOT / "validation" / "model" / "parity_worker.py").DecodedRequests(
        Path(requests)
    )
    model = tf.saved_model.load(saved_model)
    for folder in sorted(Path(deltas).iterdir()):
        client.apply_delta(model, folder)
    batches = [asked.batch(start, start + 512) for start in range(0, asked.rows, 512)]
    np.save(
        out,
        np.concatenate(
            [model.signatures["serving_default"](**b)["probability"].numpy() for b in batches]
        ),
    )
    assert not {"compression", "training", "features", "validation", "pydantic"} & set(sys.modules)


main(*sys.argv[1:])
