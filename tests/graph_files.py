"""Cross graphs written by pandas in the layout that the Spark stage writes (docs/architecture.md, `cross_graph`)."""

import json

import numpy as np
import pandas as pd

_MARGIN = 1e-6


def described(counts, prior, smoothing=20.0):
    """Add ctr, logit, pmi and log_count to `left, right, impressions, clicks` of one relation."""
    n = counts["impressions"]
    by_left, by_right = (n.groupby(counts[side]).transform("sum") for side in ("left", "right"))
    ctr = (counts["clicks"] + smoothing * prior) / (n + smoothing)
    rate = ctr.clip(_MARGIN, 1 - _MARGIN)
    return counts.assign(
        ctr=ctr,
        logit=np.log(rate / (1 - rate)),
        pmi=np.log(n * n.sum() / by_left / by_right),
        log_count=np.log1p(n),
    )


def counted(records, left, right, label, min_impressions=3):
    """Count the pairs of two columns of records and describe those with enough impressions."""
    groups = records.astype({left: str, right: str}).groupby([left, right])[label]
    counts = (
        groups.agg(impressions="size", clicks="sum")
        .reset_index()
        .rename(columns={left: "left", right: "right"})
    )
    edges = described(counts, records[label].mean())
    return edges[edges["impressions"] >= min_impressions]


def write_graph(folder, relations, first_day=None, last_day=None, days=1):
    """Write the edges of each relation, named `left__right`: frames with string `left`, `right` and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = _nodes(relations)
    numbers = {
        field: dict(zip(part["token"], part["node"], strict=True))
        for field, part in nodes.groupby("field")
    }
    nodes.to_parquet(folder / "nodes.parquet")
    about = {
        name: _write_relation(folder, name, edges, numbers) for name, edges in relations.items()
    }
    told = {
        "first_day": first_day,
        "last_day": last_day,
        "days": days,
        "hours": 24 * days,
        "impressions": 0,
        "clicks": 0,
        "prior": 0.0,
        "relations": about,
    }
    (folder / "graph.json").write_text(json.dumps(told))
    return folder


def _nodes(relations):
    sides = [
        edges.assign(field=field, token=edges[side].astype(str))[
            ["field", "token", "impressions", "clicks"]
        ]
        for name, edges in relations.items()
        for side, field in zip(("left", "right"), name.split("__"), strict=True)
    ]
    groups = pd.concat(sides).groupby(["field", "token"])
    nodes = groups[["impressions", "clicks"]].sum().assign(degree=groups.size()).reset_index()
    nodes = nodes.iloc[
        np.lexsort((nodes["token"].map(lambda t: t.encode()), nodes["field"]))
    ].reset_index(drop=True)
    nodes["node"] = nodes.groupby("field").cumcount().astype(np.int32)
    return nodes


def _write_relation(folder, name, edges, numbers):
    left_field, right_field = name.split("__")
    frame = edges.assign(
        left=edges["left"].map(numbers.get(left_field, {})).astype(np.int32),
        right=edges["right"].map(numbers.get(right_field, {})).astype(np.int32),
    ).sort_values(["left", "right"])
    path = folder / "edges" / f"relation={name}"
    path.mkdir(parents=True)
    half = len(frame) // 2
    frame.iloc[:half].to_parquet(path / "part-00000.parquet", index=False)
    frame.iloc[half:].to_parquet(path / "part-00001.parquet", index=False)
    lefts, rights = (len(numbers.get(field, {})) for field in (left_field, right_field))
    (folder / "offsets").mkdir(exist_ok=True)
    offsets = np.searchsorted(frame["left"], np.arange(lefts + 1)).astype(np.int64)
    pd.DataFrame({"offset": offsets}).to_parquet(folder / "offsets" / f"relation={name}.parquet")
    about = {"left": left_field, "right": right_field, "edges": len(frame)}
    return about | {
        "left_nodes": lefts,
        "right_nodes": rights,
        "edges_capped": 0,
        "impressions_capped": 0,
    }


def planted_edges(users=60, items=50, count=2500, seed=0, noise=0.1):
    """Edges whose logits are node biases plus a rank-2 interaction plus noise."""
    draw = np.random.default_rng(seed)
    pairs = np.unique(draw.integers([users, items], size=(count, 2)), axis=0)
    u, v, b, c = (draw.normal(size=shape) for shape in [(users, 2), (items, 2), users, items])
    logit = -1 + b[pairs[:, 0]] + c[pairs[:, 1]] + np.sum(u[pairs[:, 0]] * v[pairs[:, 1]], axis=1)
    n = draw.integers(3, 50, len(pairs))
    return pd.DataFrame({
        "left": [f"u{i}" for i in pairs[:, 0]], "right": [f"i{i}" for i in pairs[:, 1]], "impressions": n, "clicks": n // 3,
        "ctr": 1 / (1 + np.exp(-logit)), "logit": logit + draw.normal(size=len(pairs)) * noise,
        "pmi": draw.normal(size=len(pairs)), "log_count": np.log1p(n),
    })  # fmt: skip
