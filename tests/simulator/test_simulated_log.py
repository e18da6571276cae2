"""A written day: determinism, independence of days and chunks, publication, memory."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from simulator.impressions import LOG_SCHEMA, Chunk, day_start_ms, impressions
from simulator.log import is_simulated, simulate_day
from simulator.settings import MissingColumn, SimulatorSettings
from simulator.world import World

DAY = date(2026, 1, 4)
SMALL = SimulatorSettings(
    impressions_per_day=5_000, users=3_000, items=400, new_items_per_day=40, chunk_rows=1_000
)


def written(settings, day, folder):
    return pa.concat_tables(pq.read_table(f) for f in simulate_day(settings, day, folder).files)


def test_the_day_is_reported_as_it_was_written(tmp_path):
    done = simulate_day(SMALL, DAY, tmp_path)
    table = pq.read_table(done.files[0])
    assert done.files == (tmp_path / "dt=2026-01-04" / "part-00000.parquet",)
    assert (done.rows, done.clicks) == (5_000, sum(table["click"].to_pylist()))
    assert table.schema.equals(LOG_SCHEMA)
    assert pq.ParquetFile(done.files[0]).num_row_groups == 5
    assert done.seconds > 0


def test_columns_hold_what_they_say(tmp_path):
    frame = written(SMALL, DAY, tmp_path).to_pandas()
    assert frame.impression_id.is_unique
    assert frame.timestamp_ms.is_monotonic_increasing
    assert {datetime.fromtimestamp(ms / 1000, UTC).date() for ms in frame.timestamp_ms} == {DAY}
    assert frame.timestamp_ms.iloc[-1] - frame.timestamp_ms.iloc[0] > 23 * 3_600_000
    assert set(frame.policy) == {"logged", "random"}
    assert set(frame.click) == {0, 1}
    assert set(frame.position) == {1, 2, 3, 4, 5, 6}
    assert 0.01 < frame.price.isna().mean() < 0.06
    assert (frame.price.dropna() > 0).all()
    assert frame.user_tags.str.count(",").between(0, 3).all()
    assert frame.drop(columns="price").notna().all().all()
    assert frame.groupby("item_id").advertiser_id.nunique().max() == 1
    assert frame.groupby("user_id").user_tags.nunique().max() == 1


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(tmp_path):
    first = simulate_day(SMALL, DAY, tmp_path / "a").files[0].read_bytes()
    again = simulate_day(SMALL, DAY, tmp_path / "b").files[0].read_bytes()
    other = (
        simulate_day(SMALL.model_copy(update={"seed": 18}), DAY, tmp_path / "c")
        .files[0]
        .read_bytes()
    )
    assert first == again
    assert first != other


@pytest.mark.process
def test_a_day_is_the_same_in_a_fresh_process_that_never_made_the_days_before(tmp_path):
    for day in range(1, 4):
        simulate_day(SMALL, date(2026, 1, day), tmp_path / "a")
    here = simulate_day(SMALL, DAY, tmp_path / "a").files[0].read_bytes()
    code = (
        "import sys; from datetime import date; from pathlib import Path;"
        "from simulator.log import simulate_day;"
        "from simulator.settings import SimulatorSettings as S;"
        "simulate_day(S.model_validate_json(sys.argv[1]), date(2026, 1, 4), Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, SMALL.model_dump_json(), str(tmp_path / "b")],
        check=True,
        timeout=400,
    )
    assert (tmp_path / "b" / "dt=2026-01-04" / "part-00000.parquet").read_bytes() == here


def test_days_differ_and_share_no_impression(tmp_path):
    one, two = (written(SMALL, date(2026, 1, d), tmp_path).to_pandas() for d in (4, 5))
    assert not set(one.impression_id) & set(two.impression_id)
    assert (one.user_id.to_numpy() != two.user_id.to_numpy()).mean() > 0.9


def test_new_items_appear_every_day_and_never_before_their_day(tmp_path):
    for index in range(3):
        items = written(SMALL, date(2026, 1, 1 + index), tmp_path)["item_id"].to_numpy()
        newest = 400 + 40 * index
        assert items.max() < newest + 40
        assert len(set(items[items >= newest])) > 10


def test_files_split_at_file_rows_and_names_sort_in_time_order(tmp_path):
    split = SMALL.model_copy(update={"file_rows": 2_000})
    files = simulate_day(split, DAY, tmp_path / "split").files
    assert [f.name for f in files] == [
        "part-00000.parquet",
        "part-00001.parquet",
        "part-00002.parquet",
    ]
    assert pa.concat_tables(pq.read_table(f) for f in files).equals(
        written(SMALL, DAY, tmp_path / "whole")
    )


def test_writing_again_replaces_the_day(tmp_path):
    simulate_day(SMALL.model_copy(update={"file_rows": 1_000}), DAY, tmp_path)
    simulate_day(SMALL, DAY, tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*.parquet")) == ["part-00000.parquet"]


def test_a_failure_half_way_leaves_the_earlier_day_and_no_rest(tmp_path):
    before = simulate_day(SMALL, DAY, tmp_path).files[0].read_bytes()
    impossible = SMALL.model_copy(update={"faults": (MissingColumn(column="colour", days=(DAY,)),)})
    with pytest.raises(InputError, match="colour"):
        simulate_day(impossible, DAY, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["dt=2026-01-04"]
    assert (tmp_path / "dt=2026-01-04" / "part-00000.parquet").read_bytes() == before


@pytest.mark.process
def test_the_rest_of_a_killed_process_is_swept_and_that_of_a_live_one_kept(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = tmp_path / f".dt=2026-01-04.{ended.pid}", tmp_path / ".dt=2026-01-04.1"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
    simulate_day(SMALL, DAY, tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_it_is_known_whether_a_day_was_written_with_these_settings(tmp_path):
    assert not is_simulated(SMALL, DAY, tmp_path)
    simulate_day(SMALL, DAY, tmp_path)
    assert is_simulated(SMALL, DAY, tmp_path)
    assert not is_simulated(SMALL, date(2026, 1, 5), tmp_path)
    assert not is_simulated(SMALL.model_copy(update={"base_ctr": 0.2}), DAY, tmp_path)


def test_a_day_before_the_world_began_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"2025-12-31 is before .* 2026-01-01.*first_day"):
        simulate_day(SMALL, date(2025, 12, 31), tmp_path)


def test_the_epoch_of_a_day():
    assert day_start_ms(date(2022, 4, 25)) == 1_650_844_800_000


@pytest.mark.process
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_impressions(tmp_path):
    # VmHWM, not ru_maxrss: a child inherits the latter from the process that started it.
    code = (
        "import sys, json; from datetime import date; from pathlib import Path;"
        "from simulator.log import simulate_day;"
        "from simulator.settings import SimulatorSettings as S;"
        "s = S(impressions_per_day=int(sys.argv[1]), users=300_000_000, items=50_000_000,"
        "      chunk_rows=100_000);"
        "done = simulate_day(s, date(2026, 1, 1), Path(sys.argv[2]));"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(json.dumps([done.rows, int(peak.split()[1]) / 1024]))"
    )
    peaks = []
    for rows in (200_000, 2_000_000):
        command = [sys.executable, "-c", code, str(rows), str(tmp_path)]
        done, peak_mb = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
        )
        assert done == rows
        peaks.append(peak_mb)
    assert peaks[1] < peaks[0] + 100
    assert peaks[1] < 600


def test_hundreds_of_millions_of_users_need_no_table():
    settings = SimulatorSettings(users=500_000_000, user_exponent=0.3)
    users = impressions(World(settings), DAY, Chunk(0, 0, 20_000))["user_id"].to_numpy()
    assert len(np.unique(users)) > 19_000
    assert users.max() > 400_000_000
