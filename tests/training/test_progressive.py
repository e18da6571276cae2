"""Figures by hour, in JSON and as a picture."""

import json
import math

import numpy as np
import pytest
from matplotlib.image import imread

from training.evaluation.progressive import (
    HourFigures,
    by_hour,
    plot_progressive,
    progressive_figures,
    write_progressive,
)

NAN = math.nan
HOUR = np.array([3, 3, 3, 3, 7, 7, 9])
LABEL = np.array([0, 1, 1, 0, 1, 0, 1], np.float32)
PROBABILITY = np.array([0.5, 0.25, 0.75, 0.5, NAN, 0.25, NAN], np.float32)


def test_figures_by_hand():
    third, seventh, ninth = by_hour(HOUR, LABEL, PROBABILITY)
    assert (third.hour, third.rows, third.scored, third.clicks) == (3, 4, 4, 2)
    assert third.auc == 0.5  # .75 is above both non-clicks, .25 below both
    assert third.log_loss == pytest.approx(
        -(2 * math.log(0.5) + math.log(0.25) + math.log(0.75)) / 4
    )
    assert third.calibration == 1.0
    assert (seventh.hour, seventh.rows, seventh.scored, seventh.clicks) == (7, 2, 1, 0)
    assert seventh.log_loss == pytest.approx(-math.log(0.75))
    assert math.isnan(seventh.auc)
    assert math.isnan(seventh.calibration)
    assert (ninth.rows, ninth.scored) == (1, 0)
    assert math.isnan(ninth.log_loss)


def test_the_day_is_that_of_the_scored_impressions():
    figures = progressive_figures(LABEL, PROBABILITY)
    scored = ~np.isnan(PROBABILITY)
    assert figures == progressive_figures(LABEL[scored], PROBABILITY[scored])
    assert figures["auc_progressive"] == pytest.approx(
        3.5 / 6
    )  # of six pairs .75 wins three, .25 ties one and loses two
    assert all(
        math.isnan(value)
        for value in progressive_figures(LABEL, np.full(7, NAN, np.float32)).values()
    )


def test_the_file_is_strict_json(tmp_path):
    write_progressive(
        by_hour(HOUR, LABEL, PROBABILITY), "Asia/Shanghai", "hour", tmp_path / "p.json"
    )
    document = json.loads(
        (tmp_path / "p.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert (document["timezone"], document["learn_by"]) == ("Asia/Shanghai", "hour")
    assert [hour["hour"] for hour in document["hours"]] == [3, 7, 9]
    assert document["hours"][2] == {
        "hour": 9, "rows": 1, "scored": 0, "clicks": 0,
        "auc": None, "log_loss": None, "calibration": None,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "hours", [by_hour(HOUR, LABEL, PROBABILITY), (HourFigures(0, 5, 0, 0, NAN, NAN, NAN),)]
)
def test_a_picture_is_drawn_with_and_without_scores(tmp_path, hours):
    path = plot_progressive(hours, "UTC", tmp_path / "plots" / "p.png")
    picture = imread(path)
    assert min(picture.shape[:2]) > 500
    assert picture[..., :3].std() > 0.01


def test_the_same_figures_give_the_same_picture(tmp_path):
    paths = [
        plot_progressive(by_hour(HOUR, LABEL, PROBABILITY), "UTC", tmp_path / name)
        for name in ("a.png", "b.png")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
