"""Trained widths: gradients against differences, the effect of the price, rows unchanged."""

import numpy as np
import pytest
from planted_fields import RECIPE, write_planted_checkpoint, write_planted_day
from pydantic import ValidationError

from compression.export.write import export
from compression.model import CompactModel, read_compact
from compression.pruning import compress
from compression.settings import CompressionSettings
from compression.steps.settings import Widths
from compression.steps.step import RowStats, read_state
from compression.steps.width_masks import full_masks
from compression.steps.widths import WidthReduction
from features.errors import InputError
from training.data.examples import read_examples
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import read_checkpoint
from validation.model.requests import read_requests

ROWS = 3000


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    day = write_planted_day(tmp_path_factory.mktemp("day"), ROWS, 3)
    return write_planted_checkpoint(tmp_path_factory.mktemp("checkpoint"), day), day


def drawn_masks(price=0.7):
    draw = np.random.default_rng(4)
    rows, keys, counts = (
        draw.normal(size=(60, 5)).astype(np.float32),
        draw.permutation(60) * 7,
        draw.integers(1, 30, 60),
    )
    stats = RowStats(counts, np.zeros(60, np.int64), np.zeros(60, np.int16), ("a",))
    return full_masks(rows, keys.astype(np.int64), stats, (10, 20), price), rows, keys, draw


def softened(masks, rows, logits):
    """The vectors [m, d] by soft masks, and the cost of the widths: by other steps, in float64."""
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    kept = np.stack([chance[:, j:].sum(axis=1) for j in range(chance.shape[1])], axis=1)
    band = masks.band[rows]
    turned = masks.turned[rows].astype(np.float64) * kept[band]
    vectors = np.einsum("md,mcd->mc", turned, masks.bases[band].astype(np.float64))
    return vectors, np.sum(masks.price * chance)


def test_the_slope_is_that_of_the_soft_masks():
    masks, _, _, draw = drawn_masks()
    masks.logits = draw.normal(size=masks.logits.shape)
    rows, slope = (
        draw.integers(0, 61, 200).astype(np.int32),
        draw.normal(size=(200, 5)).astype(np.float32),
    )
    found = masks.gradient(rows, slope)
    for place in np.ndindex(*masks.logits.shape):
        ends = []
        for step in (1e-5, -1e-5):
            logits = masks.logits.copy()
            logits[place] += step
            vectors, cost = softened(masks, rows, logits)
            ends.append(np.sum(vectors * slope) + cost)
        assert found[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-5)


def test_masks_of_full_width_leave_rows_as_they_are_and_narrow_ones_their_best_columns():
    masks, rows, keys, _ = drawn_masks()
    order = np.argsort(keys)
    assert masks.widths().tolist() == [5, 5, 5]
    every = np.arange(61, dtype=np.int32)
    np.testing.assert_allclose(masks.vectors(every)[1:], rows[order], atol=1e-5)
    masks.logits[:, 1] = 9.0
    narrow = masks.vectors(every)
    assert not narrow[0].any()
    assert all(
        np.linalg.matrix_rank(narrow[1:][masks.band[1:] == band], 1e-4) == 2 for band in range(3)
    )


def test_all_columns_of_all_bands_cost_the_price():
    masks, _, _, _ = drawn_masks(price=0.7)
    assert masks.price[:, -1].sum() == pytest.approx(0.7)
    assert masks.price[0, 1] == pytest.approx(2 * masks.price[0, 0])


def ranks_for(planted, price, **given):
    state = read_state(CompactModel.of(read_checkpoint(planted[0])), *planted)
    return (
        WidthReduction(Widths(price=price, epochs=4, **given)).fit(state).tables[""].ranks["deep"]
    )


@pytest.mark.slow
def test_a_higher_price_leaves_fewer_columns(planted):
    dear, middle, cheap = (ranks_for(planted, price)[0] for price in (10.0, 0.05, 1e-9))
    assert dear == 1
    assert 1 <= middle <= cheap
    assert cheap == RECIPE.model.dim


def test_what_is_learned_is_served_and_the_same_twice(planted, compare_served, tmp_path):
    steps = {
        "steps": [
            {"kind": "widths", "quantiles": [0.5], "price": 10.0, "epochs": 4},
            {"kind": "quantize", "form": "int8"},
        ]
    }
    contents = []
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        compress(planted[0], CompressionSettings.model_validate(steps), tmp_path / name, planted[1])
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
    model = read_compact(tmp_path / "once")
    assert [
        band.matrix.width for band in model.slabs()["deep"].bands if band.projection is not None
    ]
    (tmp_path / "export").mkdir()
    export(tmp_path / "once", tmp_path / "export")
    schema = model.description.schema
    expected = Scorer.load(tmp_path / "once").score(read_examples(planted[1], schema))
    report = compare_served(
        tmp_path / "export" / "saved_model", read_requests(planted[1], schema), expected, (512,)
    )
    assert report.max_abs_diff <= 1e-6
    whole = read_checkpoint(planted[0])
    assert all(np.array_equal(weight, whole.dense[name]) for name, weight in model.dense.items())


def test_without_impressions_it_is_refused(planted):
    state = read_state(CompactModel.of(read_checkpoint(planted[0])), planted[0])
    with pytest.raises(InputError, match="run stage `compress`"):
        WidthReduction(Widths(price=0.1)).fit(state)


@pytest.mark.parametrize(
    "given", [{}, {"price": 0.1, "energy": 0.9}, {"price": 0.1, "ranks": (2,)}, {"price": 0.0}]
)
def test_one_way_to_the_widths_is_named(given):
    with pytest.raises(ValidationError, match="price"):
        Widths(**given)


@pytest.mark.parametrize(
    ("steps", "learns"),
    [
        ([], False),
        ([{"kind": "widths", "energy": 0.9}, {"kind": "quantize"}], False),
        ([{"kind": "widths", "price": 0.1}], True),
        ([{"kind": "fine_tune"}], True),
    ],
)
def test_the_day_is_read_by_steps_that_learn_alone(steps, learns):
    assert CompressionSettings.model_validate({"steps": steps}).trains is learns
