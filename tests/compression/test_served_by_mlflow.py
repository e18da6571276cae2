"""The export as an MLflow model: its signature, and its answers over HTTP to raw strings."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from awkward_day import SCHEMA, draw_columns

from pipelines.served import elastic_ctr_model
from pipelines.tracking.mlflow_model import _example, signature_of, write_model
from training.evaluation.scoring import Scorer


@pytest.fixture(scope="session")
def model(exported, partition, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    parity = folder.parent / "serving.json"
    parity.write_text('{"max_abs_diff": {"512": 1e-7}}')
    return write_model(
        exported[0] / "saved_model", SCHEMA, folder, impressions=partition, parity=parity
    )


@pytest.fixture(scope="session")
def loaded(model):
    return elastic_ctr_model._load_pyfunc(str(model / "data" / "saved_model"))


def frame(columns):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({f.name: columns[f.name] for f in SCHEMA.column_fields()})


@pytest.mark.slow
def test_the_folder_says_what_it_takes_and_brings_its_code_example_and_parity(model):
    described = yaml.safe_load((model / "MLmodel").read_text())
    flavor = described["flavors"]["python_function"]
    assert (model / flavor["code"] / f"{flavor['loader_module']}.py").is_file()
    assert (model / flavor["data"] / "saved_model.pb").is_file()
    inputs = json.loads(described["signature"]["inputs"])
    assert [column["name"] for column in inputs] == [f.name for f in SCHEMA.column_fields()]
    assert {c["name"] for c in inputs if c["type"] == "array"} == {"tags", "brands"}
    assert json.loads((model / "parity.json").read_text()) == {"max_abs_diff": {"512": 1e-7}}
    example = json.loads((model / "serving_input_example.json").read_text())["dataframe_split"]
    assert len(example["data"]) == 3
    assert "tensorflow==" in (model / "requirements.txt").read_text()


def test_the_signature_names_one_float():
    assert signature_of(SCHEMA).outputs.to_dict() == [
        {"type": "float", "name": "probability", "required": True}
    ]


@pytest.mark.covers("monitoring-3")
def test_rows_get_the_probabilities_of_the_trained_model(loaded, compressed, partition, trained_on):
    import pyarrow.parquet as pq

    names = [f.name for f in SCHEMA.column_fields()]
    rows = pq.read_table(partition / "impressions", columns=names).to_pandas()
    answers = loaded.predict(rows)["probability"].to_numpy()
    np.testing.assert_allclose(
        answers, Scorer.load(compressed).score(trained_on), rtol=0, atol=1e-6
    )


def test_null_is_null_and_numbers_are_spelled_as_in_the_log(loaded):
    rows = frame(draw_columns(4, seed=3))
    plain = rows.assign(
        price=["3.5", "", "7", "7"], user_id=["7", "", "", "true"], tags=[["red"], [], [], ["0"]]
    )
    other = rows.assign(
        price=[3.5, None, 7, 7.0],
        user_id=[7, None, float("nan"), True],
        tags=["red", None, [], [0]],
    )
    np.testing.assert_array_equal(
        loaded.predict(other)["probability"], loaded.predict(plain)["probability"]
    )


def test_too_many_rows_in_one_request_are_refused(loaded, monkeypatch):
    monkeypatch.setattr(elastic_ctr_model, "MAX_ROWS", 3)
    rows = frame(draw_columns(4, seed=3))
    with pytest.raises(Exception, match="4 rows in one request, at most 3"):
        loaded.predict(rows)
    assert len(loaded.predict(rows.iloc[:3])) == 3


@pytest.mark.covers("data-5")
def test_the_example_shows_nobodys_id(partition):
    import pyarrow.parquet as pq

    schema = SCHEMA.model_copy(update={"user": "user_id"})
    users = pq.read_table(partition / "impressions", columns=["user_id"]).to_pandas()["user_id"]
    shown = _example(partition, schema)
    assert shown["user_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert not set(shown["user_id"]) & set(users)
    assert _example(partition, SCHEMA)["user_id"].tolist() == users[:3].tolist()


def test_no_rows_get_no_answers(loaded):
    assert loaded.predict(frame(draw_columns(2, seed=3)).iloc[:0]).shape == (0, 1)


def test_a_missing_column_and_a_list_in_the_wrong_place_are_named(loaded):
    rows = frame(draw_columns(2, seed=3))
    with pytest.raises(ValueError, match=r"\['price'\] are missing"):
        loaded.predict(rows.drop(columns="price"))
    with pytest.raises(ValueError, match="'user_id' has one value per row, not list"):
        loaded.predict(rows.assign(user_id=[["a"], ["b"]]))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, records):
    body = json.dumps({"dataframe_records": records}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        body,
        {"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=200) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def served(model):
    """`mlflow models serve` in its own process, in a folder that has nothing of this project."""
    port = free_port()
    programs = Path(sys.executable).parent
    command = [
        str(programs / "mlflow"),
        "models",
        "serve",
        "-m",
        str(model),
        "--env-manager",
        "local",
    ]
    quiet = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_DISABLE_TELEMETRY": "true"
    }
    # As in an activated environment: MLflow looks for uvicorn on the path.
    quiet["PATH"] = f"{programs}{os.pathsep}{quiet['PATH']}"
    process = subprocess.Popen(
        [*command, "-h", "127.0.0.1", "-p", str(port)], env=quiet, cwd=model, start_new_session=True
    )
    try:
        wait_for(port, process)
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def wait_for(port, process):
    for _ in range(1000):
        assert process.poll() is None, "mlflow models serve ended"
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.3)
    raise AssertionError("mlflow models serve does not answer")


@pytest.mark.process
@pytest.mark.slow
def test_over_http_raw_strings_get_the_same_answers(served, loaded):
    columns = draw_columns(20, seed=5)
    rows = frame(columns)
    status, answer = ask(served, rows.to_dict("records"))
    assert status == 200
    given = [row["probability"] for row in answer["predictions"]]
    np.testing.assert_allclose(given, loaded.predict(rows)["probability"], rtol=0, atol=1e-7)


@pytest.mark.process
@pytest.mark.slow
def test_over_http_a_bad_request_gets_an_error_and_the_server_stays(served):
    (record,) = frame(draw_columns(1, seed=5)).to_dict("records")
    for bad in (
        {k: v for k, v in record.items() if k != "price"},
        record | {"user_id": ["a"]},
        record | {"tags": None},
    ):
        assert ask(served, [bad])[0] == 400
    for unseen in (record | {"user_id": "never seen", "price": "NaN"}, record | {"user_id": None}):
        status, answer = ask(served, [unseen])
        assert status == 200
        assert 0 < answer["predictions"][0]["probability"] < 1
