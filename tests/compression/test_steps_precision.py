"""Fewer bits: of rows, kernels and encodings; fewer hidden units."""

from dataclasses import replace

import numpy as np
import pytest
from step_models import by_key, made_state, state_of

from compression.steps.dense import DenseReduction, unit_scores
from compression.steps.quantize import EncodingPrecision, Quantization
from compression.steps.settings import Dense, FloatEncodings, Quantize, Widths
from compression.steps.widths import WidthReduction
from features.errors import InputError, UnsoundError
from training.evaluation.scoring import Scorer
from training.packed.dense import unpacked
from training.packed.matrix import Form


def applied(step, state):
    return step.apply(state, step.fit(state))


def forms(state, slab):
    return [band.matrix.form for band in state.model.tables[""].slabs[slab].bands]


@pytest.mark.parametrize(
    ("form", "width", "stored"),
    [("int8", 4, "float16"), ("int8", 5, "int8"), ("int4", 2, "float16")],
)
def test_a_band_takes_the_smaller_form_and_width_one_is_float16(form, width, stored):
    state = made_state(width=width)
    after = applied(Quantization(Quantize(form=form)), state)
    assert (forms(after, "deep"), forms(after, "wide")) == ([Form(stored)], [Form.FLOAT16])
    other = Form(form) if stored == "float16" else Form.FLOAT16
    from training.packed.rows import PackedSlab

    alternative = PackedSlab.of(state.model.tables[""].slabs["deep"].rows(), other)
    assert after.model.tables[""].slabs["deep"].nbytes <= alternative.nbytes


@pytest.mark.parametrize(("form", "levels"), [("int8", 255), ("int4", 15)])
def test_rows_are_within_half_a_step_and_zero_rows_exact(form, levels):
    state = made_state(width=6)
    before, after = (
        by_key(state, "deep"),
        by_key(applied(Quantization(Quantize(form=form)), state), "deep"),
    )
    for key, row in before.items():
        step = (row.max() - row.min()) / levels
        assert (
            np.abs(after[key] - row).max()
            <= 0.51 * step + 1.5 * levels * 2**-11 * step + 2**-11 * np.abs(row).max()
        )
        assert row.any() or not after[key].any()


def test_bands_keep_their_projections():
    state = applied(
        WidthReduction(Widths(quantiles=(0.5,), ranks=(1, 5))), made_state(rows=200, width=8)
    )
    after = applied(Quantization(Quantize(form="int8")), state)
    assert forms(after, "deep") == [Form.FLOAT16, Form.INT8]
    for old, new in zip(
        state.model.tables[""].slabs["deep"].bands,
        after.model.tables[""].slabs["deep"].bands,
        strict=True,
    ):
        np.testing.assert_array_equal(new.projection, old.projection)


def test_rows_that_are_not_finite_are_unsound():
    from training.packed.rows import PackedSlab

    state = made_state()
    for value, form in ((np.nan, "int8"), (1e30, "float16"), (1e30, "int4")):
        rows = np.full((60, 6), value, np.float32)
        with pytest.raises(UnsoundError, match="rows of deep"):
            applied(
                Quantization(Quantize(form=form)),
                state.with_slabs({"": {"deep": PackedSlab.of(rows)}}),
            )


def test_kernels_are_packed_and_everything_else_stays(checkpoint):
    state = state_of(checkpoint)
    for form in ("float16", "int8"):
        after = applied(DenseReduction(Dense(form=form)), state)
        for name, before in unpacked(state.model.dense).items():
            stored = after.model.dense[name]
            assert (getattr(stored, "form", None) == Form(form)) == (before.ndim == 2)
            np.testing.assert_allclose(unpacked(after.model.dense)[name], before, atol=0.01)
        assert after.model.nbytes < state.model.nbytes


@pytest.fixture(scope="module")
def layered(learned):
    """Models with hidden layers: without norm in a fusion, with batch norm, and with crosses."""
    return {kind: state_of(learned(kind)) for kind in ("related", "dcnv2", "fusion")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["related", "dcnv2", "fusion"])
def test_a_model_without_its_weakest_units_is_one_where_nothing_reads_them(
    kind, layered, trained_on
):
    state = layered[kind]
    step = DenseReduction(Dense(form="float32", relu=0.4))
    plan = step.fit(state)
    after = step.apply(state, plan)
    silent = unpacked(state.model.dense)
    for layer, stay in plan.units.items():
        part, _, number = layer.rpartition("/")
        reader = f"{part}/{int(number) + 1}/kernel" if int(number) == 0 else f"{part}/out"
        removed = np.setdiff1d(np.arange(len(silent[f"{layer}/bias"])), stay)
        assert len(removed) == round(0.4 * (len(removed) + len(stay))) > 0
        silent[reader] = silent[reader].copy()
        silent[reader][removed] = 0
    expected = Scorer(replace(state.model, dense=silent).trained()).score(trained_on)
    found = Scorer(after.model.trained()).score(trained_on)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert after.model.description.model.hidden == (7, 4)
    assert np.abs(expected - Scorer(state.model.trained()).score(trained_on)).max() > 1e-4


def test_dead_units_go_first_and_change_nothing(checkpoint, trained_on):
    state = state_of(checkpoint)
    dense = {name: weight.copy() for name, weight in unpacked(state.model.dense).items()}
    dense["deep/0/kernel"][:, 3], dense["deep/0/bias"][3] = 0, 0  # reads nothing
    dense["deep/1/kernel"][8] = 0  # is read by nothing
    dense["deep/out"][2] = 0
    model = replace(state.model, dense=dense)
    step = DenseReduction(Dense(form="float32", relu=2 / 12))
    plan = step.fit(replace(state, model=model))
    assert sorted(set(range(12)) - set(plan.units["deep/0"])) == [3, 8]
    assert sorted(set(range(7)) - set(plan.units["deep/1"])) == [2]
    found = Scorer(step.apply(replace(state, model=model), plan).model.trained()).score(trained_on)
    np.testing.assert_allclose(found, Scorer(model.trained()).score(trained_on), atol=1e-6)


def test_the_score_is_what_a_unit_reads_times_what_reads_it(checkpoint):
    weights = unpacked(state_of(checkpoint).model.dense)
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
    state = made_state()
    description = state.model.description
    other = replace(description, model=description.model.model_copy(update=changes))
    with pytest.raises(InputError, match=message):
        DenseReduction(Dense(relu=0.5)).fit(
            replace(state, model=replace(state.model, description=other))
        )


def test_encodings_become_half_precision(checkpoint):
    state = state_of(checkpoint)
    after = applied(EncodingPrecision(FloatEncodings()), state)
    (name, before), (_, found) = (
        next(iter(state.model.encodings.items())),
        next(iter(after.model.encodings.items())),
    )
    assert EncodingPrecision(FloatEncodings()).fit(state).relations == (name,)
    for old, new in ((before.left, found.left), (before.right, found.right)):
        np.testing.assert_array_equal(new.vectors, old.vectors.astype(np.float16))
        np.testing.assert_array_equal(new.biases, old.biases.astype(np.float16))
        np.testing.assert_array_equal(new.keys, old.keys)
    nodes = before.rows
    assert state.model.nbytes - after.model.nbytes == nodes * 2 * (3 + 1)
