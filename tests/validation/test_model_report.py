"""The plots: what they are computed from, that they are written, and odd days."""

import struct

import numpy as np
import pytest

from features.errors import InputError
from validation.model.plots import plot_model

BYTES = {"trained": 9_000_000, "compressed": 3_000_000, "exported": 3_300_000}


def draw(rows=400, seed=0):
    draw = np.random.default_rng(seed)
    probability = draw.beta(1, 3, rows)
    return (draw.random(rows) < probability).astype(np.int8), probability.astype(np.float32)


def size(png):
    """Width and height in pixels, from the PNG header."""
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.slow
def test_each_picture_is_written_into_a_new_folder(tmp_path):
    label, probability = draw()
    models = {
        "exported model": probability,
        "champion": 1 - probability,
        "logistic regression": probability**2,
    }
    paths = plot_model(label, models, tmp_path / "plots", BYTES)
    assert [p.name for p in paths] == ["calibration.png", "roc.png", "scores.png", "bytes.png"]
    assert all(size(path) == (864, 624) for path in paths)


@pytest.mark.slow
def test_the_same_scores_give_the_same_bytes_and_other_scores_do_not(tmp_path):
    (label, probability), other = draw(), draw(seed=1)
    first, second = (
        plot_model(label, {"m": probability}, tmp_path / name, BYTES) for name in ("1", "2")
    )
    third = plot_model(other[0], {"m": other[1]}, tmp_path / "3")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(first, third, strict=False))


def test_without_sizes_there_is_no_picture_of_sizes(tmp_path):
    label, probability = draw()
    assert [p.name for p in plot_model(label, {"m": probability}, tmp_path)] == [
        "calibration.png",
        "roc.png",
        "scores.png",
    ]


ODD = [
    ("one impression", np.array([1]), np.array([0.5], np.float32)),
    ("no click", np.zeros(50), np.full(50, 0.1, np.float32)),
    ("only clicks", np.ones(50), np.full(50, 0.1, np.float32)),
    ("a NaN score", np.array([0, 1, 1]), np.array([0.1, np.nan, 0.3], np.float32)),
    ("only NaN scores", np.array([0, 1, 1]), np.full(3, np.nan, np.float32)),
    ("all scores zero", np.array([0, 1]), np.zeros(2, np.float32)),
]


@pytest.mark.parametrize(
    ("label", "probability"), [case[1:] for case in ODD], ids=[case[0] for case in ODD]
)
def test_an_odd_day_still_gets_its_pictures(tmp_path, label, probability):
    paths = plot_model(label, {"m": probability}, tmp_path, {"trained": 0, "exported": 5})
    assert [size(path) for path in paths] == [(864, 624)] * 4


def test_scores_of_other_impressions_are_refused(tmp_path):
    label, probability = draw()
    with pytest.raises(InputError, match=r"400 labels.*'champion': \(399,\)"):
        plot_model(label, {"m": probability, "champion": probability[:-1]}, tmp_path)
    with pytest.raises(InputError, match=r"models \[\]"):
        plot_model(label, {}, tmp_path)
    with pytest.raises(InputError, match="0 labels"):
        plot_model(label[:0], {"m": probability[:0]}, tmp_path)
