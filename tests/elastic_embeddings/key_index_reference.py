"""A reference of the key index in plain Python, and adversarial keys for a hash table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from elastic_embeddings.index.hash_slots import SALT

EXTREMES = np.array([0, -1, 1, -(2**63), 2**63 - 1, 2**32, -(2**32), 2**31, -(2**31)], np.int64)
_MASK = 2**64 - 1


@dataclass
class Entry:
    key: int
    field: int
    row: int = 0
    count: int = 0
    last_seen: int = 0


@dataclass
class DictIndex:
    """A list of entries, None for holes; a stack of free rows, and the highest one allocated."""

    entries: list[Entry | None] = field(default_factory=list)
    by_key: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    row_limit: int = 0

    def find_or_insert(self, keys, step, fields):
        """(entries, inverse, times, seen_before, new), as lists."""
        before, places, inverse, seen_before, times = len(self.entries), {}, [], [], []
        for key, code in zip(keys, fields, strict=True):
            number = self.by_key.setdefault(key, len(self.entries))
            if number == len(self.entries):
                self.entries.append(Entry(key, code))
            entry = self.entries[number]
            if number not in places:
                places[number] = len(places)
                seen_before.append(entry.last_seen)
                times.append(0)
            entry.count, entry.last_seen = entry.count + 1, step
            times[places[number]] += 1
            inverse.append(places[number])
        return list(places), inverse, times, seen_before, list(range(before, len(self.entries)))

    def allocate_rows(self, numbers):
        for number in numbers:
            if not self.free:
                self.row_limit += 1
            self.entries[number].row = self.free.pop() if self.free else self.row_limit
        return [self.entries[number].row for number in numbers]

    def remove(self, numbers):
        for number in numbers:
            entry = self.entries[number]
            if entry is not None:
                self.free += [entry.row] if entry.row else []
                del self.by_key[entry.key]
                self.entries[number] = None
        while self.entries and self.entries[-1] is None:
            self.entries.pop()

    def live(self):
        return [number for number, entry in enumerate(self.entries) if entry is not None]

    def squeeze(self):
        self.entries = [entry for entry in self.entries if entry is not None]
        self.by_key = {entry.key: number for number, entry in enumerate(self.entries)}

    def by_row(self):
        return sorted(
            (entry for entry in self.entries if entry is not None and entry.row),
            key=lambda entry: entry.row,
        )

    def compact_rows(self):
        old_rows = [entry.row for entry in self.by_row()]
        for row, entry in enumerate(self.by_row(), start=1):
            entry.row = row
        self.free, self.row_limit = [], len(old_rows)
        return old_rows


def keys_by_row(index):
    order = np.argsort(index.rows)
    return index.keys[order[index.rows[order] > 0]].tolist()


def assert_same(index, model):
    """Every observable thing of an index equals the model's."""
    entries = [entry or Entry(key=0, field=0, row=-1) for entry in model.entries]
    assert index.keys.tolist() == [entry.key for entry in entries]
    assert index.rows.tolist() == [entry.row for entry in entries]
    assert index.counts.tolist() == [entry.count for entry in entries]
    assert index.last_seen.tolist() == [entry.last_seen for entry in entries]
    assert index.fields.tolist() == [entry.field for entry in entries]
    assert index.live().tolist() == model.live()
    assert (len(index), index.holes) == (len(model.by_key), len(model.entries) - len(model.by_key))
    assert (index.row_limit, index.row_count) == (model.row_limit, len(model.by_row()))
    assert keys_by_row(index) == [entry.key for entry in model.by_row()]


def unmix64(bits):
    """The uint64 whose `mix64` is `bits`, a Python int: its operations undone in reverse order."""
    bits = _unshift(bits, 31) * pow(0x94D049BB133111EB, -1, 2**64) & _MASK
    bits = _unshift(bits, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) & _MASK
    return (_unshift(bits, 30) - 0x9E3779B97F4A7C15) & _MASK


def _unshift(bits, shift):
    """The x with x ^ (x >> shift) = bits."""
    found = bits
    for _ in range(64 // shift):
        found = bits ^ (found >> shift)
    return found


def colliding_keys(high, count):
    """`count` int64 keys with hashes of equal upper halves: they share a slot at any capacity."""
    return (np.array([unmix64(high << 32 | low) for low in range(count)], np.uint64) ^ SALT).view(
        np.int64
    )
