"""The question before a promotion: when it is asked, what it says, and what happens without an answer."""

import json

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput

from dags.approval import APPROVAL_VARIABLE, Approval, approval_form

pytestmark = pytest.mark.airflow


class Ti:
    """What is read of a task instance."""

    id = "1"

    def __init__(self, manifest):
        self.manifest = str(manifest)

    def xcom_pull(self, task_ids):
        assert task_ids == "validate_model"
        return self.manifest


@pytest.fixture
def asked(monkeypatch):
    """What is written to Airflow's database for a person to answer."""
    seen = []
    # The supervisor of a task, which writes it, is not there in a test.
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail",
        lambda **detail: seen.append(detail),
    )
    return seen


def context(tmp_path, verdict, **params):
    manifest = tmp_path / "_COMMIT.json"
    manifest.write_text(json.dumps({"metrics": {"verdict": verdict, "auc_exported": 0.75123}}))
    ti = Ti(manifest)
    return {"params": params, "ti": ti, "task_instance": ti}


def test_it_is_off_unless_the_form_or_the_variable_says_so(tmp_path, asked, monkeypatch):
    assert approval_form()["approval"].value is False
    monkeypatch.setenv(APPROVAL_VARIABLE, "1")
    assert approval_form()["approval"].value is True
    Approval(task_id="approve").execute(context(tmp_path, "blessed", approval=False))
    assert asked == []


def test_a_refused_candidate_is_not_asked_about(tmp_path, asked):
    Approval(task_id="approve").execute(context(tmp_path, "refused", approval=True))
    assert asked == []


def test_a_blessed_candidate_waits_and_without_an_answer_the_champion_stays(tmp_path, asked):
    with pytest.raises(TaskAwaitingInput) as waiting:
        Approval(task_id="approve").execute(context(tmp_path, "blessed", approval=True))
    assert waiting.value.timeout.days == 1
    (detail,) = asked
    assert detail["options"] == ["Approve", "Reject"]
    assert detail["defaults"] == ["Reject"]
    assert "| auc_exported | 0.7512 |" in detail["body"]
