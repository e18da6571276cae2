"""`explain-admission`: figures against a dictionary, its table, plot and errors."""

import json
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from tiny_days import DAYS, write_config

from elastic_embeddings.admission.policies import (
    AlwaysAdmit,
    ByField,
    CountAdmission,
    PoissonAdmission,
    SketchAdmission,
)
from elastic_embeddings.admission.rate_models import PlugInRate
from elastic_embeddings.admission.replay import OFFLINE, Explanation
from features.errors import InputError
from pipelines.cli.explain import PolicyInputs, default_names, policies
from pipelines.cli.explain_plot import nearest, plot_policies
from pipelines.store.artifacts import Store

ROWS, BATCH = 3000, 50
RNG = np.random.default_rng(0)
ADS = [f"a{k}" for k in RNG.zipf(1.3, ROWS) % 700]
TAGS = [[f"t{k}" for k in RNG.zipf(1.5, RNG.integers(0, 3)) % 50] for _ in range(ROWS)]


@pytest.fixture
def day(tmp_path):
    """A workspace with one ingested day, and the options that name it."""
    store = Store(tmp_path / "workspace")
    columns = {
        "record_id": np.arange(ROWS),
        "label": np.arange(ROWS) % 2,
        "timestamp_ms": np.arange(ROWS) * 1000,
    }
    table = pa.table({**columns, "user": ["u"] * ROWS, "ad": ADS, "tags": TAGS})
    with store.staging("impressions", DAYS[0], "abc") as out:
        (out / "impressions").mkdir()
        pq.write_table(table, out / "impressions" / "part-0.parquet")
        store.publish(
            out,
            "impressions",
            DAYS[0],
            "abc",
            {"stage": "ingest", "inputs": {}, "metrics": {}, "seconds": 1.0},
        )
    config = write_config(
        tmp_path,
        training={"batch_size": BATCH, "admission": {"min_count": 4, "min_counts": {"tags": 2}}},
    )
    return ["--config", config, "--date", "2026-01-01"]


def by_hand(batches, threshold):
    """Rows and trained events of an exact counter."""
    counts, rows, trained = Counter(), set(), 0
    for batch in batches:
        counts.update(batch)
        rows |= {value for value in batch if counts[value] >= threshold}
        trained += sum(value in rows for value in batch)
    return len(rows), trained


def batched(lists):
    return [
        [value for values in lists[start : start + BATCH] for value in values]
        for start in range(0, ROWS, BATCH)
    ]


def results_of(out):
    """(policy, field) → record; what is not JSON's, such as NaN, fails."""
    printed = json.loads(out, parse_constant=pytest.fail)
    return printed, {(record["policy"], record["field"]): record for record in printed["results"]}


def test_json_has_the_figures_of_a_dictionary(here, day):
    code, out, _ = here("explain-admission", *day, "--json")
    printed, results = results_of(out)
    assert code == 0
    facts = {"date": "2026-01-01", "impressions": "abc", "min_count": 4, "batch_size": BATCH}
    assert {name: printed[name] for name in facts} == facts
    assert list(dict.fromkeys(policy for policy, _ in results)) == [OFFLINE, *default_names(4)]
    for field, lists in (("ad", [[ad] for ad in ADS]), ("tags", TAGS)):
        total = Counter(value for values in lists for value in values)
        kept = {value for value, count in total.items() if count >= 4}
        offline = results[OFFLINE, field]
        assert (offline["events"], offline["keys"], offline["rows"]) == (
            total.total(),
            len(total),
            len(kept),
        )
        assert offline["trained"] == sum(total[value] for value in kept)
        for k in (2, 4):
            counted = results[f"count:{k}", field]
            assert (counted["rows"], counted["trained"]) == by_hand(batched(lists), k)
            assert counted["share_trained"] == counted["trained"] / total.total()
    for name in ("rows", "trained", "events", "keys"):
        assert (
            results["poisson:4", None][name]
            == results["poisson:4", "ad"][name] + results["poisson:4", "tags"][name]
        )


def test_poisson_is_the_one_near_the_offline_filter(here, day):
    _, results = results_of(
        here(
            "explain-admission",
            *day,
            "--json",
            "--field",
            "ad",
            "--min-count",
            "10",
            "--set",
            "training.batch_size=1",
        )[1]
    )
    share = {
        policy: record["share_trained"]
        for (policy, field), record in results.items()
        if field == "ad"
    }
    rows = {policy: record["rows"] for (policy, field), record in results.items() if field == "ad"}
    assert share["count:10"] < share["poisson:10"] < share["plug-in:10"]
    assert rows["poisson:10"] < rows["plug-in:10"] < rows["count:2"]
    assert results["sketch:10", "ad"] == {**results["count:10", "ad"], "policy": "sketch:10"}


def test_configured_is_what_the_configuration_says(here, day):
    _, results = results_of(
        here("explain-admission", *day, "--json", "--policy", "configured", "--policy", "count:2")[
            1
        ]
    )
    assert results["configured", "tags"]["rows"] == results["count:2", "tags"]["rows"]
    assert (
        results["configured", "ad"]["rows"]
        == results[OFFLINE, "ad"]["rows"]
        < results["count:2", "ad"]["rows"]
    )
    assert here("explain-admission", *day, "--policy", "configured", "--field", "ad")[0] == 0


def test_the_table_shows_all_fields_and_each(here, day):
    code, out, _ = here("explain-admission", *day, "--policy", "count:2", "--policy", "always")
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.splitlines()
        if line.startswith("│")
    ]
    assert code == 0
    together, ad, tags = cells[:3], cells[3:7], cells[7:]
    assert [row[0] for row in together] == [OFFLINE, "count:2", "always"]
    assert together[0][2:] == ["1.00", together[0][3], "100.0%", "100.0%"]
    assert together[2][3] == "100.0%"
    assert ad[0] == [f"ad ({len(set(ADS))})", "", "", "", "", ""]
    assert ad[2][:2] == ["count:2", str(by_hand(batched([[ad] for ad in ADS]), 2)[0])]
    assert [row[0] for row in tags[1:]] == [OFFLINE, "count:2", "always"]


def test_one_field_needs_one_table(here, day):
    out = here("explain-admission", *day, "--field", "tags")[1]
    assert "by field" not in out
    assert out.count(OFFLINE) == 1


def test_a_count_that_nothing_reaches_leaves_blanks(here, day):
    code, out, _ = here("explain-admission", *day, "--min-count", "9999", "--policy", "count")
    assert code == 0
    assert "–" in out
    _, results = results_of(
        here("explain-admission", *day, "--min-count", "9999", "--policy", "count", "--json")[1]
    )
    assert results["count:9999", None]["precision"] is results["count:9999", None]["recall"] is None


@pytest.mark.slow
def test_the_picture_is_drawn(here, day, tmp_path):
    picture = tmp_path / "new" / "admission.png"
    assert here("explain-admission", *day, "--plot", picture)[0] == 0
    pixels = imread(picture)
    assert min(pixels.shape[:2]) > 600
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


REFUSED = {
    "a day that is not there": (
        ["--date", "2026-01-02"],
        r"2026-01-02 is not ingested.*2026-01-01.*elastic-ctr ingest",
    ),
    "an unknown field": (["--field", "add"], r"--field add: the id fields are ad, tags"),
    "an unknown policy": (["--policy", "bloom"], r"--policy 'bloom': expected.*count:2"),
    "a policy without a number": (["--policy", "count:many"], r"'count:many'"),
    "a threshold of 0": (["--policy", "count:0"], r"min_count is 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said_in_one_line(here, day, case):
    arguments, message = REFUSED[case]
    code, out, err = here("explain-admission", *day, *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err.replace("\n", " "))


SETTING = PolicyInputs(10, {"ad": 1000, "tag": 0}, capacity=500, configured=CountAdmission(7))


def test_names_stand_for_policies():
    made = policies(["always", "count:2", "count", "sketch:3", "configured"], SETTING)
    expected = [
        AlwaysAdmit(),
        CountAdmission(2),
        CountAdmission(10),
        SketchAdmission(3, 500),
        CountAdmission(7),
    ]
    assert made == dict(
        zip(["always", "count:2", "count:10", "sketch:3", "configured"], expected, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "prior", "half"),
    [("poisson", None, False), ("poisson-half", None, True), ("plug-in", PlugInRate(), False)],
)
def test_poisson_rules_know_the_length_of_each_field(name, prior, half):
    (policy,) = policies([name], SETTING).values()
    assert isinstance(policy, ByField)
    assert policy.policies["ad"] == PoissonAdmission(
        10, prior=prior, until=1000, threshold_only=half, sketch=None
    )
    assert policy.policies["tag"].until == 1


@pytest.mark.parametrize("name", ["", "Count", "count:-1", "count:1.5", "always:3", "configured:2"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="expected KIND"):
        policies([name], SETTING)


def line(policy, rows, trained):
    return Explanation(policy, None, 1000, 500, rows, trained, 1.0, 1.0)


OFFLINE_LINE = line(OFFLINE, 100, 840)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                line("below", 90, 829),
                line("near", 160, 831),
                line("nearer", 170, 841),
                line("above", 400, 912),
            ],
            "near",
        ),
        ([line("below", 90, 800), line("above", 400, 870)], "above"),
        ([line("below", 90, 820), line("above", 400, 870)], "below"),
        ([line("nothing", 0, 0)], None),
        ([], None),
    ],
)
def test_the_nearest_trains_what_the_offline_filter_trains_on_the_fewest_rows(lines, expected):
    found = nearest([OFFLINE_LINE, *lines])
    assert (found.policy if found else None) == expected


@pytest.mark.parametrize(
    "lines", [[OFFLINE_LINE], [line(OFFLINE, 0, 0), line("count:2", 0, 0)], [OFFLINE_LINE] * 12]
)
def test_odd_results_are_drawn_too(lines, tmp_path):
    assert plot_policies(lines, 10, "a day", tmp_path / "plot.png").stat().st_size > 10_000
