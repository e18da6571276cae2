"""Fine-tuned dense weights: better than without, trained on what training saw, rows unchanged."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_fields import RECIPE, SCHEMA, write_planted_checkpoint, write_planted_day

from compression.export.write import export
from compression.model import CompactModel, read_compact
from compression.pruning import compress
from compression.settings import CompressionSettings
from compression.steps.fine_tune import FineTuning
from compression.steps.sequence import run_steps
from compression.steps.settings import FineTune
from compression.steps.step import read_state
from features.errors import InputError
from training.data.examples import heldout_start, read_examples
from training.evaluation.metrics import log_loss
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from training.packed.dense import unpacked
from validation.model.requests import read_requests

pytestmark = pytest.mark.slow

ROWS = 3000
LOSSY = [{"kind": "prune_rows", "by": "count", "keep": 0.4}, {"kind": "quantize", "form": "int4"}]
TUNED = [*LOSSY, {"kind": "fine_tune", "epochs": 2, "learning_rate": 1e-3}]


def settings(steps):
    return CompressionSettings.model_validate({"steps": steps})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A checkpoint, the day that it learned, and another day."""
    day, other = (write_planted_day(tmp_path_factory.mktemp("day"), ROWS, seed) for seed in (3, 4))
    return write_planted_checkpoint(tmp_path_factory.mktemp("checkpoint"), day), day, other


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def squeezed(planted, out, steps, day=None):
    out.mkdir()
    compress(planted[0], settings(steps), out, day or planted[1])
    return bytes_of(out)


def test_it_wins_back_a_part_of_what_pruning_lost(planted, tmp_path):
    examples, loss = read_examples(planted[2], SCHEMA), {}
    for name, steps in (("lossy", LOSSY), ("tuned", TUNED)):
        squeezed(planted, tmp_path / name, steps)
        loss[name] = log_loss(examples.label, Scorer.load(tmp_path / name).score(examples))
    whole = log_loss(examples.label, Scorer.load(planted[0]).score(examples))
    assert whole < loss["tuned"] < loss["lossy"] - 0.2 * (loss["lossy"] - whole)


def test_rows_stay_to_the_byte_and_the_checkpoint_is_not_touched(planted, tmp_path):
    before = bytes_of(planted[0])
    lossy, tuned = (
        squeezed(planted, tmp_path / name, steps)
        for name, steps in (("lossy", LOSSY), ("tuned", TUNED))
    )
    rows = [name for name in lossy if name.startswith("table/")]
    assert len(rows) == 3
    assert all(lossy[name] == tuned[name] for name in [*rows, "encodings.npz", "model.json"])
    assert lossy["dense.npz"] != tuned["dense.npz"]
    assert bytes_of(planted[0]) == before


def test_the_same_day_gives_the_same_bytes(planted, tmp_path):
    assert squeezed(planted, tmp_path / "once", TUNED) == squeezed(
        planted, tmp_path / "twice", TUNED
    )


def with_labels_turned(day, folder, first, last):
    """A day whose impressions from `first` to `last` have the other label and other values."""
    (folder / "impressions").mkdir(parents=True)
    table = pq.read_table(day / "impressions" / "part-00000.parquet")
    turned = (np.arange(ROWS) >= first) & (np.arange(ROWS) < last)
    label, signal = table["label"].to_numpy(), np.array(table["signal_0"].to_pylist(), object)
    columns = {
        "label": np.where(turned, 1 - label, label).astype(np.int8),
        "signal_0": np.where(turned, "other", signal),
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, folder / "impressions" / "part-00000.parquet")
    return folder


def test_the_held_out_slice_teaches_nothing(planted, tmp_path):
    start = heldout_start(ROWS, RECIPE.training.holdout_fraction)
    assert start == 2400
    tuned = squeezed(planted, tmp_path / "tuned", TUNED)
    heldout = with_labels_turned(planted[1], tmp_path / "heldout", start, ROWS)
    assert squeezed(planted, tmp_path / "a", TUNED, heldout) == tuned
    last_learned = with_labels_turned(planted[1], tmp_path / "learned", start - 1, start)
    assert squeezed(planted, tmp_path / "b", TUNED, last_learned)["dense.npz"] != tuned["dense.npz"]


def test_a_first_step_of_adam_goes_the_learning_rate_against_the_gradient(planted):
    model = CompactModel.of(read_checkpoint(planted[0]))
    training = model.description.training.model_copy(update={"batch_size": ROWS})
    state = read_state(
        replace(model, description=replace(model.description, training=training)), *planted[:2]
    )
    step = FineTuning(FineTune(learning_rate=0.01))
    after = step.apply(state, step.fit(state)).model.dense
    learned = read_examples(planted[1], SCHEMA).slice(0, 2400)
    slope = np.mean(
        Scorer(model.trained()).score(learned) - learned.label
    )  # of the mean log loss, by the bias
    assert after["bias"] == pytest.approx(model.dense["bias"] - 0.01 * np.sign(slope), abs=1e-5)
    moved = np.concatenate(
        [np.abs(after[name] - weight).ravel() for name, weight in unpacked(model.dense).items()]
    )
    assert np.median(moved) == pytest.approx(0.01, rel=1e-3)
    assert moved.max() <= 0.0101


@pytest.mark.parametrize("kind", ["related", "fusion", "grouped"])
def test_every_kind_of_model_learns_on_and_is_served_as_it_is_scored(
    kind, learned, partition, compare_served, tmp_path
):
    for name in ("lossy", "small", "export"):
        (tmp_path / name).mkdir()
    dropped = [
        {"kind": "drop_fields", "fields": ["price"]},
        {"kind": "product", "columns": 2, "codes": 16},
    ]
    compress(learned(kind), settings(dropped), tmp_path / "lossy")
    compress(
        learned(kind), settings([*dropped, {"kind": "fine_tune"}]), tmp_path / "small", partition
    )
    models = [read_compact(tmp_path / name) for name in ("lossy", "small")]
    for slab, before in models[0].slabs().items():
        assert models[1].slabs()[slab].rows().tobytes() == before.rows().tobytes()
    assert all(
        np.any(weight != models[1].dense[name])
        for name, weight in models[0].dense.items()
        if name.endswith("/kernel")
    )
    export(tmp_path / "small", tmp_path / "export")
    schema = models[1].description.schema
    expected = Scorer.load(tmp_path / "small").score(
        read_examples(partition, schema, models[1].description.relations)
    )
    report = compare_served(
        tmp_path / "export" / "saved_model", read_requests(partition, schema), expected, (7, 512)
    )
    assert report.max_abs_diff <= 1e-6


def test_without_impressions_it_is_refused(planted):
    state = read_state(CompactModel.of(read_checkpoint(planted[0])), planted[0])
    with pytest.raises(InputError, match="run stage `compress`"):
        run_steps(state, [FineTune()])
