"""An optional question to a person before a candidate becomes the champion.

It is asked where the form says so (`approval`; by default as `ELASTIC_CTR_APPROVAL`) and the model
gate blessed the candidate. The run waits on the page *Required actions*. After a day without an
answer, or with *Reject*, the champion stays and the run is green.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param

if TYPE_CHECKING:
    from airflow.sdk import Context

PARAM = "approval"
APPROVAL_VARIABLE = "ELASTIC_CTR_APPROVAL"
ANSWER_WITHIN = timedelta(days=1)
_FIGURES = ("auc_exported", "auc_champion", "lift_auc_vs_champion", "lift_auc_vs_baseline")


def approval_form() -> dict[str, Param]:
    """Return the parameter that asks for an approval."""
    default = os.environ.get(APPROVAL_VARIABLE, "") not in ("", "0")
    text = (
        "Ask a person before a candidate that passed the model gate becomes the champion. Without "
        "an answer within a day the champion stays."
    )
    title = "Ask before promotion"
    return {PARAM: Param(default, text, title=title, type="boolean", section="When to promote")}


class Approval(ApprovalOperator):  # type: ignore[misc]
    """Wait for a person, or do nothing where none is to be asked."""

    # Airflow renders these as templates by default. Values of the form must not be rendered.
    template_fields = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            subject="Promote this candidate?",
            response_timeout=ANSWER_WITHIN,
            defaults=self.REJECT,
            doc_md=__doc__,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        """Ask, unless the form does not say so or the candidate was refused by the gate."""
        if not context["params"].get(PARAM):
            self.log.info("No approval is asked for (`%s` of the form is off)", PARAM)
            return None
        manifest = Path(context["ti"].xcom_pull(task_ids="validate_model"))
        figures = json.loads(manifest.read_text(encoding="utf-8"))["metrics"]
        if figures["verdict"] != "blessed":
            self.log.info("The model gate says %s: nothing to approve", figures["verdict"])
            return None
        self.body = question(manifest, figures)
        return super().execute(context)


def question(manifest: Path, figures: dict[str, Any]) -> str:
    """Return what a person must know to decide (Markdown)."""
    known = {name: figures[name] for name in _FIGURES if figures.get(name) is not None}
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in known.items())
    return (
        "The candidate passed the model gate.\n\n"
        f"| figure | value |\n|---|---|\n{rows}\n\n"
        f"The report is in `{manifest.parent}` and behind the links of the task `validate_model`."
    )
