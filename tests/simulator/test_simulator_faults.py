"""Each fault appears in the count that was asked for, and nothing else changes."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from features.errors import InputError
from simulator.log import simulate_day
from simulator.settings import FileFault, MissingColumn, RecordFault, ShiftedCtr, SimulatorSettings

DAY, OTHER = date(2026, 1, 2), date(2026, 1, 3)
CLEAN = SimulatorSettings(impressions_per_day=4_321, users=2_000, items=300, chunk_rows=1_000)


def asked(*faults):
    return CLEAN.model_copy(update={"faults": faults})


def frame(settings, folder, day=DAY):
    return pa.concat_tables(
        pq.read_table(f) for f in simulate_day(settings, day, folder).files
    ).to_pandas()


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return frame(CLEAN, tmp_path_factory.mktemp("clean"))


def same(left, right):
    return left.reset_index(drop=True).equals(right.reset_index(drop=True))


def test_duplicates_are_exact_copies_in_the_count_asked_for(tmp_path, clean):
    broken = frame(asked(RecordFault(kind="duplicate", rate=0.01)), tmp_path)
    assert broken.duplicated().sum() == 43
    assert same(broken.drop_duplicates(), clean)


def test_late_records_are_impressions_of_the_day_before(tmp_path, clean):
    broken = frame(asked(RecordFault(kind="late", rate=0.02)), tmp_path)
    days = broken.timestamp_ms.map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC).date())
    late = days == date(2026, 1, 1)
    assert late.sum() == 86
    assert set(days[~late]) == {DAY}
    assert same(broken[~late], clean[~late])
    yesterday = frame(CLEAN, tmp_path / "yesterday", date(2026, 1, 1))
    assert not set(broken.impression_id[late]) & set(yesterday.impression_id)
    assert broken.impression_id.is_unique


def test_malformed_timestamps_are_text_that_is_no_epoch(tmp_path, clean):
    broken = frame(asked(RecordFault(kind="bad_timestamp", rate=0.05)), tmp_path)
    bad = ~broken.timestamp_ms.str.fullmatch(r"\d+")
    assert bad.sum() == 216
    assert (broken.timestamp_ms[~bad].astype("int64") == clean.timestamp_ms[~bad]).all()
    assert same(broken.drop(columns="timestamp_ms"), clean.drop(columns="timestamp_ms"))


def test_malformed_labels_are_text_that_is_neither_0_nor_1(tmp_path, clean):
    settings = asked(RecordFault(kind="bad_label", rate=0.05))
    broken = frame(settings, tmp_path)
    bad = ~broken.click.isin(["0", "1"])
    assert bad.sum() == 216
    assert (broken.click[~bad].astype(int) == clean.click[~bad]).all()
    assert simulate_day(settings, DAY, tmp_path).clicks == clean.click[~bad].sum()


def test_missing_labels_are_null(tmp_path, clean):
    broken = frame(asked(RecordFault(kind="missing_label", rate=0.1)), tmp_path)
    assert broken.click.isna().sum() == 432
    assert same(broken.drop(columns="click"), clean.drop(columns="click"))


def test_no_record_gets_two_faults(tmp_path):
    kinds = ("duplicate", "late", "bad_timestamp", "bad_label", "missing_label")
    broken = frame(asked(*(RecordFault(kind=kind, rate=0.2) for kind in kinds)), tmp_path)
    times = broken.timestamp_ms
    late = times.str.fullmatch(r"\d+") & (
        times.str.slice(0, 13).where(times.str.fullmatch(r"\d+"), "9" * 13).astype("int64")
        < 1_767_312_000_000
    )
    marks = [
        broken.duplicated(),
        late,
        ~times.str.fullmatch(r"\d+"),
        broken.click.notna() & ~broken.click.isin(["0", "1"]),
        broken.click.isna(),
    ]
    assert [int(mark.sum()) for mark in marks] == [864] * 5
    assert sum(mark.astype(int) for mark in marks).max() == 1


def test_two_faults_of_a_kind_add_up(tmp_path):
    faults = (
        RecordFault(kind="duplicate", rate=0.01),
        RecordFault(kind="duplicate", rate=0.02, days=(DAY,)),
    )
    assert frame(asked(*faults), tmp_path).duplicated().sum() == 43 + 86


def test_faults_keep_to_their_days(tmp_path, clean):
    fault = RecordFault(kind="duplicate", rate=0.5, days=(OTHER,))
    assert same(frame(asked(fault), tmp_path), clean)
    assert len(frame(asked(fault), tmp_path, OTHER)) == 4_321 + 2_160


def test_a_missing_column_is_missing_on_its_day_only(tmp_path, clean):
    settings = asked(MissingColumn(column="item_id", days=(OTHER,)))
    assert list(frame(settings, tmp_path, OTHER).columns) == [
        c for c in clean.columns if c != "item_id"
    ]
    assert same(frame(settings, tmp_path), clean)


def test_a_missing_label_column_counts_no_click(tmp_path):
    assert (
        simulate_day(asked(MissingColumn(column="click", days=(DAY,))), DAY, tmp_path).clicks == 0
    )


def test_a_missing_column_that_never_was_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"missing_column names \['colour'\], but the log has"):
        simulate_day(asked(MissingColumn(column="colour", days=(DAY,))), DAY, tmp_path)


def test_an_empty_day_has_its_columns_and_no_record(tmp_path, clean):
    done = simulate_day(asked(FileFault(kind="empty_day", days=(DAY,))), DAY, tmp_path)
    assert (done.rows, done.clicks) == (0, 0)
    assert pq.read_table(done.files[0]).column_names == list(clean.columns)


def test_a_truncated_file_has_half_its_bytes_and_cannot_be_read(tmp_path):
    whole = simulate_day(CLEAN, DAY, tmp_path / "whole").files[0]
    cut = simulate_day(
        asked(FileFault(kind="truncated_file", days=(DAY,))), DAY, tmp_path / "cut"
    ).files[0]
    assert cut.read_bytes() == whole.read_bytes()[: whole.stat().st_size // 2]
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(cut)


def test_a_shifted_day_has_another_ctr(tmp_path, clean):
    settings = asked(ShiftedCtr(logit_shift=2.0, days=(OTHER,)))
    assert same(frame(settings, tmp_path), clean)
    assert frame(settings, tmp_path, OTHER).click.mean() > 2 * clean.click.mean()


def test_faults_are_read_from_yaml_like_data():
    settings = SimulatorSettings.model_validate(
        {
            "faults": [
                {"kind": "duplicate", "rate": 0.01},
                {"kind": "empty_day", "days": ["2026-01-05"]},
                {"kind": "missing_column", "column": "slot", "days": ["2026-01-06"]},
                {"kind": "shifted_ctr", "logit_shift": -1, "days": ["2026-01-07"]},
            ]
        }
    )
    assert [type(f) for f in settings.faults] == [RecordFault, FileFault, MissingColumn, ShiftedCtr]
    assert SimulatorSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"faults": [{"kind": "late", "rate": 0.6}, {"kind": "duplicate", "rate": 0.6}]},
            "sum to 1.2 on every day",
        ),
        (
            {
                "faults": [
                    {"kind": "late", "rate": 0.6},
                    {"kind": "duplicate", "rate": 0.6, "days": ["2026-01-02"]},
                ]
            },
            "sum to 1.2 on 2026-01-02",
        ),
        ({"faults": [{"kind": "empty_day"}]}, "days"),
        ({"faults": [{"kind": "gremlins"}]}, "gremlins"),
        ({"items": 4}, r"`items` \(4\) must be at least `policy.candidates` \(8\)"),
        ({"rows": 7}, "rows"),
        ({"base_ctr": 1.0}, "base_ctr"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        SimulatorSettings.model_validate(change)


def test_rates_on_different_days_do_not_add_up():
    faults = [
        {"kind": "late", "rate": 0.9, "days": ["2026-01-02"]},
        {"kind": "late", "rate": 0.9, "days": ["2026-01-03"]},
    ]
    assert len(SimulatorSettings.model_validate({"faults": faults}).faults) == 2
