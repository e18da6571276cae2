"""Commands other than stages: what they print, and what they leave unchanged on errors."""

import json
from datetime import date
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml
from tiny_days import DAYS, DOCUMENT, make_context, promote_candidate, publish, write_config

from pipelines.config import Config
from pipelines.stages.registry import artifacts
from pipelines.store.artifacts import Store
from pipelines.tracking.journal import Event, TrackingJournal

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "workspace")


def test_report_as_json_and_as_a_table(here, store):
    publish(store, "impressions", DAYS[0], rows_kept=12345)
    publish(store, "checkpoint", DAYS[0], auc=float("nan"))
    code, out, _ = here("report", "--date", "2026-01-01", "--json")
    figures = json.loads(out, parse_constant=pytest.fail)
    assert (code, figures["rows"], figures["auc"], figures["seconds"]["impressions"]) == (
        0,
        12345,
        None,
        0.5,
    )
    assert "12,345" in here("report", "--date", "2026-01-01")[1]


@pytest.mark.covers("H4")
def test_status_of_an_empty_workspace(here):
    # Fault H4: it printed an empty table and exit code 0.
    code, _, err = here("status")
    assert code == 4
    assert "nothing is committed in" in err


def test_status_names_days_champion_and_waiting_events(mlflow_here, here, store, tmp_path):
    promote_candidate(make_context(tmp_path), DAYS[0])
    publish(store, "export", DAYS[1])
    TrackingJournal(store.workspace).append(
        Event("tiny", "2026-01-01", "train", "aa", "FINISHED", 1, 2)
    )
    code, out, _ = here("status")
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.splitlines()
        if line.startswith("│")
    ]
    assert code == 0
    assert ["export", "yes", "yes"] in cells
    assert ["promotion", "yes", "–"] in cells
    assert "champion of ctr: version 1 of 2026-01-01" in out
    assert "wait for MLflow: 1" in out


@pytest.mark.covers("H15", "F12")
def test_status_and_report_mark_what_is_stale(here, store, tmp_path, tiny_chain, mlflow_away):
    """Late rows of a trained day: both said of it what they say of any other."""
    config = write_config(tmp_path)
    here("run", "-c", config, "--from", DAYS[0], "--to", DAYS[0])
    publish(store, "impressions", DAYS[0], "late")

    def marked(*options):
        lines = here("status", *options)[1].splitlines()
        cells = ([cell.strip() for cell in line.split("│")[1:-1]] for line in lines)
        return [row[0] for row in cells if row[1:] == ["stale"]]

    assert marked("-c", config) == [*artifacts()[1:]]
    assert marked() == []
    out = here("report", "-c", config, "--date", DAYS[0])[1]
    assert "stale: data_verdict: impressions of 2026-01-01 changed since" in out
    figures = json.loads(here("report", "-c", config, "--date", DAYS[0], "--json")[1])
    assert set(figures["stale"]) == set(artifacts()[1:])


@pytest.mark.covers("H4", "F5")
def test_report_says_that_a_day_was_trained_over_a_hole(here, store):
    publish(store, "checkpoint", DAYS[2], days_missing=1.0)
    out = here("report", "--date", DAYS[2])[1]
    assert "trained over a hole: no sound checkpoint of the 1 days before" in out


def test_clean_frees_the_days_before(here, store):
    for day in DAYS:
        publish(store, "export", day)
    code, out, _ = here("clean", "--keep", "2")
    assert code == 0
    assert "freed 3 versions" in out
    assert store.days("export") == DAYS[3:]


@pytest.mark.parametrize("keep", ["0", "-1", "all"])
def test_clean_keeps_at_least_a_day(here, store, keep):
    publish(store, "export", DAYS[0])
    assert here("clean", "--keep", keep)[0] == 2
    assert store.days("export") == [DAYS[0]]


def test_lineage_is_json(here, store):
    publish(store, "export", DAYS[0], inputs=[publish(store, "compressed", DAYS[0])])
    code, out, _ = here("lineage", "--artifact", "export", "--date", "2026-01-01")
    assert code == 0
    assert json.loads(out)["made_from"]["compressed"]["hash"] == "compressed1"


@pytest.mark.parametrize("artifact", ["export", "exprot"])
def test_lineage_of_nothing_names_the_artifacts_there_are(here, artifact):
    code, _, err = here("lineage", "--artifact", artifact, "--date", "2026-01-01")
    assert code == 2
    assert f"no {artifact} of 2026-01-01" in err
    assert ", ".join(artifacts()) in err


def test_the_schema_is_a_json_schema(shell):
    schema = json.loads(shell("config", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(Config.model_fields)


def valid(document):
    schema = jsonschema.Draft202012Validator(Config.model_json_schema())
    return schema.is_valid(json.loads(json.dumps(document, default=str)))


@pytest.mark.covers("model-1")
@pytest.mark.parametrize(
    "profile", sorted((REPOSITORY / "conf").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_schema_accepts_every_profile(profile):
    assert valid(yaml.safe_load(profile.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change", [{"trainig": {}}, {"training": {"batch_size": 0}}, {"features": {}}, {"name": "1 x"}]
)
def test_the_schema_refuses_what_the_loader_refuses(change):
    assert valid(DOCUMENT)
    assert not valid({**DOCUMENT, **change})


def test_config_prints_a_file_with_every_default(here, tmp_path):
    code, out, _ = here("config", "--config", write_config(tmp_path, training={"batch_size": 77}))
    printed = json.loads(out)
    assert code == 0
    assert printed["training"]["batch_size"] == 77
    assert Config.model_validate(printed) == Config.model_validate(
        {**DOCUMENT, "training": {"batch_size": 77}}
    )


@pytest.fixture
def log(tmp_path):
    rows = 50
    columns = {
        "user_id": [f"u{i % 9}" for i in range(rows)],
        "ad_id": [f"a{i % 7}" for i in range(rows)],
    }
    times = {
        "ts": [1_767_225_600 + i for i in range(rows)],
        "click": [int(i % 3 == 0) for i in range(rows)],
    }
    pd.DataFrame({**columns, **times}).to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


def test_init_writes_a_file_that_loads_and_never_over_another(here, log, tmp_path):
    drafted = tmp_path / "mine.yaml"
    assert here("init", "--data", log, "--out", drafted)[0] == 0
    assert here("config", "--config", drafted)[0] == 0
    drafted.write_text("# mine\n")
    code, _, err = here("init", "--data", log, "--out", drafted)
    assert code == 2
    assert "exists already" in err
    assert drafted.read_text() == "# mine\n"


def test_init_prints_the_draft(here, log):
    code, out, _ = here("init", "--data", log)
    assert code == 0
    assert yaml.safe_load(out)["features"]["label"] == "click"


def test_init_without_a_file_says_so(here, tmp_path):
    code, _, err = here("init", "--data", tmp_path / "*.parquet")
    assert code == 2
    assert "no file matches" in err


def test_predict_without_a_champion_says_so(mlflow_here, here, tmp_path, log):
    code, out, err = here("predict", "--config", write_config(tmp_path), "--input", log)
    assert (code, out) == (2, "")
    assert "no champion" in err


def test_simulate_and_truth_need_a_simulator(here, tmp_path, log):
    config = write_config(tmp_path)
    for arguments in (
        ["simulate", "--from", "2026-01-01", "--to", "2026-01-01"],
        ["truth", "-i", log, "-o", tmp_path / "t"],
    ):
        code, _, err = here(*arguments, "--config", config)
        assert code == 2
        assert "no section `simulator`" in err


SIMULATOR = {
    "first_day": "2026-01-01",
    "impressions_per_day": 200,
    "users": 50,
    "items": 30,
    "new_items_per_day": 2,
}


def test_simulated_days_are_written_and_their_truth_is_known(here, tmp_path):
    config = write_config(tmp_path, simulator=SIMULATOR)
    code, out, _ = here(
        "simulate", "--config", config, "--from", "2026-01-01", "--to", "2026-01-02"
    )
    assert code == 0
    assert [line.split(":")[0].strip() for line in out.splitlines()] == ["2026-01-01", "2026-01-02"]
    (part,) = (tmp_path / "workspace" / "logs" / f"dt={date(2026, 1, 2)}").glob("*.parquet")
    assert here("truth", "--config", config, "-i", part, "-o", tmp_path / "truth.parquet")[0] == 0
    truth = pd.read_parquet(tmp_path / "truth.parquet")
    assert len(truth) == 200
    assert truth["true_probability"].between(0, 1, inclusive="neither").all()


def test_sync_says_how_much_was_sent_and_exits_75_while_mlflow_is_away(
    here, tmp_path, store, mlflow_away
):
    config = write_config(tmp_path)
    assert "sent 0 events" in here("sync", "--config", config)[1]
    TrackingJournal(store.workspace).append(
        Event("tiny", "2026-01-01", "train", "aa", "FINISHED", 1, 2)
    )
    code, _, err = here("sync", "--config", config)
    assert (code, err.startswith("error: MLflow at")) == (75, True)


@pytest.mark.slow
def test_sync_sends_what_waited(here, tmp_path, mlflow_here):
    TrackingJournal(mlflow_here).append(
        Event("tiny", "2026-01-01", "train", "aa", "FINISHED", 1, 2)
    )
    code, out, _ = here("sync", "--config", write_config(tmp_path))
    assert code == 0
    assert "sent 1 events" in out
    assert list(TrackingJournal(mlflow_here).pending()) == []


@pytest.mark.covers("H4")
def test_looking_at_a_workspace_that_is_not_there_makes_none(here, tmp_path):
    # Fault H4: the report of a day that never ran had exit code 0.
    code, _, err = here(
        "report", "--date", "2026-01-01", "--json", "--workspace", tmp_path / "nowhere"
    )
    assert code == 4
    assert "nothing of 2026-01-01 is committed" in err
    assert not (tmp_path / "nowhere").exists()


def test_status_of_a_workspace_of_an_earlier_release_names_its_decision(here, store):
    export = publish(store, "export", DAYS[0])
    publish(store, "promotion", DAYS[0], inputs=[export], promoted=True, model_version="3")
    _, out, _ = here("status")
    assert "champion: version 3 of 2026-01-01, by the decisions of this workspace" in out
