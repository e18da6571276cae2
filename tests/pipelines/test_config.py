"""One YAML file, strict: what it may say, and how it complains."""

from pathlib import Path

import pytest
import yaml

from features.errors import InputError
from pipelines.config import load_config

MINIMAL = {
    "name": "mine",
    "source": {"path": "logs/*.csv", "format": "csv"},
    "features": {
        "label": "click",
        "user": "user_id",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "s"},
        "fields": [{"name": "ad", "kind": "categorical"}],
    },
}


@pytest.fixture
def write(tmp_path):
    def writer(document):
        path = tmp_path / "config.yaml"
        path.write_text(
            document if isinstance(document, str) else yaml.safe_dump(document), encoding="utf-8"
        )
        return path

    return writer


def test_ten_lines_are_enough(write):
    config = load_config(write(MINIMAL))
    assert config.features.label == "click"
    assert config.training.batch_size > 0


def test_overrides_win_over_the_file(write):
    path = write({**MINIMAL, "training": {"batch_size": 100, "passes": 2}})
    config = load_config(
        path, ["training.batch_size=64", "model.hidden=[8, 4]", "model.deep.l21=0.5"]
    )
    assert (config.training.batch_size, config.training.passes) == (64, 2)
    assert (config.model.hidden, config.model.deep.l21) == ((8, 4), 0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainig": {}}, r"trainig: unknown key"),
        ({"training": {"batchsize": 3}}, r"training\.batchsize: unknown key"),
        (
            {"training": {"batch_size": 0}},
            r"training\.batch_size: .*greater than or equal to 1 \(got 0\)",
        ),
        ({"training": {"batch_size": "many"}}, r"training\.batch_size: .*integer"),
        ({"source": {"format": "csv"}}, r"source\.path: required, but missing"),
        ({"model_gate": {"min_auc": None}}, r"model_gate\.min_auc: .*number"),
    ],
)
def test_a_wrong_key_or_value_is_named(write, change, words):
    with pytest.raises(InputError, match=words) as caught:
        load_config(write({**MINIMAL, **change}))
    assert "config.yaml" in str(caught.value)


def test_every_problem_is_listed_at_once(write):
    with pytest.raises(InputError) as caught:
        load_config(write({**MINIMAL, "one": 1, "two": 2}))
    assert "one: unknown" in str(caught.value)
    assert "two: unknown" in str(caught.value)


@pytest.mark.parametrize("override", ["training.batch_size", "=3"])
def test_an_override_without_a_value_is_refused(write, override):
    with pytest.raises(InputError, match=r"key\.path=value"):
        load_config(write(MINIMAL), [override])


def test_an_override_below_a_leaf_is_refused(write):
    with pytest.raises(InputError, match="not a section"):
        load_config(write(MINIMAL), ["name.first=x"])


def test_a_missing_file_points_to_init(tmp_path):
    with pytest.raises(InputError, match="elastic-ctr init"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "words"), [("a: [1", "not valid YAML"), ("- 1\n", "mapping of sections")]
)
def test_a_file_that_is_no_mapping_is_refused(write, text, words):
    with pytest.raises(InputError, match=words):
        load_config(write(text))


def test_variables_come_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("MY_LOGS", "/somewhere")
    text = yaml.safe_dump(MINIMAL).replace("logs/*.csv", "${MY_LOGS}/${KIND:-daily}/*.csv")
    assert load_config(write(text)).source.path == "/somewhere/daily/*.csv"


def test_an_unset_variable_is_named(write):
    with pytest.raises(InputError, match="SURELY_UNSET"):
        load_config(write(yaml.safe_dump(MINIMAL).replace("logs", "${SURELY_UNSET}")))


def test_the_workspace_is_a_variable(write, tmp_path):
    text = yaml.safe_dump(MINIMAL).replace("logs", "${WORKSPACE}/logs")
    assert load_config(write(text), workspace=tmp_path).source.path == f"{tmp_path}/logs/*.csv"


@pytest.mark.parametrize("profile", sorted(Path("conf").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_profile_is_valid(profile, tmp_path):
    assert load_config(profile, workspace=tmp_path).features.fields


def test_a_group_of_unknown_fields_is_refused_before_anything_runs(write):
    with pytest.raises(InputError, match=r"config\.yaml: model\.groups names \['absent'\]"):
        load_config(
            write({**MINIMAL, "model": {"groups": [{"name": "some", "fields": ["absent"]}]}})
        )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"kind": "drop_fields", "fields": ["ad", "colour"]},
            r"drop_fields names \['colour'\]; it can name \['ad', 'price'\]",
        ),
        (
            {"kind": "prune_rows", "keep": 0.5, "fields": ["price"]},
            r"prune_rows names \['price'\]; it can name \['ad'\]",
        ),
    ],
)
def test_a_compression_step_of_unknown_fields_is_refused_before_anything_runs(write, step, message):
    fields = [*MINIMAL["features"]["fields"], {"name": "price", "kind": "numeric"}]
    document = {
        **MINIMAL,
        "features": {**MINIMAL["features"], "fields": fields},
        "compression": {"steps": [step]},
    }
    with pytest.raises(InputError, match=message):
        load_config(write(document))


BOMB = (
    "[&a [x, x, x, x, x, x, x, x, x], "
    + ", ".join(f"&{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(9))
    + "]"
)


@pytest.mark.covers("F31")
def test_aliases_that_multiply_are_refused_at_once(write):
    path = write(MINIMAL)
    with pytest.raises(
        InputError, match=r"--set compression\.steps: stands for more than 1,000,000"
    ):
        load_config(path, [f"compression.steps={BOMB}"])
    path.write_text(path.read_text() + f"\ncompression: {{steps: {BOMB}}}\n")
    with pytest.raises(InputError, match=r"config\.yaml: stands for more than"):
        load_config(path)


@pytest.mark.covers("F31")
def test_an_override_that_is_no_yaml_is_named(write):
    with pytest.raises(InputError, match=r"--set 'model.dim=\[': the value is not valid YAML"):
        load_config(write(MINIMAL), ["model.dim=["])
