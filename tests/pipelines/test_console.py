"""Formatting of values for people; text unchanged; errors on standard error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_days import DAYS, publish

from pipelines.cli import console
from pipelines.stages.stage import StageResult
from pipelines.store.artifacts import Store


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (False, "no"),
        (1234567, "1,234,567"),
        (0, "0"),
        (0.123456789, "0.12346"),
        (1e-9, "1e-09"),
        ("blessed", "blessed"),
    ],
)
def test_values(value, text):
    assert console.format_value(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2.5e9, "2.5 GB"),
        (7e12, "7.0 TB"),
    ],
)
def test_bytes(count, text):
    assert console.format_bytes(count) == text


@given(st.integers(0, 10**15))
def test_bytes_keep_two_figures(count):
    number, unit = console.format_bytes(count).split()
    size = float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert size == pytest.approx(count, rel=0.05)


def test_progress_goes_to_standard_output_unchanged(capsys):
    console.info("file [bold]a[/b].csv [/]")
    assert capsys.readouterr().out == "  file [bold]a[/b].csv [/]\n"


def test_an_error_goes_to_standard_error_and_is_not_wrapped(capsys):
    text = "training.batch_size: unknown key [/x] " + "long " * 60
    console.error(text)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {text}\n"


def test_a_table_shows_its_columns_and_every_row(capsys):
    console.table("2026-01-01", ("figure", "value"), [("rows", 12345), ("auc", None)])
    printed = capsys.readouterr().out
    assert "2026-01-01" in printed
    rows = [
        [cell.strip() for cell in line.split("│")[1:3]]
        for line in printed.splitlines()
        if line.startswith("│")
    ]
    assert rows == [["rows", "12,345"], ["auc", "–"]]


def test_brackets_in_a_table_are_text(capsys):
    console.table("workspace /data/[a]", ("[b]",), [("[/c] [d]",)])
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("[a]", "[b]", "[/c] [d]"))


@pytest.fixture
def version(tmp_path):
    figures = {
        "rows": 1200,
        "plot": {"a": 1},
        "auc": 0.71234567,
        "verdict": "blessed",
        "passed": True,
        "fifth": 5,
    }
    return publish(Store(tmp_path), "checkpoint", DAYS[0], **figures)


def test_an_outcome_shows_seconds_and_four_plain_figures(version, capsys):
    console.show_result(StageResult("train", version, False, 12.34))
    assert capsys.readouterr().out.split() == [
        "train",
        "12.3",
        "s",
        "auc",
        "0.71235",
        "fifth",
        "5",
        "passed",
        "yes",
        "rows",
        "1,200",
    ]


def test_an_outcome_that_was_there_says_so_and_no_more(version, capsys):
    console.show_result(StageResult("train", version, True, 0.01))
    assert capsys.readouterr().out.split() == ["train", "already", "committed"]


def test_a_heading_is_plain_in_a_log(capsys):
    console.heading("2026-01-01")
    assert capsys.readouterr().out == "2026-01-01\n"
