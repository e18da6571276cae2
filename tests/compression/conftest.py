"""A checkpoint trained by hand on an awkward day, its compressed form and its export."""

import shutil
import sys
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from awkward_day import HELDOUT, MODEL, RELATIONS, ROWS, SCHEMA, draw_columns, write_partition

from training.settings import TrainingSettings


@pytest.fixture(scope="session")
def partition(tmp_path_factory):
    return write_partition(tmp_path_factory.mktemp("partition"), draw_columns(ROWS, seed=1))


@pytest.fixture(scope="session")
def trained_on(partition):
    from training.data.examples import read_examples

    return read_examples(partition, SCHEMA, RELATIONS)


@pytest.fixture(scope="session")
def checkpoint(trained_on, tmp_path_factory):
    """A checkpoint with trained rows, rows that the optimizer zeroed, and keys without a row."""
    from training.data.arrays import write_arrays
    from training.data.scalers import Scaler
    from training.fit.checkpoints import Description, write_description
    from training.models.ctr import CtrModel
    from training.models.encoding_inputs import write_encodings

    folder = tmp_path_factory.mktemp("checkpoint")
    draw = np.random.default_rng(2)
    model = CtrModel(SCHEMA, MODEL, RELATIONS, seed=3)
    dense = {
        name: (w + draw.normal(0, 0.2, w.shape)).astype(np.float32)
        for name, w in model.weights().items()
    }
    write_arrays(folder / "dense.npz", dense)
    write_arrays(folder / "optimizer.npz", {f"{name}/m": w for name, w in dense.items()})
    _table(trained_on, draw).save(folder / "table")
    write_encodings(
        folder / "encodings.npz", {RELATIONS[0].name: _encoding(trained_on.pairs[:, 0], draw)}
    )
    scalers = {"price": Scaler(2.5, 4.0), "age": Scaler(-0.5, 0.3)}
    write_description(
        folder, Description(SCHEMA, MODEL, TrainingSettings(), scalers, RELATIONS, step=41)
    )
    return folder


def _table(examples, draw):
    from elastic_embeddings import CountAdmission, ElasticTable, GroupAdam, SlabSpec

    specs = {
        "wide": SlabSpec(1, GroupAdam(0.05), 0.0),
        "deep": SlabSpec(MODEL.dim, GroupAdam(0.05), 0.3),
    }
    table = ElasticTable(specs, CountAdmission(3), seed=4)
    keys = np.concatenate([examples.keys.ravel(), *(values.values for values in examples.lists)])
    batch = table.prepare(keys)
    table.apply_gradients(
        batch, {name: draw.normal(0, 1, (len(keys), spec.dim)) for name, spec in specs.items()}
    )
    zeroed = np.arange(2, len(table), 5, dtype=np.int32)
    for slab in table.slabs.values():
        _zero(slab, zeroed)
    _zero(
        table.slabs["wide"], np.array([4, 6], np.int32)
    )  # zero in one slab is not zero in every slab
    return table


def _zero(slab, rows):
    slab.write(
        rows, np.zeros((len(rows), slab.spec.dim), np.float32), slab.read_state(rows, slice(None))
    )


def _encoding(pairs, draw):
    from training.models.encoding_inputs import Encoding, sorted_nodes

    sides = [np.unique(keys)[::2] for keys in pairs.T]
    left, right = (
        sorted_nodes(k, draw.normal(0, 0.5, (len(k), 3)), draw.normal(0, 0.2, len(k)))
        for k in sides
    )
    return Encoding(left, right, -1.25)


@pytest.fixture(scope="session")
def compressed(checkpoint, tmp_path_factory):
    from compression.pruning import compress
    from compression.settings import CompressionSettings

    folder = tmp_path_factory.mktemp("compressed")
    compress(checkpoint, CompressionSettings(), folder)
    return folder


@pytest.fixture(scope="session")
def exported(compressed, tmp_path_factory):
    from compression.export.write import export

    folder = tmp_path_factory.mktemp("export")
    return folder, export(compressed, folder)


@pytest.fixture(scope="session")
def judged_checkpoint(checkpoint, trained_on, tmp_path_factory):
    """The checkpoint with a held-out slice whose labels follow its own probabilities."""
    from training.evaluation.scoring import Scorer

    folder = tmp_path_factory.mktemp("judged") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    last = trained_on.slice(len(trained_on) - HELDOUT, len(trained_on))
    scored = Scorer.load(checkpoint).score(last)
    label = (np.random.default_rng(8).random(HELDOUT) < scored).astype(np.int8)
    users = pa.array([f"u{code}" for code in last.user])
    columns = {"record_id": last.record_id, "user": users, "label": label, "p_model": scored}
    baseline = np.full(HELDOUT, 0.3, np.float32)
    pq.write_table(pa.table({**columns, "p_baseline": baseline}), folder / "heldout.parquet")
    return folder


@pytest.fixture(scope="session")
def learned(trained_on, tmp_path_factory):
    """Checkpoints by kind of model (`step_models.KINDS`), trained at its first use; read-only."""
    from step_models import KINDS, learn_checkpoint

    @cache
    def checkpoint_of(kind):
        return learn_checkpoint(trained_on, KINDS[kind], tmp_path_factory.mktemp(kind))

    return checkpoint_of


@pytest.fixture
def warm_serving(warm_python, monkeypatch):
    """Exports that a test serves in a new process are served in a fork of a warm interpreter."""
    monkeypatch.setattr(sys, "executable", str(warm_python))
