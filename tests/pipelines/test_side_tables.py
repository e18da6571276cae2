"""A side table of users or items that is read again, for a past day, once it has changed."""

import os

import pytest
from tiny_days import DAYS, DOCUMENT, make_context, publish, write_config

from pipelines.stages.ingest import Ingest, table_digests
from pipelines.stages.stage import config_section, execute

LOG = "click,user_id,ad,time,tags\n1,u1,a1,1767225600,x\n0,u2,a2,1767225601,y\n"


@pytest.fixture
def source(tmp_path):
    """A log with a table of each day and one that is the same for all days."""
    (tmp_path / "log-2026-01-01.csv").write_text(LOG, encoding="utf-8")
    (tmp_path / "users-2026-01-01.csv").write_text("user_id,plan\nu1,free\n", encoding="utf-8")
    (tmp_path / "ads.csv").write_text("ad,topic\na1,cars\n", encoding="utf-8")
    log = {"path": f"{tmp_path}/log-{{date}}.csv", "format": "csv", "partition": "path"}
    tables = [
        {"path": f"{tmp_path}/users-{{date}}.csv", "key": "user_id"},
        {"path": f"{tmp_path}/ads.csv", "key": "ad"},
    ]
    return log | {"side_tables": tables}


def touched(path, text=None):
    if text:
        path.write_text(text, encoding="utf-8")
    os.utime(path, (1, 1))


@pytest.mark.covers("audit-M8")
def test_a_rewritten_table_of_no_day_makes_no_past_day_anew(source, tmp_path):
    context = make_context(tmp_path, source=source)
    before = Ingest().fingerprint(context)
    touched(tmp_path / "ads.csv", "ad,topic\na1,planes\n")
    assert Ingest().fingerprint(context) == before
    touched(tmp_path / "users-2026-01-01.csv")
    assert Ingest().fingerprint(context) != before


def test_a_table_has_a_place_in_the_hash_by_its_version_only(source, tmp_path):
    plain = config_section(make_context(tmp_path, source=source).config, "source")
    assert "version" not in plain["side_tables"][1]
    source["side_tables"][1]["version"] = "2"
    named = config_section(make_context(tmp_path, source=source).config, "source")
    assert named["side_tables"][1]["version"] == "2"


@pytest.mark.covers("audit-M8")
def test_check_and_report_name_a_table_that_changed_since(source, here, tmp_path, mlflow_away):
    config, context = write_config(tmp_path, source=source), make_context(tmp_path, source=source)
    path = f"{tmp_path}/ads.csv"
    publish(context.store, "impressions", DAYS[0], side_tables=table_digests(context.config.source))
    days = ("--from", DAYS[0], "--to", DAYS[0])
    touched(tmp_path / "ads.csv")
    code, before, _ = here("check", "-c", config, *days)
    assert path not in before
    touched(tmp_path / "ads.csv", "ad,topic\na1,planes\n")
    code_after, after, _ = here("check", "-c", config, *days)
    assert code_after == code
    assert "ads.csv changed since 1 days" in after.replace("\n", "").replace("  ", " ")
    _, report, _ = here("report", "-c", config, "--date", DAYS[0])
    assert "changed since the day was ingested" in " ".join(report.split())


@pytest.mark.covers("audit-M8")
@pytest.mark.spark
def test_ingest_warns_of_values_of_now_and_records_what_it_read(source, spark, tmp_path):
    said = []
    features = DOCUMENT["features"]
    features = features | {
        "fields": [*features["fields"], {"name": "topic", "kind": "categorical"}]
    }
    context = make_context(tmp_path, report=said.append, source=source, features=features)
    made = execute(Ingest(), context)
    (warning,) = [line for line in said if "present content" in line]
    assert "ads.csv" in warning
    assert made.version.metrics["side_tables"] == table_digests(context.config.source)
    # A rewritten file is said and makes nothing anew; another version does.
    touched(tmp_path / "ads.csv", "ad,topic\na1,planes\n")
    assert execute(Ingest(), context).version == made.version
    assert "ads.csv changed since 2026-01-01 was ingested" in said[-1]
    source["side_tables"][1]["version"] = "2"
    said.clear()
    context = make_context(tmp_path, report=said.append, source=source, features=features)
    assert execute(Ingest(), context).version != made.version
    assert not [line for line in said if "present content" in line]
