"""Compiled loops of graph training: sampling, gathering, scattering, sparse Adam.

They release the GIL, and every random choice is a function of a seed. All are in this one file
because numba's cache on disk checks only the date of the file that holds a kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import GOLDEN, mix
from elastic_embeddings.core.native import compiled

Ints = NDArray[np.int32]
Floats = NDArray[Any]


@compiled
def _next_bits(state: NDArray[np.uint64]) -> np.uint64:
    """Draw 64 bits by SplitMix64 (Steele et al., OOPSLA 2014) and advance `state` [1]."""
    bits = mix(state[0])
    state[0] += GOLDEN
    return bits


@compiled
def pair_hash(left: NDArray[np.int64], right: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return 64 bits for each pair of keys int64 [E], a function of the pair and the seed alone."""
    hashes = np.empty(len(left), np.uint64)
    state = np.empty(1, np.uint64)
    for edge in range(len(left)):
        state[0] = np.uint64(left[edge]) ^ np.uint64(seed)
        # The hash of the left key goes into that of the right one: (u, v) and (v, u) differ.
        state[0] = _next_bits(state) ^ np.uint64(right[edge])
        hashes[edge] = _next_bits(state)
    return hashes


@compiled
def reverse(left: Ints, right: Ints, rights: int) -> tuple[NDArray[np.int64], Ints]:
    """Return the edges as lists by right node: offsets int64 [rights + 1], left nodes int32 [E].

    Each list keeps the order of the edges.
    """
    # A counting sort: count the edges of each right node, then place each edge in its range.
    offsets = np.zeros(rights + 1, np.int64)
    for edge in range(len(right)):
        offsets[right[edge] + 1] += 1
    for node in range(rights):
        offsets[node + 1] += offsets[node]
    next_place, ends = offsets[:-1].copy(), np.empty(len(left), np.int32)
    for edge in range(len(right)):
        ends[next_place[right[edge]]] = left[edge]
        next_place[right[edge]] += 1
    return offsets, ends


@compiled
def number_nodes(nodes: Ints, places: Ints, found: Ints, count: int) -> tuple[Ints, int]:
    """Number nodes int32 [n] by first occurrence; return their numbers and the new count.

    `places` int32 [N] holds the number of each node plus one, and 0 for a node without a number.
    `found` lists the `count` numbered nodes and must have room for new ones. Both are updated.
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
def clear_numbers(places: Ints, found: Ints, count: int) -> None:
    """Set the entries of numbered nodes back to 0; the other entries are not visited."""
    for i in range(count):
        places[found[i]] = 0


@compiled
def sample_neighbours(
    offsets: NDArray[np.int64],
    ends: Ints,
    targets: Ints,
    fanout: int,
    state: NDArray[np.uint64],
    places: Ints,
    found: Ints,
    count: int,
) -> tuple[Ints, Ints, int]:
    """Draw at most `fanout` neighbours of each target, without replacement, and number them.

    The neighbours of node n are `ends` from offsets[n] to offsets[n + 1]; `places`, `found` and
    `count` are those of `number_nodes`, `state` is that of the random numbers.

    Returns:
        Numbers int32 [T, fanout], how many of each row are in use int32 [T], and the new count.
    """
    drawn, counts = np.zeros((len(targets), fanout), np.int32), np.empty(len(targets), np.int32)
    for target in range(len(targets)):
        first = offsets[targets[target]]
        degree = offsets[targets[target] + 1] - first
        draws = min(degree, fanout)
        counts[target] = draws
        for i in range(draws):
            at: Any = i
            if degree > fanout:
                # Floyd's method: draw from 0 to `last`; a repeated draw becomes `last`, which no
                # earlier draw could reach. Every subset is equally likely, in `fanout` draws.
                last = degree - draws + i
                # A number below last + 1 < 2^32 from the upper 32 bits. Its bias is at most
                # (last + 1) / 2^32 and is accepted.
                upper_bits = _next_bits(state) >> np.uint64(32)
                at = np.int64((upper_bits * np.uint64(last + 1)) >> np.uint64(32))
                # A linear search is fast enough: settings allow at most 64 neighbours.
                for j in range(i):
                    if drawn[target, j] == at:
                        at = last
                        break
            drawn[target, i] = at
        # Positions become node numbers only now: the method above compares positions.
        for i in range(draws):
            node = ends[first + drawn[target, i]]
            if places[node] == 0:
                found[count] = node
                count += 1
                places[node] = count
            drawn[target, i] = places[node] - 1
    return drawn, counts, count


@compiled
def gather_mean(
    vectors: Floats,
    drawn: Ints,
    counts: Ints,
    as_sum: bool,
    out: Floats,
    column: int,
    lo: int,
    hi: int,
) -> None:
    """Write the mean (`as_sum`: the sum) of the drawn vectors of targets lo to hi - 1.

    It is written into `out` from `column` on. The first counts[t] entries of drawn[t] are rows of
    `vectors` [N, d].
    """
    width = vectors.shape[1]
    for target in range(lo, hi):
        row = out[target, column : column + width]
        row[:] = 0
        for i in range(counts[target]):
            neighbour = vectors[drawn[target, i]]
            for c in range(width):
                row[c] += neighbour[c]
        if not as_sum and counts[target] > 1:
            for c in range(width):
                row[c] /= counts[target]


@compiled
def scatter_mean(
    gradients: Floats, column: int, drawn: Ints, counts: Ints, as_sum: bool, into: Floats
) -> None:
    """Add the gradient of `gather_mean`'s result to that of the vectors it read.

    Runs on one thread: two targets may share a neighbour. Divides `gradients` in place.
    """
    width = into.shape[1]
    for target in range(len(counts)):
        row = gradients[target, column : column + width]
        if not as_sum and counts[target] > 1:
            for c in range(width):
                row[c] /= counts[target]
        for i in range(counts[target]):
            neighbour = into[drawn[target, i]]
            for c in range(width):
                neighbour[c] += row[c]


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
    """Write the mean of all neighbours' vectors times min(degree, most) for nodes lo to hi - 1.

    With `most` 1 it is the mean.
    """
    width = vectors.shape[1]
    for node in range(lo, hi):
        row = out[node, column : column + width]
        row[:] = 0
        degree = offsets[node + 1] - offsets[node]
        for edge in range(offsets[node], offsets[node + 1]):
            neighbour = vectors[ends[edge]]
            for c in range(width):
                row[c] += neighbour[c]
        for c in range(width):
            # A node without neighbours keeps its zeros.
            row[c] *= min(degree, most) / max(degree, 1)


@compiled
def scatter_rows(values: Floats, places: Ints, into: Floats) -> None:
    """Add row i of values [n, d] to row places[i] of `into`."""
    for i in range(len(places)):
        for c in range(values.shape[1]):
            into[places[i], c] += values[i, c]


@compiled
def gather_shown(table: Floats, nodes: Ints, shown: Floats, out: Floats, lo: int, hi: int) -> None:
    """Write the first d columns of nodes' rows, times shown [n, 1], to rows lo to hi - 1."""
    for i in range(lo, hi):
        row, factor = table[nodes[i]], shown[i, 0]
        for c in range(out.shape[1]):
            out[i, c] = row[c] * factor


@compiled
def adam(
    weights: Floats,
    first_moments: Floats,
    second_moments: Floats,
    rows: Ints,
    column: int,
    gradients: Floats,
    factors: Floats,
    lo: int,
    hi: int,
) -> None:
    """Take a step of Adam (Kingma and Ba, ICLR 2015) on some columns of rows lo to hi - 1.

    `gradients` [n, columns] are of distinct `rows` int32 [n], from `column` on. A number whose
    gradient is 0 stays, and so do its moments. `factors`, of the weights' type, are the step's rate
    with its bias corrections, beta 1, 1 - beta 1, beta 2, 1 - beta 2 and epsilon.
    """
    rate, decay_1, share_1, decay_2, share_2, epsilon = factors
    width = gradients.shape[1]
    for i in range(lo, hi):
        row = rows[i]
        w, m, v = weights[row, column:], first_moments[row, column:], second_moments[row, column:]
        for c in range(width):
            g = gradients[i, c]
            # Conditional values in place of branches, all of one type: the loop is vectorised.
            m[c] = decay_1 * m[c] + share_1 * g if g != 0 else m[c]
            v[c] = decay_2 * v[c] + share_2 * g * g if g != 0 else v[c]
            w[c] -= rate * m[c] / (np.sqrt(v[c]) + epsilon) if g != 0 else g
