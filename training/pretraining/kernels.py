"""Compiled loops of graph learning: sampling, gathering, scattering, sparse Adam. They free the GIL and draw from seeds.

All of them are in one file, because numba's cache on disk looks at the date of the file that holds a kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import compiled

Ints = NDArray[np.int32]
Floats = NDArray[Any]


@compiled
def _next(state: NDArray[np.uint64]) -> np.uint64:
    """Draw 64 bits by SplitMix64 (Steele et al., OOPSLA 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _below(state: NDArray[np.uint64], bound: int) -> np.int64:
    """Draw a whole number below bound < 2³²; the bias of at most bound / 2³² is left alone."""
    return np.int64(((_next(state) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@compiled
def reverse(left: Ints, right: Ints, rights: int) -> tuple[NDArray[np.int64], Ints]:
    """Return offsets int64 [rights + 1] and the left ends int32 [E] by right end, each list in the order of the edges."""
    offsets = np.zeros(rights + 1, np.int64)
    for e in range(len(right)):
        offsets[right[e] + 1] += 1
    for r in range(rights):
        offsets[r + 1] += offsets[r]
    at, ends = offsets[:-1].copy(), np.empty(len(left), np.int32)
    for e in range(len(right)):
        ends[at[right[e]]] = left[e]
        at[right[e]] += 1
    return offsets, ends


@compiled
def distinct(nodes: Ints, places: Ints, found: Ints, count: int) -> tuple[Ints, int]:
    """Number nodes by first occurrence; return the number of each int32 [n], and how many are found now.

    `places` int32 [N] holds the number of a node plus one, 0 where it has none; `found` lists the nodes by number.
    """
    numbers = np.empty(len(nodes), np.int32)
    for i in range(len(nodes)):
        node = nodes[i]
        if places[node] == 0:
            found[count] = node
            count += 1
            places[node] = count
        numbers[i] = places[node] - 1
    return numbers, count


@compiled
def forget(places: Ints, found: Ints, count: int) -> None:
    """Give `places` its zeros back."""
    for i in range(count):
        places[found[i]] = 0


@compiled
def sample(
    offsets: NDArray[np.int64],
    ends: Ints,
    targets: Ints,
    fanout: int,
    state: NDArray[np.uint64],
    places: Ints,
    found: Ints,
    count: int,
) -> tuple[Ints, Ints, int]:
    """Draw at most `fanout` neighbours of each target, without replacement (Floyd's method), and number them.

    Returns:
        Numbers int32 [T, fanout], how many of each row count int32 [T], and how many nodes are found now.
    """
    drawn, counts = np.zeros((len(targets), fanout), np.int32), np.empty(len(targets), np.int32)
    for t in range(len(targets)):
        first = offsets[targets[t]]
        degree = offsets[targets[t] + 1] - first
        taken = min(degree, fanout)
        counts[t] = taken
        for i in range(taken):
            at = i
            if degree > fanout:
                last = degree - taken + i
                at = _below(state, last + 1)
                for j in range(i):
                    if drawn[t, j] == at:
                        at = last
                        break
            drawn[t, i] = at
        for i in range(taken):
            node = ends[first + drawn[t, i]]
            if places[node] == 0:
                found[count] = node
                count += 1
                places[node] = count
            drawn[t, i] = places[node] - 1
    return drawn, counts, count


@compiled
def gather_mean(
    vectors: Floats,
    drawn: Ints,
    counts: Ints,
    scaled: bool,
    out: Floats,
    column: int,
    lo: int,
    hi: int,
) -> None:
    """Write the mean (`scaled`: the sum) of the drawn vectors [N, d] of targets lo … hi - 1 into `out` from `column` on."""
    width = vectors.shape[1]
    for t in range(lo, hi):
        row = out[t, column : column + width]
        row[:] = 0
        for i in range(counts[t]):
            other = vectors[drawn[t, i]]
            for c in range(width):
                row[c] += other[c]
        if not scaled and counts[t] > 1:
            for c in range(width):
                row[c] /= counts[t]


@compiled
def scatter_mean(
    gradients: Floats, column: int, drawn: Ints, counts: Ints, scaled: bool, into: Floats
) -> None:
    """Add the gradient of `gather_mean`'s result to that of the vectors it read."""
    width = into.shape[1]
    for t in range(len(counts)):
        row = gradients[t, column : column + width]
        if not scaled and counts[t] > 1:
            for c in range(width):
                row[c] /= counts[t]
        for i in range(counts[t]):
            other = into[drawn[t, i]]
            for c in range(width):
                other[c] += row[c]


@compiled
def all_mean(
    vectors: Floats,
    offsets: NDArray[np.int64],
    ends: Ints,
    most: int,
    out: Floats,
    column: int,
    lo: int,
    hi: int,
) -> None:
    """Write the mean of all neighbours' vectors times min(degree, most) into rows lo … hi - 1 of `out`; most 1: the mean."""
    width = vectors.shape[1]
    for t in range(lo, hi):
        row = out[t, column : column + width]
        row[:] = 0
        degree = offsets[t + 1] - offsets[t]
        for e in range(offsets[t], offsets[t + 1]):
            other = vectors[ends[e]]
            for c in range(width):
                row[c] += other[c]
        for c in range(width):
            row[c] *= min(degree, most) / max(degree, 1)


@compiled
def scatter_rows(values: Floats, places: Ints, into: Floats) -> None:
    """Add row i of values [n, d] to row places[i] of `into`."""
    for i in range(len(places)):
        for c in range(values.shape[1]):
            into[places[i], c] += values[i, c]


@compiled
def gather_shown(table: Floats, nodes: Ints, shown: Floats, out: Floats, lo: int, hi: int) -> None:
    """Write the first numbers of the rows of nodes, times shown [n, 1], into rows lo … hi - 1 of `out` [n, d]."""
    for i in range(lo, hi):
        row, factor = table[nodes[i]], shown[i, 0]
        for c in range(out.shape[1]):
            out[i, c] = row[c] * factor


@compiled
def adam(
    weights: Floats,
    first: Floats,
    second: Floats,
    rows: Ints,
    column: int,
    gradients: Floats,
    numbers: Floats,
    lo: int,
    hi: int,
) -> None:
    """One step of Adam (Kingma and Ba, ICLR 2015) on numbers from `column` on of the rows named lo … hi - 1.

    The rest, and numbers without a gradient, stay. Rows are distinct. `numbers`, of the weights' type: the rate of the step with
    its bias corrections, β₁, 1 - β₁, β₂, 1 - β₂ and ε. All of it is in that type and without branches, so that it is vectorised.
    """
    rate, lag_1, rest_1, lag_2, rest_2, epsilon = numbers
    width = gradients.shape[1]
    for i in range(lo, hi):
        row = rows[i]
        w, m, v = weights[row, column:], first[row, column:], second[row, column:]
        for c in range(width):
            g = gradients[i, c]
            m[c] = lag_1 * m[c] + rest_1 * g if g != 0 else m[c]
            v[c] = lag_2 * v[c] + rest_2 * g * g if g != 0 else v[c]
            w[c] -= rate * m[c] / (np.sqrt(v[c]) + epsilon) if g != 0 else g


@compiled
def pair_hash(left: NDArray[np.int64], right: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return 64 bits for each pair of keys int64 [E], the same for the same pair and seed in every graph."""
    hashes = np.empty(len(left), np.uint64)
    state = np.empty(1, np.uint64)
    for e in range(len(left)):
        state[0] = np.uint64(left[e]) ^ np.uint64(seed)
        state[0] = _next(state) ^ np.uint64(right[e])
        hashes[e] = _next(state)
    return hashes
