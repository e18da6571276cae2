"""An ElasticTable in a custom training loop with GradientTape, without a Keras layer.

python elastic_embeddings/examples/custom_loop.py
"""

import numpy as np
import tensorflow as tf

from elastic_embeddings import ElasticTable, Eviction, GroupAdam, Idle, SlabSpec

# A model of one weight per key: logistic regression over the keys of an impression.
table = ElasticTable(
    SlabSpec(1, GroupAdam(0.05), init_scale=0), eviction=Eviction((Idle(steps=50),), every=25)
)
rng = np.random.default_rng(0)
losses = []
for step in range(200):
    # Each key has a fixed effect. The keys change over time, so old ones are evicted.
    keys = rng.integers(step * 10, step * 10 + 1000, (128, 3))
    labels = (np.sin(keys).sum(axis=1, keepdims=True) > 0).astype(np.float32)

    # 1. Count the keys, admit them, give them rows, and read the rows.
    batch = table.begin(table.prepare(keys.ravel()))
    vectors = tf.convert_to_tensor(table.gather(batch))

    # 2. Forward and backward pass. The vectors are an input of the model.
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        logits = tf.reduce_sum(tf.reshape(vectors, (128, 3)), axis=1, keepdims=True)
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))

    # 3. One optimizer step on the rows of the batch.
    table.apply_gradients(batch, tape.gradient(loss, vectors))
    losses.append(float(loss))

evicted = table.statistics().evicted
print(f"loss: {np.mean(losses[:20]):.3f} in the first 20 steps, {np.mean(losses[-20:]):.3f} later")
print(f"steps: {table.step}, rows: {len(table)}, evicted: {evicted}")
