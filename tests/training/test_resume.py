"""A training that is interrupted anywhere continues from its last state to the same bytes."""

import shutil
from dataclasses import replace

import pytest
from training_data import MODEL, SCHEMA, TRAINING, array_bytes, planted_day, read_json

from training.fit.resume import SavedStates
from training.fit.trainer import TrainRequest, train_day
from training.settings import GroupSettings, ModelSettings, OptimizerSettings

pytestmark = [pytest.mark.slow, pytest.mark.covers("F2")]

ALWAYS = 1e-9
LASSO = OptimizerSettings(learning_rate=0.05, l21=0.02, l1=0.001, beta_1=0.0)
GROUPS = (GroupSettings(name="ids", fields=("user_id", "item_id"), dim=8),)

# Name → model, training; each has a state that no other one has.
RECIPES = {
    "counts, eviction, lasso": (
        {"deep": LASSO, "wide": LASSO},
        {"admission": {"min_count": 3}, "eviction": {"zero_rows": True, "idle_days": 1}},
    ),
    "poisson, ftrl": (
        {"deep": {"kind": "ftrl"}, "wide": {"kind": "rowwise_adagrad"}},
        {"admission": {"kind": "poisson", "min_count": 4, "horizon": 3000, "capacity": 512}},
    ),
    "batch norm, dropout, bfloat16, groups": (
        {"norm": "batch", "dropout": 0.2, "storage": "bfloat16", "groups": GROUPS},
        {"admission": {"min_count": 2}},
    ),
    "passes, hours, sampled": (
        {"dense": {"kind": "amsgrad"}},
        {"passes": 2, "learn_by": "hour", "negative_rate": 0.5, "informative_rate": 0.7},
    ),
    "fusion, sketch, warm-up": (
        {"kind": "fusion", "members": ("deepfm", "dcnv2"), "cross_layers": 1, "relations": {}},
        {
            "admission": {"kind": "sketch", "min_count": 3, "capacity": 512},
            "staleness": {"max_days": 1, "action": "warn", "warmup_steps": 20},
            "passes": 2,
        },
    ),
}


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    return [planted_day(folder / str(day), day) for day in range(2)]


def settings(name, every_s):
    model, training = RECIPES[name]
    return (
        ModelSettings.model_validate(MODEL.model_dump() | model),
        type(TRAINING).model_validate(TRAINING.model_dump() | training | {"save_every_s": every_s}),
    )


def killed_after(count):
    """Return a receiver of log lines that ends the training after so many saves."""
    saves = []

    def log(line):
        if line.startswith("saved the state"):
            saves.append(line)
            if len(saves) == count:
                raise Killed

    return log


def with_kills(request, out, counts):
    """Train with a kill after each number of saves, then to the end; return the last lines."""
    for count in counts:
        with pytest.raises(Killed):
            train_day(request, out, log=killed_after(count))
        shutil.rmtree(out, ignore_errors=True)
    lines = []
    train_day(request, out, log=lines.append)
    return lines


@pytest.mark.parametrize("name", RECIPES)
def test_an_interrupted_training_ends_in_the_same_bytes(days, tmp_path, name):
    model, training = settings(name, ALWAYS)
    first = TrainRequest(SCHEMA, model, training, (), days[0])
    second = replace(
        first,
        partition=days[1],
        previous_partition=days[0],
        previous_checkpoint=tmp_path / "1",
        gap_days=2,
    )
    # The undisturbed trainings save nothing: saving must not change the result either.
    train_day(first, tmp_path / "1")
    train_day(second, tmp_path / "2")

    # The first kill is within the slice of the day before.
    lines = with_kills(replace(second, states=tmp_path / "states"), tmp_path / "again", [2, 7])
    assert array_bytes(tmp_path / "again") == array_bytes(tmp_path / "2")
    assert "interrupted" in lines[0]


def test_the_times_are_those_of_both_trainings_and_the_rest_is_equal(days, tmp_path):
    model, training = settings("poisson, ftrl", ALWAYS)
    request = TrainRequest(SCHEMA, model, training, (), days[0])
    train_day(request, tmp_path / "plain")
    with_kills(replace(request, states=tmp_path / "states"), tmp_path / "out", [10])

    plain, resumed = (read_json(tmp_path / name / "metrics.json") for name in ("plain", "out"))
    times = {"examples_per_s", "examples_per_cpu_s", "step_s", "input_s", "cpu_s", "input_share"}
    assert array_bytes(tmp_path / "plain") == array_bytes(tmp_path / "out")
    assert plain.keys() == resumed.keys()
    assert {k: v for k, v in plain.items() if k not in times} == {
        k: v for k, v in resumed.items() if k not in times
    }


def test_a_damaged_state_is_not_used_and_said(days, tmp_path):
    model, training = settings("poisson, ftrl", ALWAYS)
    request = TrainRequest(SCHEMA, model, training, (), days[0], states=tmp_path / "states")
    train_day(replace(request, states=None), tmp_path / "plain")
    with pytest.raises(Killed):
        train_day(request, tmp_path / "out", log=killed_after(3))
    (state,) = (tmp_path / "states").iterdir()
    (state / "table" / "deep.weights.npy").write_bytes(b"half")

    lines = with_kills(request, tmp_path / "out", [])
    assert "is not used" in lines[0]
    assert "deep.weights" in lines[0]
    assert array_bytes(tmp_path / "out") == array_bytes(tmp_path / "plain")


def test_a_state_that_cannot_be_written_is_said_and_training_goes_on(days, tmp_path):
    model, training = settings("poisson, ftrl", ALWAYS)
    blocked = tmp_path / "states"
    blocked.write_text("a file in place of the folder")
    request = TrainRequest(SCHEMA, model, training, (), days[0], states=blocked)
    lines = []
    train_day(request, tmp_path / "out", log=lines.append)
    assert "could not be saved" in lines[0]
    assert str(blocked) in lines[0]


def test_nothing_is_saved_before_it_is_due(days, tmp_path):
    for every_s in (0, 600):
        model, training = settings("poisson, ftrl", every_s)
        folder = tmp_path / f"states{every_s}"
        request = TrainRequest(SCHEMA, model, training, (), days[0], states=folder)
        train_day(request, tmp_path / f"out{every_s}")
        assert not folder.exists()
    assert SavedStates(None, 1, print).restored(None) is None
