"""Which checkpoint may be learned on from, which model serves, what may be freed."""

import json
from datetime import date

import pytest

from pipelines.store.artifacts import DamagedError, Store
from pipelines.store.cleaning import clean
from pipelines.store.lineage import ancestry, champions, input_of, sound_checkpoint, verdict_of

DAYS = [date(2024, 1, d) for d in range(1, 6)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def publish(store, artifact, day, inputs=(), version=None, **metrics):
    version = version or f"{artifact}{day.day}"
    with store.staging(artifact, day, version) as out:
        (out / "data.txt").write_text(f"{artifact} {day} {version}")
        if "verdict" in metrics:
            (out / "verdict.json").write_text(json.dumps({"verdict": metrics["verdict"]}))
        entries = {
            v.artifact: {"artifact": v.artifact, "day": v.day.isoformat(), "hash": v.hash}
            for v in inputs
        }
        return store.publish(
            out, artifact, day, version, {"stage": artifact, "inputs": entries, "metrics": metrics}
        )


@pytest.mark.parametrize(
    ("verdict", "sound"), [("blessed", True), ("refused", True), ("unsound", False)]
)
def test_only_an_unsound_checkpoint_is_passed_over(store, verdict, sound):
    checkpoint = publish(store, "checkpoint", DAYS[0])
    publish(store, "validation_report", DAYS[0], [checkpoint], verdict=verdict)
    assert sound_checkpoint(store, checkpoint) is sound


# Fault H11.
@pytest.mark.covers("H11")
def test_a_checkpoint_without_a_verdict_is_no_parent_unless_asked_for(store):
    checkpoint = publish(store, "checkpoint", DAYS[0])
    assert not sound_checkpoint(store, checkpoint)
    assert sound_checkpoint(store, checkpoint, unvalidated=True)


@pytest.mark.parametrize("verdict", ["blessed", "unsound"])
def test_the_verdict_on_an_older_version_says_nothing_about_a_new_one(store, verdict):
    old = publish(store, "checkpoint", DAYS[0], version="old")
    publish(store, "validation_report", DAYS[0], [old], verdict=verdict)
    new = publish(store, "checkpoint", DAYS[0], version="new")
    assert not sound_checkpoint(store, new)
    assert sound_checkpoint(store, new, unvalidated=True)


@pytest.mark.covers("F35", "H5")
def test_a_verdict_is_read_from_its_own_file_not_from_the_copy_in_the_commit(store):
    """Fault H5: `refused` edited to `blessed` in `_COMMIT.json`."""
    report = publish(store, "validation_report", DAYS[0], verdict="refused")
    report.manifest.write_text(report.manifest.read_text().replace("refused", "blessed"))
    edited = store.current("validation_report", DAYS[0])
    assert edited.metrics["verdict"] == "blessed"
    assert verdict_of(edited) == "refused"
    (edited.path / "verdict.json").write_text('{"verdict": "blessed"}')
    with pytest.raises(DamagedError, match=r"verdict\.json: damaged"):
        verdict_of(edited)


def test_decisions_that_promoted_the_latest_first(store):
    for day, decision in zip(DAYS[:3], [True, True, False], strict=True):
        publish(store, "promotion", day, [publish(store, "export", day)], promoted=decision)
    assert [decision.day for decision in champions(store)] == [DAYS[1], DAYS[0]]
    assert input_of(store, next(champions(store)), "export").day == DAYS[1]


def test_ancestry_goes_to_the_root_and_marks_what_is_gone(store):
    raw = publish(store, "impressions", DAYS[0])
    tree = ancestry(
        store, publish(store, "export", DAYS[0], [publish(store, "checkpoint", DAYS[0], [raw])])
    )
    assert tree["made_from"]["checkpoint"]["made_from"]["impressions"]["hash"] == raw.hash
    raw.manifest.unlink()
    assert ancestry(store, store.current("checkpoint", DAYS[0]))["made_from"]["impressions"][
        "missing"
    ]


def test_cleaning_keeps_the_latest_days_their_inputs_and_the_champion(store):
    exports = [publish(store, "export", day) for day in DAYS]
    publish(store, "promotion", DAYS[0], [exports[0]], promoted=True)
    publish(store, "promotion", DAYS[1], [exports[1]], promoted=False)
    publish(store, "checkpoint", DAYS[4], [publish(store, "checkpoint", DAYS[3])])
    freed = clean(store, 1)
    left = {
        (a, v.day) for a in ("export", "promotion", "checkpoint") for v in store.before(a, date.max)
    }
    assert left == {
        ("export", DAYS[4]),
        ("export", DAYS[0]),
        ("promotion", DAYS[0]),
        ("checkpoint", DAYS[4]),
        ("checkpoint", DAYS[3]),
    }
    assert freed.versions == 4
    assert freed.bytes > 0


def test_cleaning_removes_superseded_versions_of_kept_days(store):
    publish(store, "export", DAYS[0], version="old")
    publish(store, "export", DAYS[0], version="new")
    clean(store, 7)
    assert store.find("export", DAYS[0], "old") is None
    assert store.current("export", DAYS[0]).hash == "new"
