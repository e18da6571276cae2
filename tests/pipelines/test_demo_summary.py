"""What a demo says at its end, and the page of it."""

import base64
import json

import pytest
from rich.console import Console

from features.plotting import figure_file, plain_axes
from pipelines.demo.mission import _CAUSE
from pipelines.demo.summary import Summary, summarize, summary_table, write_page
from pipelines.store.artifacts import Store

REPORT = {
    "rows": 900,
    "rows_quarantined": 100,
    "auc": 0.78,
    "auc_exported": 0.78,
    "auc_lr_baseline": 0.72,
    "auc_possible": 0.82,
    "rows_in_table": 400,
    "zero_rows": 150,
    "bytes_trained": 30_000_000,
    "bytes_exported": 2_000_000,
    "parity_max_abs_diff": 1.2e-7,
    "promoted": True,
    "seconds": {"ingest": 7.0, "train": 9.0},
}
DAYS = {"2026-01-01": {**REPORT, "auc": 0.75}, "2026-01-02": {**REPORT, "promoted": False}}


def parts(store, days=DAYS, notes=None):
    return dict(summarize(store, "simulated", days, notes or {}).parts)


def test_each_part_says_what_it_did_on_the_last_day(tmp_path):
    found = parts(Store(tmp_path), notes={"planted fault": "refused"})
    assert found["ingest"] == "2 days, 2,000 rows in = 1,800 kept + 200 in quarantine"
    assert found["group lasso"].startswith("150 of these rows are exactly zero")
    # (0.78 - 0.72) / (0.82 - 0.72)
    assert found["model"].endswith("the true probabilities 0.8200: 60% of the gap")
    assert found["lossless export"].startswith("30.0 MB trained, 2.0 MB exported")
    assert found["model gate"] == "1 of 2 days became the champion"
    assert found["seconds of the stages"] == "16, 16 by day"
    assert found["planted fault"] == "refused"


def test_a_part_that_did_not_run_is_left_out(tmp_path):
    untrained = {"auc": None, "rows_in_table": None, "zero_rows": None, "bytes_exported": None}
    found = parts(Store(tmp_path), {"2026-01-02": {**REPORT, **untrained}})
    assert set(found) == {"ingest", "model gate", "seconds of the stages"}
    without_truth = {k: v for k, v in REPORT.items() if k != "auc_possible"}
    assert "true" not in parts(Store(tmp_path), {"2026-01-02": without_truth})["model"]


def test_search_selection_and_lift_are_read_from_what_the_commands_wrote(tmp_path):
    written = {
        "compression-search/dt=2026-01-02/search.json": {
            "ratio_chosen": 8.3,
            "bytes_chosen": 290_000,
            "auc_drop": 0.0001,
            "auc_drop_low": -0.0002,
            "auc_drop_high": 0.0003,
            "plans_measured": 25.0,
        },
        "selection/dt=2026-01-02/selection.json": {
            "fields": [{"name": "noise_0", "kept": False}, {"name": "user", "kept": True}],
            "auc_full_learned_on": 0.782,
            "auc_pruned_fine_tuned": 0.7828,
            "bytes_full": 1_900_000,
            "bytes_pruned": 1_300_000,
        },
        "lift/dt=2026-01-02/lift.json": {
            "visits": {"random": 100, "fusion": 120, "elastic": 110},
            "auc": {"elastic": 0.82, "fusion": 0.74},
            "lifts": [
                {
                    "metric": "pvctr",
                    "arm": "elastic",
                    "control": "fusion",
                    "lift": 0.478,
                    "low": 0.337,
                    "high": 0.635,
                    "true_lift": 0.46,
                }
            ],
        },
    }
    for name, content in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    found = parts(Store(tmp_path))
    # A drop of 0.0001 is a change of -0.0001, and the interval's ends change places.
    assert "8.3 times smaller (290.0 kB" in found["compression"]
    assert "AUC -0.0001 (-0.0003 to +0.0002)" in found["compression"]
    assert found["feature selection"] == (
        "proposes to drop noise_0: AUC 0.7820 → 0.7828, 1.9 MB → 1.3 MB"
    )
    assert found["lift over fusion"].startswith(
        "+47.8% clicks per impression (+33.7% to +63.5% at 95 %), true +46.0%"
    )
    assert found["against plain models"].endswith("fusion 0.7400, elastic 0.8200")


def test_the_table_and_the_page_show_every_part_and_escape_what_they_show(tmp_path):
    plot = tmp_path / "plot.png"
    with figure_file(plot, (2, 2)) as figure:
        plain_axes(figure).plot([1, 2])
    said = (("planted fault", "rejected: <script>"), ("model", "AUC 0.78"))
    summary = Summary("simulated", DAYS, said, {"Quality": plot})
    page = write_page(summary, tmp_path / "demo" / "summary.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert base64.b64encode(plot.read_bytes()).decode() in page
    # One file: nothing is loaded from elsewhere.
    assert "http" not in page
    assert "0.7500" in page  # the first day's AUC
    console = Console(record=True, width=100)
    console.print(summary_table(summary))
    assert "rejected: <script>" in console.export_text()


@pytest.mark.parametrize(
    ("line", "cause", "setting"),
    [
        (
            "data of 2026-01-04 failed its gate: share of the records that went to quarantine: "
            "0.1667, must be at most 0.05 (duplicate: 20000); `data_gate.max_quarantined_share` "
            "sets the limit. Report: /w/data_docs. The last champion stays.",
            "share of the records that went to quarantine: 0.1667, must be at most 0.05 "
            "(duplicate: 20000)",
            "data_gate.max_quarantined_share",
        )
    ],
)
def test_the_gates_cause_is_found_in_the_log_of_airflow(line, cause, setting):
    found = _CAUSE.search(f"INFO - other\nerror: {line}\nINFO - more")
    assert found is not None
    assert (found["cause"], found["setting"]) == (cause, setting)
