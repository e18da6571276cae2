"""How many threads TensorFlow learns with."""

from __future__ import annotations

import logging

import tensorflow as tf

from elastic_embeddings.core.threads import available_threads

_log = logging.getLogger(__name__)

IMPRESSIONS_A_THREAD = 256
"""Below so many impressions of a batch for each thread, splitting an operation costs more than it gains.

Measured on the default model and 2 CPUs: with batches of 512, two threads take 8 % more CPU a step than one. They give 1.1
times the examples per second on a quiet machine, and 1.7 times beside four busy processes, where each thread has its share.
"""


def use_threads_for(batch_size: int) -> None:
    """Let TensorFlow split an operation over as many threads as pay for batches of this size, at most `available_threads`.

    TensorFlow takes this once in a process, before its first operation; later calls change nothing. Results may depend on it
    in the last bits, as sums are split differently, so it is a function of the batch size and the available CPUs alone.

    Raises:
        InputError: `ELASTIC_CTR_THREADS` is no number.
    """
    available = available_threads()
    threads = max(1, min(available, batch_size // IMPRESSIONS_A_THREAD))
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(available)
    except RuntimeError:  # it is running already, with the threads of whoever was first
        _log.debug("TensorFlow is running already: its threads stay as they are, not %d", threads)
