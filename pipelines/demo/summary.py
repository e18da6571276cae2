"""What each part of the chain did, in numbers: the table and the page that end a demo."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table

from features.files import write_atomically
from features.partition import folder_of
from pipelines.cli.console import format_bytes
from pipelines.demo.tables import figure_rows
from pipelines.stages.report import day_report
from pipelines.store.artifacts import Store

PAGE = "summary.html"
_TEMPLATE = "page.html"
_ID_KINDS = ("categorical", "multi_valued")

Report = Mapping[str, Any]
Part = tuple[str, str]
"""The name of a part, and what it did."""


@dataclass(frozen=True)
class Summary:
    """What ran.

    Attributes:
        name: of the configuration.
        days: day (ISO) → its report as it was when the day had ended.
        parts: what each part did.
        plots: title → PNG file.
    """

    name: str
    days: Mapping[str, Report]
    parts: tuple[Part, ...]
    plots: Mapping[str, Path]

    def figures(self) -> list[tuple[str, list[str]]]:
        """Return the label of each figure of the days, and its text for each day."""
        return list(figure_rows(self.days))


def summarize(
    store: Store, name: str, days: Mapping[str, Report], notes: Mapping[str, str]
) -> Summary:
    """Collect the figures of days and of the commands that followed them.

    Args:
        store: the workspace.
        name: of the configuration.
        days: day (ISO) → its report, in order; at least one.
        notes: part → what it did, of parts that leave no artifact.
    """
    last = date.fromisoformat(max(days))
    folder = folder_of(last)
    found = {
        command: _read(store.workspace / command / folder / file)
        for command, file in (
            ("compression-search", "search.json"),
            ("selection", "selection.json"),
            ("lift", "lift.json"),
        )
    }
    parts = [
        *_data_parts(store, last, days),
        *_model_parts(store, last, days, found["lift"]),
        *_size_parts(store, last, days, found["compression-search"]),
        *_selection_part(found["selection"]),
        *_lift_parts(found["lift"]),
        *_time_part(days),
        *notes.items(),
    ]
    plots = {
        "Quality by day": _plot_quality(days, store.workspace / "demo" / "quality.png"),
        "Smaller without loss": store.workspace / "compression-search" / folder / "pareto.png",
        "What each field is worth": store.workspace / "selection" / folder / "selection.png",
        "Lift": store.workspace / "lift" / folder / "lift.png",
    }
    there = {title: path for title, path in plots.items() if path.is_file()}
    return Summary(name, days, tuple(parts), there)


def summary_table(summary: Summary) -> Table:
    """Return the parts as a table."""
    table = Table(title="What each part did", show_lines=True)
    table.add_column("part", no_wrap=True)
    table.add_column("what it did")
    for name, text in summary.parts:
        table.add_row(name, text)
    return table


def write_page(summary: Summary, path: Path) -> Path:
    """Write the summary as one HTML file, plots included; return its path."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("pipelines.demo", "."), autoescape=True)
    plots = {
        title: base64.b64encode(plot.read_bytes()).decode() for title, plot in summary.plots.items()
    }
    page = environment.get_template(_TEMPLATE).render(summary=summary, plots=plots)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _data_parts(store: Store, last: date, days: Mapping[str, Report]) -> Iterator[Part]:
    kept = sum(report["rows"] or 0 for report in days.values())
    aside = sum(report["rows_quarantined"] or 0 for report in days.values())
    yield (
        "ingest",
        f"{len(days)} days, {kept + aside:,} rows in = {kept:,} kept + {aside:,} in quarantine",
    )
    verdict = store.current("data_verdict", last)
    if verdict:
        held = verdict.metrics["expectations"] - verdict.metrics["failed"]
        yield "data gate", f"{held:,} of {verdict.metrics['expectations']:,} expectations held"
    encodings = store.current("encodings", last)
    if encodings and encodings.metrics.get("relations_used"):
        figures = encodings.metrics
        quality = [
            f"{key.removesuffix('/r2')}: R² {value:.2f} on pairs that were held out "
            f"({figures[key + '_node_bias']:.2f} without interaction)"
            for key, value in figures.items()
            if key.endswith("/r2")
        ]
        yield (
            "graph, PCF-GNN",
            f"{figures['edges']:,} pairs of the days before; click rate of a pair predicted, "
            + "; ".join(quality),
        )


def _model_parts(
    store: Store, last: date, days: Mapping[str, Report], lift: Report
) -> Iterator[Part]:
    report = days[last.isoformat()]
    seen = _ids_seen(store, last)
    if seen and report["rows_in_table"]:
        share = report["rows_in_table"] / seen
        yield (
            "admission",
            f"{report['rows_in_table']:,} rows for {seen:,} ids that were seen ({share:.0%})",
        )
    if report["zero_rows"]:
        yield (
            "group lasso",
            f"{report['zero_rows']:,} of these rows are exactly zero and are not exported",
        )
    if report["auc"] is not None and report["auc_lr_baseline"] is not None:
        text = (
            f"AUC {report['auc']:.4f} on the last part of {last}, not yet trained on; logistic "
            f"regression {report['auc_lr_baseline']:.4f}"
        )
        possible = report.get("auc_possible")
        if possible:
            gap = possible - report["auc_lr_baseline"]
            closed = (report["auc"] - report["auc_lr_baseline"]) / gap
            text += f", the true probabilities {possible:.4f}: {closed:.0%} of the gap"
        yield "model", text
    if lift:
        order = sorted(lift["auc"].items(), key=lambda each: each[1])
        listed = ", ".join(f"{arm} {value:.4f}" for arm, value in order)
        yield "against plain models", f"AUC on the next day's random candidates: {listed}"


def _size_parts(
    store: Store, last: date, days: Mapping[str, Report], search: Report
) -> Iterator[Part]:
    report = days[last.isoformat()]
    if report["bytes_exported"]:
        text = (
            f"{format_bytes(report['bytes_trained'])} trained, "
            f"{format_bytes(report['bytes_exported'])} exported"
        )
        if report["parity_max_abs_diff"] is not None:
            text += f"; served probabilities differ by at most {report['parity_max_abs_diff']:.0e}"
        yield "lossless export", text
    if search:
        now = day_report(store, last)
        yield (
            "compression",
            f"{search['ratio_chosen']:.1f} times smaller "
            f"({format_bytes(search['bytes_chosen'])}; exported with its graph "
            f"{format_bytes(now['bytes_exported'])}), AUC {-search['auc_drop']:+.4f} "
            f"({-search['auc_drop_high']:+.4f} to {-search['auc_drop_low']:+.4f}) on users that "
            f"did not choose the plan; {search['plans_measured']:.0f} plans measured",
        )
    promoted = [day for day, each in days.items() if each["promoted"]]
    yield "model gate", f"{len(promoted)} of {len(days)} days became the champion"


def _selection_part(selection: Report) -> Iterator[Part]:
    if not selection:
        return
    dropped = [each["name"] for each in selection["fields"] if not each["kept"]]
    aucs = (selection["auc_full_learned_on"], selection["auc_pruned_fine_tuned"])
    sizes = (selection["bytes_full"], selection["bytes_pruned"])
    yield (
        "feature selection",
        f"proposes to drop {', '.join(dropped) or 'nothing'}: AUC "
        f"{' → '.join(f'{auc:.4f}' for auc in aucs)}, {' → '.join(map(format_bytes, sizes))}",
    )


def _lift_parts(lift: Report) -> Iterator[Part]:
    if not lift:
        return
    arm = list(lift["visits"])[-1]
    for each in lift["lifts"]:
        if each["arm"] == arm and each["metric"] == "pvctr":
            yield (
                f"lift over {each['control']}",
                f"{each['lift']:+.1%} clicks per impression ({each['low']:+.1%} to "
                f"{each['high']:+.1%} at 95 %), true {each['true_lift']:+.1%}; "
                f"{sum(lift['visits'].values()):,} simulated visits in {len(lift['visits'])} "
                f"buckets, {arm} against {each['control']}",
            )


def _time_part(days: Mapping[str, Report]) -> Iterator[Part]:
    seconds = [sum(report["seconds"].values()) for report in days.values()]
    yield "seconds of the stages", ", ".join(f"{each:.0f}" for each in seconds) + " by day"


def _ids_seen(store: Store, day: date) -> int:
    """Return the number of distinct ids, over all fields, in the window of the statistics."""
    import pyarrow.parquet as pq

    statistics = store.current("feature_statistics", day)
    if statistics is None:
        return 0
    fields = pq.read_table(statistics.path / "fields.parquet", columns=["kind", "cardinality"])
    return sum(row["cardinality"] for row in fields.to_pylist() if row["kind"] in _ID_KINDS)


def _plot_quality(days: Mapping[str, Report], path: Path) -> Path:
    """Plot each day's AUC between that of the baseline and the best possible one."""
    from features.plotting import BLUE, GREEN, MUTED, figure_file, plain_axes, title

    lines = {
        "possible": ("auc_possible", GREEN, "--"),
        "trained model": ("auc", BLUE, "-"),
        "logistic regression": ("auc_lr_baseline", MUTED, "-"),
    }
    with figure_file(path, (9.5, 4.0)) as figure:
        axes = plain_axes(figure)
        for label, (key, colour, style) in lines.items():
            known = {day: report[key] for day, report in days.items() if report.get(key)}
            if known:
                points = list(known), list(known.values())
                axes.plot(*points, style, marker="o", color=colour, label=label)
        axes.set_ylabel("AUC, held-out part of the day")
        axes.legend(frameon=False)
        title(axes, "Each day against logistic regression", ", ".join(days))
    return path
