"""Any sequence of the table's methods against a dictionary.

The dictionary has no preparation: a batch changes it only when it is trained on.
"""

import tempfile
from pathlib import Path

import numpy as np
from group_adam_reference import ReferenceRow
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from elastic_embeddings import (
    CountAdmission,
    ElasticTable,
    Eviction,
    GroupAdam,
    Idle,
    LeastFrequent,
    SlabSpec,
    ZeroRows,
)

MIN_COUNT, LEARNING_RATE, L21, DIM = 2, 0.1, 0.02, 2
SPEC = SlabSpec(DIM, GroupAdam(learning_rate=LEARNING_RATE, l21=L21), 0.1)
KEYS = st.one_of(st.integers(-4, 4), st.sampled_from([-(2**63), 2**63 - 1, 2**40]))


def new_table():
    return ElasticTable(SPEC, CountAdmission(MIN_COUNT), seed=3)


class TableMachine(RuleBasedStateMachine):
    """`counts`, `seen`, `rows` are trained state; `waiting` are the pending batches."""

    def __init__(self):
        super().__init__()
        self.table = new_table()
        self.counts, self.seen, self.rows, self.step = {}, {}, {}, 0
        self.waiting = []
        self.folder = tempfile.TemporaryDirectory()
        self.chain, self.base = [], None

    def teardown(self):
        self.folder.cleanup()

    @rule(keys=st.lists(KEYS, max_size=12), ahead=st.booleans())
    def prepare(self, keys, ahead):
        array = np.array(keys, np.int64)
        self.waiting.append((array, self.table.prepare(array, ahead=ahead)))

    @precondition(lambda self: self.waiting)
    @rule(
        seed=st.integers(0, 2**16),
        scale=st.sampled_from([0.0, 0.01, 1.0]),
        passed=st.integers(0, 2),
    )
    def learn(self, seed, scale, passed):
        keys, batch = self.waiting.pop(min(passed, len(self.waiting) - 1))
        self.waiting = [later for later in self.waiting if later[1].number > batch.number]
        initial = dict(zip(keys.tolist(), self.begun_vectors(batch), strict=True))
        g = np.random.default_rng(seed).normal(0, scale, (len(keys), DIM)).astype(np.float32)
        self.table.apply_gradients(batch, g)
        self.step += 1
        for key in dict.fromkeys(keys.tolist()):
            self.learn_key(key, keys, g, initial)

    def begun_vectors(self, batch):
        return self.table.gather(self.table.begin(batch))

    def learn_key(self, key, keys, g, initial):
        self.counts[key] = self.counts.get(key, 0) + int((keys == key).sum())
        self.seen[key] = self.step
        if key not in self.rows and self.counts[key] >= MIN_COUNT:
            self.rows[key] = ReferenceRow(initial[key])
        if key in self.rows:
            self.rows[key].learn(
                g[keys == key].astype(np.float64).sum(axis=0), self.step, LEARNING_RATE, l21=L21
            )

    @rule(keys=st.lists(KEYS, max_size=6))
    def look_up(self, keys):
        vectors = self.table.lookup(np.array(keys, np.int64))
        assert vectors.shape == (len(keys), DIM)
        expected_new = {k for _, batch in self.waiting for k in batch.new_keys.tolist()}
        for key, vector in zip(keys, vectors, strict=True):
            row = self.rows.get(key)
            if row is None:
                assert (vector == 0).all() or key in expected_new
            elif row.margin > 1e-4:
                np.testing.assert_allclose(vector, row.x, atol=2e-4)

    @rule(policy=st.sampled_from(["idle", "zero", "rare"]))
    def evict(self, policy):
        held = {k for keys, batch in self.waiting for k in keys.tolist() if self.is_held(batch)}
        zero = {k for k in self.rows if not self.table.lookup(np.array([k])).any()}
        chosen = {
            "idle": lambda: {k for k in self.counts if self.seen[k] <= self.step - 3},
            "zero": lambda: zero,
            "rare": lambda: set(self.by_worth()[: max(0, len(self.rows) - 3)]),
        }[policy]()
        policies = {"idle": Idle(steps=3), "zero": ZeroRows(), "rare": LeastFrequent(3)}
        deleted = chosen - held
        assert self.table.evict(Eviction((policies[policy],))) == len(deleted)
        for key in deleted:
            del self.counts[key], self.seen[key]
            self.rows.pop(key, None)

    def is_held(self, batch):
        return any(
            p.visible for p in self.table._pending.batches() if p.batch.number == batch.number
        )

    def by_worth(self):
        order = list(self.counts)
        return sorted(self.rows, key=lambda k: (self.counts[k], self.seen[k], -order.index(k)))

    @rule()
    def compact(self):
        self.table.compact()

    @rule()
    def discard(self):
        self.table.discard()
        self.waiting = []

    @rule()
    def save_and_restore_elsewhere(self):
        path = Path(self.folder.name) / "table"
        self.table.save(path)
        assert_same_learned(new_table().restore(path), self)

    @precondition(lambda self: not self.waiting)
    @rule()
    def go_on_from_a_save(self):
        self.table.save(Path(self.folder.name) / "table")
        self.table = new_table().restore(Path(self.folder.name) / "table")
        self.base = None

    @rule()
    def save_the_base_of_deltas(self):
        self.base, self.chain = Path(self.folder.name) / "base", []
        self.table.save(self.base)
        self.base_step = self.step

    @precondition(lambda self: self.base and len(self.chain) < 4)
    @rule()
    def save_a_delta_and_compare_with_a_full_save(self):
        path = Path(self.folder.name) / f"delta{len(self.chain)}"
        self.table.save_delta(path, since=self.base_step)
        self.chain.append(path)
        self.base_step = self.step
        self.table.save(Path(self.folder.name) / "full")
        replayed = new_table().restore(self.base)
        for delta in self.chain:
            replayed.apply_delta(delta)
        replayed.save(Path(self.folder.name) / "replayed")
        assert contents(Path(self.folder.name) / "replayed") == contents(
            Path(self.folder.name) / "full"
        )

    @invariant()
    def sizes_agree(self):
        assert_same_learned(self.table, self)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_learned(table, machine):
    assert len(table) == len(machine.rows)
    assert table.keys_seen == len(machine.counts)
    assert table.keys().tolist() == [key for key in machine.counts if key in machine.rows]
    assert table.step == machine.step


TableMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestTableAgainstADictionary = TableMachine.TestCase
