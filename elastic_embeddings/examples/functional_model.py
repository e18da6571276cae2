"""A functional Keras model whose embeddings grow with the ids, trained with fit.

python elastic_embeddings/examples/functional_model.py
"""

import keras
import numpy as np
import tensorflow as tf

from elastic_embeddings import CountAdmission, ElasticEmbedding, GroupAdam, prefetch_keys

# Clicks on ads: each user and each ad is a 64-bit id. Most ids are rare, a few are frequent.
rng = np.random.default_rng(0)
users = rng.zipf(1.3, 60_000) % 10**12
ads = rng.zipf(1.5, 60_000) % 10**12
clicks = ((users + ads) % 3 == 0).astype(np.float32)
dataset = tf.data.Dataset.from_tensor_slices(({"user": users, "ad": ads}, clicks)).batch(256)

# No vocabulary and no number of rows: a key gets a row at its second occurrence, and group lasso
# (l21) sets the rows of useless keys to zero.
layer = ElasticEmbedding(
    8, optimizer=GroupAdam(0.01, l21=1e-4), admission=CountAdmission(2), seed=1
)
inputs = {name: keras.Input((), dtype="int64", name=name) for name in ("user", "ad")}
vectors = layer(inputs)
hidden = keras.layers.Concatenate()([vectors["user"], vectors["ad"]])
hidden = keras.layers.Dense(32, activation="relu")(hidden)
model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
model.compile("adam", "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])

# The keys of the next batches are looked up while the current one is trained on.
history = model.fit(prefetch_keys(dataset, model), verbose=0)

statistics = layer.table.statistics()
print(f"AUC over the epoch: {history.history['auc'][-1]:.2f}")
print(f"keys seen: {statistics.keys_seen}, with a row: {statistics.rows}")
for field, figures in statistics.fields.items():
    print(f"  {field}: {figures.rows} rows, {figures.hit_rate:.0%} of the events had a row")
