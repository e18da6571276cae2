"""The number of TensorFlow's threads."""

from __future__ import annotations

import logging

import tensorflow as tf

from elastic_embeddings.core.threads import available_threads

_log = logging.getLogger(__name__)

IMPRESSIONS_A_THREAD = 256
"""Fewest impressions of a batch per thread: with less, splitting costs more than it saves.

Measured on the default model and 2 CPUs: with batches of 512, two threads need 8 % more CPU per
step than one. They give 1.1 times the examples per second on an idle machine, and 1.7 times next to
four busy processes, because each thread gets its share of the CPUs.
"""


def use_threads_for(batch_size: int) -> None:
    """Set TensorFlow's threads for batches of this size, at most `available_threads`.

    Results may depend on the number in the last bits, because sums are split differently. It is
    therefore a function of the batch size and the available CPUs alone.

    Raises:
        InputError: `ELASTIC_CTR_THREADS` is not a number.
    """
    available = available_threads()
    threads = max(1, min(available, batch_size // IMPRESSIONS_A_THREAD))
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(available)
    except RuntimeError:
        # TensorFlow accepts this once per process, before its first operation.
        _log.debug("TensorFlow is already running: its threads are not changed to %d", threads)
