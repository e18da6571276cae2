"""From keras.layers.Embedding to ElasticEmbedding: the same predictions, then new ids.

python elastic_embeddings/examples/migrate_from_embedding.py
"""

import keras
import numpy as np

from elastic_embeddings import ElasticEmbedding, GroupAdam

IDS = 100


def model_of(embedding: keras.layers.Layer) -> keras.Model:
    """A click model over three ids."""
    inputs = keras.Input((3,), dtype="int64")
    logit = keras.layers.Dense(1, name="logit")(keras.layers.Flatten()(embedding(inputs)))
    return keras.Model(inputs, logit)


# 1. A trained model with a fixed number of ids.
keras.utils.set_random_seed(1)
old = model_of(keras.layers.Embedding(IDS, 8, name="embedding"))
old.compile(keras.optimizers.Adam(0.01), "mse")
keys = np.random.default_rng(0).integers(0, IDS, (2000, 3))
targets = keys.sum(axis=1, keepdims=True) / IDS
old.fit(keys, targets, epochs=3, verbose=0)

# 2. The same model with an elastic layer. `prepare` and `begin` give every id a row, and `write`
#    overwrites the initial vectors by the trained ones; the optimizer state starts from scratch.
layer = ElasticEmbedding(8, optimizer=GroupAdam(0.01))
new = model_of(layer)
new.get_layer("logit").set_weights(old.get_layer("logit").get_weights())
trained = old.get_layer("embedding").get_weights()[0]
batch = layer.table.begin(layer.table.prepare(np.arange(IDS)))
slab = layer.table.slabs["vectors"]
slab.write(batch.rows, trained, slab.spec.optimizer.initial_state(trained))
# A step without gradients keeps the rows: a batch that is only prepared leaves no trace.
layer.table.apply(batch, {})

before, after = (model.predict(keys, verbose=0) for model in (old, new))
print(f"largest difference of the predictions: {np.abs(before - after).max():.1e}")

# 3. Training goes on, with ids that the old model did not have.
new.compile(keras.optimizers.Adam(0.01), "mse")
more = keys + 10**9
new.fit(np.concatenate([keys, more]), np.concatenate([targets, targets]), verbose=0)
print(f"rows: {IDS} before, {len(layer.table)} with the new ids")
