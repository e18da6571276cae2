"""The model's forward pass in NumPy and float64, from a checkpoint's arrays: the reference."""

import numpy as np

from training.fit.checkpoints import read_checkpoint
from training.models.encoding_inputs import PairTable


def probabilities(folder, examples):
    """float64 [n] for the examples by the model of a folder."""
    return probabilities_of(read_checkpoint(folder), examples)


def probabilities_of(trained, examples):
    """float64 [n] for the examples, computed row by row."""
    return np.array([_probability(trained, examples.slice(i, i + 1)) for i in range(len(examples))])


def _probability(trained, one):
    rows = {key: i for i, key in enumerate(trained.keys.tolist())}
    wide, deep = (
        [_field(trained.vectors[slab], rows, keys) for keys in _keys(one)]
        for slab in ("wide", "deep")
    )
    dense, cross = _numbers(trained, one), _cross(trained, one)
    hidden = np.concatenate([*deep, dense, cross])
    weights = {name: w.astype(np.float64) for name, w in trained.dense.items()}
    for layer in range(len(trained.description.model.hidden)):
        hidden = np.maximum(
            hidden @ weights[f"deep/{layer}/kernel"] + weights[f"deep/{layer}/bias"], 0
        )
    logit = (
        sum(w[0] for w in wide)
        + dense @ weights["wide/dense"]
        + hidden @ weights["deep/out"]
        + weights["bias"]
    )
    return 1 / (1 + np.exp(-logit))


def _keys(one):
    return [[key] for key in one.keys[0].tolist()] + [
        values.values.tolist() for values in one.lists
    ]


def _field(vectors, rows, keys):
    zero = np.zeros(vectors.shape[1])
    found = [vectors[rows[key]].astype(np.float64) if key in rows else zero for key in keys]
    return np.mean(found, axis=0) if found else zero


def _numbers(trained, one):
    about = trained.description
    scalers = [about.scalers[field.name] for field in about.schema.dense_fields()]
    pairs = [
        (np.clip((x - s.mean) / s.std, -10, 10), 1.0) if there else (0.0, 0.0)
        for x, there, s in zip(one.numbers[0], one.present[0], scalers, strict=True)
    ]
    return np.array(pairs).ravel()


def _cross(trained, one):
    columns = []
    for relation, (left, right) in zip(
        trained.description.relations, one.pairs[0].tolist(), strict=True
    ):
        encoding = trained.encodings.get(relation.name)
        if encoding is None:
            columns.append(0.0)
            continue
        columns.append(
            _listed(encoding, left, right)
            if isinstance(encoding, PairTable)
            else _predicted(encoding, left, right)
        )
    return np.array(columns)


def _listed(table, left, right):
    key = (left * -7046029254386353131 + right + 2**63) % 2**64 - 2**63
    at = np.flatnonzero(table.keys == key)
    return float(table.values[at[0]]) if len(at) else table.mean


def _predicted(encoding, left, right):
    fixed = _listed(encoding.corrections, left, right) if encoding.corrections else 0.0
    return _crossed(encoding, left, right) + fixed


def _crossed(encoding, left, right):
    (hu, bu), (hv, bv) = _node(encoding.left, left), _node(encoding.right, right)
    if not encoding.network:
        return encoding.mean + bu + bv + hu @ hv
    if not (hu.any() and hv.any()):
        return encoding.mean + bu + bv
    x = np.concatenate([hu, hv, hu * hv])
    for kernel, bias in encoding.network[:-1]:
        x = np.maximum(x @ kernel + bias, 0)
    return encoding.mean + bu + bv + (x @ encoding.network[-1][0] + encoding.network[-1][1])[0]


def _node(nodes, key):
    at = np.flatnonzero(nodes.keys == key)
    if not len(at):
        return np.zeros(nodes.vectors.shape[1]), 0.0
    return nodes.vectors[at[0]].astype(np.float64), float(nodes.biases[at[0]])
