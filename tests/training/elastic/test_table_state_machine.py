"""Any sequence of prepare, learn, look up, save and restore, against a Python dictionary."""

import tempfile
from pathlib import Path

import numpy as np
from group_adam_reference import ReferenceRow
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from training.elastic import CountAdmission, ElasticTable, GroupAdam, SlabSpec

MIN_COUNT, LEARNING_RATE, L21, DIM = 2, 0.1, 0.02, 2
SPEC = SlabSpec(DIM, GroupAdam(learning_rate=LEARNING_RATE, l21=L21), 0.1)
KEYS = st.one_of(st.integers(-4, 4), st.sampled_from([-(2**63), 2**63 - 1, 2**40]))


def new_table():
    return ElasticTable({"deep": SPEC}, CountAdmission(MIN_COUNT), seed=3)


class TableMachine(RuleBasedStateMachine):
    """`counts` and `rows` are what the table must hold; `waiting` are batches prepared and not yet learned."""

    def __init__(self):
        super().__init__()
        self.table = new_table()
        self.counts, self.rows, self.step = {}, {}, 0
        self.order, self.waiting = [], []

    @rule(keys=st.lists(KEYS, max_size=12))
    def prepare(self, keys):
        array = np.array(keys, np.int64)
        batch = self.table.prepare(array)
        for key in keys:
            self.counts[key] = self.counts.get(key, 0) + 1
        fresh = [k for k in dict.fromkeys(keys) if self.counts[k] >= MIN_COUNT and k not in self.order]
        self.order += fresh
        assert batch.new_keys.tolist() == fresh
        expected = [self.order.index(k) + 1 if k in self.order else 0 for k in keys]
        assert (batch.rows[batch.inverse].tolist() if keys else []) == expected
        assert len(set(batch.rows.tolist())) == len(batch.rows)
        self.waiting.append((array, batch))

    @precondition(lambda self: self.waiting)
    @rule(seed=st.integers(0, 2**16), scale=st.sampled_from([0.0, 0.01, 1.0]))
    def learn(self, seed, scale):
        keys, batch = self.waiting.pop(0)
        self.table.materialise(batch)
        for key in batch.new_keys.tolist():
            self.rows[key] = ReferenceRow(self.table.lookup(np.array([key]))[0])
        g = np.random.default_rng(seed).normal(0, scale, (len(keys), DIM)).astype(np.float32)
        self.table.apply_gradients(batch, g)
        self.step += 1
        for row in batch.rows[batch.rows > 0].tolist():
            key = self.order[row - 1]
            total = g[keys == key].astype(np.float64).sum(axis=0)
            self.rows[key].learn(total, self.step, LEARNING_RATE, l21=L21)

    @rule(keys=st.lists(KEYS, max_size=6))
    def look_up(self, keys):
        vectors = self.table.lookup(np.array(keys, np.int64))
        assert vectors.shape == (len(keys), DIM)
        for key, vector in zip(keys, vectors, strict=True):
            row = self.rows.get(key)
            if row is None:
                assert (vector == 0).all()
            elif row.margin > 1e-4:
                np.testing.assert_allclose(vector, row.x, atol=2e-4)

    @precondition(lambda self: not self.waiting)
    @rule()
    def save_and_restore(self):
        with tempfile.TemporaryDirectory() as folder:
            self.table.save(Path(folder))
            self.table = new_table().restore(Path(folder))

    @invariant()
    def sizes_agree(self):
        assert len(self.table) == len(self.order)
        assert self.table.keys_seen == len(self.counts)
        assert self.table.keys().tolist() == self.order
        assert int(self.table.step) == self.step


TableMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestTableAgainstADictionary = TableMachine.TestCase
