"""A state machine of the index against dictionaries, in a table that is nearly always growing."""

import copy

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from key_index_reference import EXTREMES, DictIndex, assert_same, colliding_keys

from elastic_embeddings.index import hash_slots
from elastic_embeddings.index.key_index import KeyIndex

POOL = np.concatenate(
    [
        EXTREMES,
        np.arange(2, 60),
        colliding_keys(2**31, 8),
        colliding_keys(0, 6),
        colliding_keys(2**32 - 1, 6),
    ]
)
BATCHES = st.lists(st.tuples(st.sampled_from(POOL.tolist()), st.integers(0, 3)), max_size=30)


def int32(values):
    return np.array(values, np.int32)


class IndexMachine(RuleBasedStateMachine):
    """`pending` are the calls that can still be undone: (undo, the model before)."""

    @initialize()
    def start(self):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(hash_slots, "_FIRST_CAPACITY", 8)
        self.patch.setattr(hash_slots, "_STAGE_SLOTS", 9)
        self.patch.setattr(hash_slots, "_STAGE_KEYS", 1)
        self.index, self.model, self.pending, self.step, self.rejectable = (
            KeyIndex(reserve=8),
            DictIndex(),
            [],
            0,
            [],
        )

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(batch=BATCHES)
    def find_or_insert(self, batch):
        self.step += 1
        before = copy.deepcopy(self.model)
        keys, fields = [key for key, _ in batch], [code for _, code in batch]
        assigned = self.index.find_or_insert(
            np.array(keys, np.int64), self.step, np.array(fields, np.int16)
        )
        entries, inverse, times, seen_before, new = self.model.find_or_insert(
            keys, self.step, fields
        )
        assert (assigned.entries.tolist(), assigned.inverse.tolist()) == (entries, inverse)
        assert (assigned.times.tolist(), assigned.seen_before.tolist(), assigned.new.tolist()) == (
            times,
            seen_before,
            new,
        )
        self.rejectable = new
        self.pending.append((lambda: self.index.undo(assigned), before))

    @precondition(lambda self: self.rejectable)
    @rule(data=st.data())
    def reject_new_entries(self, data):
        """As admission by a sketch does. The newest call can still be undone."""
        chosen = data.draw(st.lists(st.sampled_from(self.rejectable), unique=True))
        self.index.remove(int32(chosen))
        self.model.remove(chosen)
        self.rejectable = []

    @rule(data=st.data())
    def allocate_rows(self, data):
        waiting = [number for number in self.model.live() if self.model.entries[number].row == 0]
        chosen = data.draw(st.lists(st.sampled_from(waiting), unique=True)) if waiting else []
        before = copy.deepcopy(self.model)
        assert self.index.allocate_rows(int32(chosen)).tolist() == self.model.allocate_rows(chosen)
        self.rejectable = []
        self.pending.append((lambda: self.index.deallocate_rows(int32(chosen)), before))

    @precondition(lambda self: self.pending)
    @rule()
    def undo_the_newest_call(self):
        undo, self.model = self.pending.pop()
        undo()
        self.rejectable = []

    @rule(data=st.data())
    def remove(self, data):
        live = self.model.live()
        chosen = (
            data.draw(st.lists(st.sampled_from(live))) if live else []
        )  # repeated ones too: the second time is nothing
        self.index.remove(int32(chosen))
        self.model.remove(list(dict.fromkeys(chosen)))
        self.forget_pending()

    @rule()
    def squeeze(self):
        self.index.squeeze()
        self.model.squeeze()
        self.forget_pending()

    @rule()
    def compact_rows(self):
        assert self.index.compact_rows().tolist() == self.model.compact_rows()
        self.forget_pending()

    @rule()
    def rebuild_from_arrays(self):
        self.squeeze()
        arrays = (
            self.index.keys,
            self.index.counts,
            self.index.last_seen,
            self.index.rows > 0,
            self.index.fields,
        )
        self.index = KeyIndex.from_arrays(*arrays)
        rows = 0
        for entry in self.model.entries:
            rows += entry.row > 0
            entry.row = rows if entry.row else 0
        self.model.free, self.model.row_limit = [], rows

    def forget_pending(self):
        self.pending, self.rejectable = [], []

    @invariant()
    def equals_the_dictionaries(self):
        if not hasattr(self, "model"):
            return
        assert_same(self.index, self.model)
        entries = [self.model.by_key.get(key, -1) for key in POOL.tolist()]
        assert self.index.find(POOL).tolist() == entries
        rows = [self.model.entries[entry].row if entry >= 0 else 0 for entry in entries]
        assert self.index.find_rows(POOL).tolist() == rows


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
