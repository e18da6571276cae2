"""A frozen model as a SavedModel, served by a TensorFlow process without this library.

python elastic_embeddings/examples/export_for_serving.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from elastic_embeddings import ElasticEmbedding, frozen

SERVER = """
import sys
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
keys = tf.constant([[1, 2, 3], [4, 5, 999_999]], tf.int64)
print(*(round(float(value), 4) for value in model.serve(keys)[:, 0]))
assert not any(name.startswith("elastic_embeddings") for name in sys.modules)
"""

# 1. Train.
keras.utils.set_random_seed(1)
layer = ElasticEmbedding(8)
model = keras.Sequential(
    [keras.Input((3,), dtype="int64"), layer, keras.layers.Flatten(), keras.layers.Dense(1)]
)
model.compile("adam", "mse")
keys = np.random.default_rng(0).integers(0, 1000, (2000, 3))
model.fit(keys, keys.sum(axis=1) / 1000, epochs=2, verbose=0)

with tempfile.TemporaryDirectory() as folder:
    # 2. Export. The rows become constants of the graph: sorted keys and their vectors.
    frozen(model).export(str(Path(folder) / "served"), verbose=False)

    # 3. Serve in a new process outside of this folder.
    command = [sys.executable, "-c", SERVER, str(Path(folder) / "served")]
    served = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

# 999,999 is no key of the table: its vector is zero here and there.
trained = model.predict(np.array([[1, 2, 3], [4, 5, 999_999]]), verbose=0)[:, 0]
print("model: ", *(round(float(value), 4) for value in trained))
print("served:", served.stdout.strip())
