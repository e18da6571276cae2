"""Fewer bits: of rows, kernels and encodings; fewer hidden units."""

from dataclasses import replace

import numpy as np
import pytest
from step_models import by_key, made_work, work_of

from compression.steps.dense import DenseReduction, unit_scores
from compression.steps.encodings import EncodingPrecision
from compression.steps.quantize import Quantization
from compression.steps.settings import Dense, FloatEncodings, Quantize, Widths
from compression.steps.widths import WidthReduction
from features.errors import InputError, UnsoundError
from training.evaluation.scoring import Scorer
from training.packed.dense import unpacked
from training.packed.matrix import Form


def applied(step, work):
    return step.apply(work, step.fit(work))


def forms(work, slab):
    return [band.matrix.form for band in work.model.tables[""].slabs[slab].bands]


@pytest.mark.parametrize(
    ("form", "width", "stored"),
    [("int8", 4, "float16"), ("int8", 5, "int8"), ("int4", 2, "float16")],
)
def test_a_band_takes_the_smaller_form_and_width_one_is_float16(form, width, stored):
    work = made_work(width=width)
    after = applied(Quantization(Quantize(form=form)), work)
    assert (forms(after, "deep"), forms(after, "wide")) == ([Form(stored)], [Form.FLOAT16])
    other = Form(form) if stored == "float16" else Form.FLOAT16
    from training.packed.slab import PackedSlab

    alternative = PackedSlab.of(work.model.tables[""].slabs["deep"].rows(), other)
    assert after.model.tables[""].slabs["deep"].nbytes <= alternative.nbytes


@pytest.mark.parametrize(("form", "levels"), [("int8", 255), ("int4", 15)])
def test_rows_are_within_half_a_step_and_zero_rows_exact(form, levels):
    work = made_work(width=6)
    before, after = (
        by_key(work, "deep"),
        by_key(applied(Quantization(Quantize(form=form)), work), "deep"),
    )
    for key, row in before.items():
        step = (row.max() - row.min()) / levels
        assert (
            np.abs(after[key] - row).max()
            <= 0.51 * step + 1.5 * levels * 2**-11 * step + 2**-11 * np.abs(row).max()
        )
        assert row.any() or not after[key].any()


def test_bands_keep_their_projections():
    work = applied(
        WidthReduction(Widths(quantiles=(0.5,), ranks=(1, 5))), made_work(rows=200, width=8)
    )
    after = applied(Quantization(Quantize(form="int8")), work)
    assert forms(after, "deep") == [Form.FLOAT16, Form.INT8]
    for old, new in zip(
        work.model.tables[""].slabs["deep"].bands,
        after.model.tables[""].slabs["deep"].bands,
        strict=True,
    ):
        np.testing.assert_array_equal(new.projection, old.projection)


def test_rows_that_are_not_finite_are_unsound():
    from training.packed.slab import PackedSlab

    work = made_work()
    for value, form in ((np.nan, "int8"), (1e30, "float16"), (1e30, "int4")):
        rows = np.full((60, 6), value, np.float32)
        with pytest.raises(UnsoundError, match="rows of deep"):
            applied(
                Quantization(Quantize(form=form)),
                work.with_slabs({"": {"deep": PackedSlab.of(rows)}}),
            )


def test_kernels_are_packed_and_everything_else_stays(checkpoint):
    work = work_of(checkpoint)
    for form in ("float16", "int8"):
        after = applied(DenseReduction(Dense(form=form)), work)
        for name, before in unpacked(work.model.dense).items():
            stored = after.model.dense[name]
            assert (getattr(stored, "form", None) == Form(form)) == (before.ndim == 2)
            np.testing.assert_allclose(unpacked(after.model.dense)[name], before, atol=0.01)
        assert after.model.nbytes < work.model.nbytes


@pytest.fixture(scope="module")
def layered(learned):
    """Works of models with hidden layers: without norm in a fusion, with batch norm, and with crosses."""
    return {kind: work_of(learned(kind)) for kind in ("related", "dcnv2", "fusion")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["related", "dcnv2", "fusion"])
def test_a_model_without_its_weakest_units_is_one_where_nothing_reads_them(
    kind, layered, trained_on
):
    work = layered[kind]
    step = DenseReduction(Dense(form="float32", relu=0.4))
    plan = step.fit(work)
    after = step.apply(work, plan)
    silent = unpacked(work.model.dense)
    for layer, stay in plan.units.items():
        part, _, number = layer.rpartition("/")
        reader = f"{part}/{int(number) + 1}/kernel" if int(number) == 0 else f"{part}/out"
        gone = np.setdiff1d(np.arange(len(silent[f"{layer}/bias"])), stay)
        assert len(gone) == round(0.4 * (len(gone) + len(stay))) > 0
        silent[reader] = silent[reader].copy()
        silent[reader][gone] = 0
    expected = Scorer(replace(work.model, dense=silent).trained()).score(trained_on)
    found = Scorer(after.model.trained()).score(trained_on)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert after.model.description.model.hidden == (7, 4)
    assert np.abs(expected - Scorer(work.model.trained()).score(trained_on)).max() > 1e-4


def test_dead_units_go_first_and_change_nothing(checkpoint, trained_on):
    work = work_of(checkpoint)
    dense = {name: weight.copy() for name, weight in unpacked(work.model.dense).items()}
    dense["deep/0/kernel"][:, 3], dense["deep/0/bias"][3] = 0, 0  # reads nothing
    dense["deep/1/kernel"][8] = 0  # is read by nothing
    dense["deep/out"][2] = 0
    model = replace(work.model, dense=dense)
    step = DenseReduction(Dense(form="float32", relu=2 / 12))
    plan = step.fit(replace(work, model=model))
    assert sorted(set(range(12)) - set(plan.units["deep/0"])) == [3, 8]
    assert sorted(set(range(7)) - set(plan.units["deep/1"])) == [2]
    found = Scorer(step.apply(replace(work, model=model), plan).model.trained()).score(trained_on)
    np.testing.assert_allclose(found, Scorer(model.trained()).score(trained_on), atol=1e-6)


def test_the_score_is_what_a_unit_reads_times_what_reads_it(checkpoint):
    weights = unpacked(work_of(checkpoint).model.dense)
    kernel, bias, following = (
        weights["deep/0/kernel"],
        weights["deep/0/bias"],
        weights["deep/1/kernel"],
    )
    expected = [
        np.hypot(np.linalg.norm(kernel[:, i]), bias[i]) * np.linalg.norm(following[i])
        for i in range(12)
    ]
    np.testing.assert_allclose(unit_scores(weights, "deep", 0), expected, rtol=1e-5)
    last = [
        np.hypot(np.linalg.norm(following[:, i]), weights["deep/1/bias"][i])
        * abs(weights["deep/out"][i])
        for i in range(7)
    ]
    np.testing.assert_allclose(unit_scores(weights, "deep", 1), last, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm": "layer"}, "norm: layer"), ({"kind": "fm"}, "a fm here has none")],
)
def test_units_that_cannot_go_are_refused(changes, message):
    work = made_work()
    told = work.model.description
    other = replace(told, model=told.model.model_copy(update=changes))
    with pytest.raises(InputError, match=message):
        DenseReduction(Dense(relu=0.5)).fit(
            replace(work, model=replace(work.model, description=other))
        )


def test_encodings_become_half_precision(checkpoint):
    work = work_of(checkpoint)
    after = applied(EncodingPrecision(FloatEncodings()), work)
    (name, before), (_, found) = (
        next(iter(work.model.encodings.items())),
        next(iter(after.model.encodings.items())),
    )
    assert EncodingPrecision(FloatEncodings()).fit(work).relations == (name,)
    for old, new in ((before.left, found.left), (before.right, found.right)):
        np.testing.assert_array_equal(new.vectors, old.vectors.astype(np.float16))
        np.testing.assert_array_equal(new.biases, old.biases.astype(np.float16))
        np.testing.assert_array_equal(new.keys, old.keys)
    nodes = before.rows
    assert work.model.nbytes - after.model.nbytes == nodes * 2 * (3 + 1)
