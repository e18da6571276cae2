"""TensorFlow's threads, in a process where it has not run yet."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json
import tensorflow as tf
from training.fit.threads import use_threads_for

def chosen(batch_size):
    use_threads_for(batch_size)
    return tf.config.threading.get_intra_op_parallelism_threads()

before = [chosen(batch_size) for batch_size in (1, 255, 256, 512, 4096)]
tf.constant(1) + 1
print(json.dumps([*before, chosen(1)]))
"""


@pytest.mark.process
def test_threads_grow_with_the_batch_up_to_the_limit_and_stay_once_tensorflow_runs():
    environment = {**os.environ, "ELASTIC_CTR_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [1, 1, 1, 2, 3, 3]
