"""What a run asks for, and the command line it becomes."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dags.request import RunRequest, check_params, check_path, is_backfill, read_request
from features.errors import InputError
from features.partition import Hour

KNOWN = ("config", "date", "workspace", "training.batch_size", "model.deep.learning_rate")
PARAMS = {
    "config": "a.yaml",
    "date": None,
    "workspace": "",
    "training.batch_size": None,
    "model.deep.learning_rate": None,
}
REQUEST = RunRequest(date(2022, 4, 25), "a.yaml", "ws")


@dataclass(frozen=True)
class Run:
    """As much of a DAG run as is read."""

    run_type: str = "manual"
    data_interval_start: datetime | None = datetime(2022, 4, 25, tzinfo=UTC)


def test_settings_left_empty_are_not_passed():
    assert read_request(PARAMS, Run()) == RunRequest(date(2022, 4, 25), "a.yaml", "")


def test_settings_that_were_filled_in_become_overrides():
    request = read_request(
        {**PARAMS, "training.batch_size": 256, "model.deep.learning_rate": 0.5}, Run()
    )
    assert request.overrides == ("training.batch_size=256", "model.deep.learning_rate=0.5")


def test_zero_and_false_are_values_not_empty():
    assert read_request({**PARAMS, "training.batch_size": 0}, Run()).overrides == (
        "training.batch_size=0",
    )
    assert read_request({**PARAMS, "training.batch_size": False}, Run()).overrides == (
        "training.batch_size=false",
    )


@pytest.mark.slow
@given(
    st.one_of(
        st.integers(-(10**9), 10**9),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.booleans(),
    )
)
def test_a_value_reads_back_from_yaml_as_it_was(value):
    (override,) = read_request({**PARAMS, "training.batch_size": value}, Run()).overrides
    name, _, text = override.partition("=")
    assert name == "training.batch_size"
    assert yaml.safe_load(text) == value
    assert type(yaml.safe_load(text)) is type(value)


def test_the_command_names_stage_config_day_workspace_and_overrides():
    request = RunRequest(date(2022, 4, 25), "a.yaml", "ws", ("training.batch_size=256",))
    assert request.command("feature-statistics")[-5:] == [
        "feature-statistics",
        "--config=a.yaml",
        "--date=2022-04-25",
        "--workspace=ws",
        "--set=training.batch_size=256",
    ]


def test_an_empty_workspace_is_left_to_the_command_line():
    assert not [
        part
        for part in RunRequest(date(2022, 4, 25), "a.yaml", "").command("ingest")
        if "workspace" in part
    ]


def test_values_never_become_options_of_their_own():
    argv = RunRequest(date(2022, 4, 25), "--help", "-x; rm -rf /", ("a=--help",)).command("ingest")
    assert argv[-4:] == [
        "--config=--help",
        "--date=2022-04-25",
        "--workspace=-x; rm -rf /",
        "--set=a=--help",
    ]


def test_the_command_line_understands_the_commands_form():
    from typer.testing import CliRunner

    from pipelines.cli.main import app

    argv = RunRequest(date(2022, 4, 25), "/nowhere.yaml", "", ("a.b=1",)).command("ingest")[3:]
    outcome = CliRunner().invoke(app, argv)
    assert "cannot read the configuration" in str(outcome.exception)


def test_unknown_parameters_are_refused_by_name():
    with pytest.raises(
        InputError, match=r"unknown parameters \['batchsize'\].*training\.batch_size"
    ):
        check_params({**PARAMS, "batchsize": 1}, Run(), KNOWN)


def test_known_parameters_pass():
    check_params({**PARAMS, "date": "2022-04-25"}, Run(), KNOWN)


def test_one_date_for_a_whole_backfill_is_refused():
    with pytest.raises(InputError, match="leave `date` and `hour` empty"):
        check_params({**PARAMS, "date": "2022-04-25"}, Run("backfill"), KNOWN)
    check_params(PARAMS, Run("backfill"), KNOWN)


def test_airflows_own_run_types_are_understood():
    from airflow.sdk.api.datamodels._generated import DagRunType

    assert is_backfill(Run(DagRunType.BACKFILL))
    assert not is_backfill(Run(DagRunType.SCHEDULED))


def test_an_hour_is_asked_for_beside_its_date_or_by_the_schedule(monkeypatch):
    request = read_request({**PARAMS, "date": "2022-04-25", "hour": 7}, Run())
    assert request == RunRequest(Hour(date(2022, 4, 25), 7), "a.yaml", "")
    assert "--date=2022-04-25T07" in request.command("train")
    monkeypatch.setenv("ELASTIC_CTR_PARTITION", "hour")
    assert read_request(PARAMS, Run()).day == Hour(date(2022, 4, 25), 0)
    assert read_request({**PARAMS, "date": "2022-04-25"}, Run()).day == date(2022, 4, 25)


def test_one_hour_for_a_whole_backfill_is_refused_midnight_too():
    with pytest.raises(InputError, match="leave `date` and `hour` empty"):
        check_params({**PARAMS, "hour": 0}, Run("backfill"), (*KNOWN, "hour"))


def test_a_request_follows_hours_and_days_that_have_ended():
    hour = RunRequest(Hour(date(2022, 4, 25), 7), "a.yaml", "ws")
    ended = (Hour(date(2022, 4, 25), 6), Hour(date(2022, 4, 24), 23), date(2022, 4, 24))
    assert all(hour.follows(RunRequest(day, "a.yaml", "ws")) for day in ended)
    others = (Hour(date(2022, 4, 25), 7), Hour(date(2022, 4, 25), 8), date(2022, 4, 25))
    assert not any(hour.follows(RunRequest(day, "a.yaml", "ws")) for day in others)


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        (RunRequest(date(2022, 4, 24), "a.yaml", "ws"), True),
        (RunRequest(date(2022, 4, 24), "a.yaml", "ws", ("training.seed=1",)), True),
        (RunRequest(date(2022, 4, 25), "a.yaml", "ws"), False),
        (RunRequest(date(2022, 4, 26), "a.yaml", "ws"), False),
        (RunRequest(date(2022, 4, 24), "b.yaml", "ws"), False),
        (RunRequest(date(2022, 4, 24), "a.yaml", "other"), False),
    ],
    ids=["day before", "other settings", "same day", "later", "other config", "other workspace"],
)
def test_a_request_follows_earlier_days_of_its_own_line_only(earlier, expected):
    assert REQUEST.follows(earlier) is expected


@pytest.mark.parametrize("name", ["config", "workspace"])
@pytest.mark.parametrize("value", ["/etc/shadow", "../outside", "{allowed}/link", "{allowed}x"])
@pytest.mark.covers("F31")
def test_a_path_outside_the_allowed_folders_is_refused(name, value, tmp_path, monkeypatch):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to("/etc/shadow")
    monkeypatch.setenv("ELASTIC_CTR_FOLDERS", str(allowed))
    monkeypatch.chdir(allowed)
    params = {**PARAMS, "config": "conf/a.yaml", name: value.format(allowed=allowed)}
    with pytest.raises(
        InputError, match=f"{name} .*not in an allowed folder .*ELASTIC_CTR_FOLDERS"
    ):
        read_request(params, Run())


def test_a_path_inside_an_allowed_folder_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("ELASTIC_CTR_FOLDERS", f"/nowhere:{tmp_path}")
    check_path("workspace", str(tmp_path / "a" / "b"))
    check_path("workspace", "")
