"""A configuration without some fields: placeholders are kept, and the result loads."""

import pytest
import yaml

from features.errors import InputError
from pipelines.cli.select_features import prune_document, write_pruned
from pipelines.config import load_config

TEXT = """
# a comment, which is lost
name: shop
source: {path: "${LOGS:-logs}/dt={date}/*.csv", format: csv}
features:
  label: click
  user: user_id
  item: ad
  timestamp: {column: time, unit: s}
  timezone: "+08:00"
  forbidden: [dwell, price_paid]
  extras: [propensity]
  fields:
    - {kind: categorical, name: ad}
    - {kind: categorical, name: person, column: user_id}
    - {kind: multi_valued, name: tags, separator: "|"}
    - {kind: numeric, name: price, transform: buckets, boundaries: [1, 10.5]}
    - {kind: time, name: hour}
    - {kind: cross, name: ad_hour, of: [ad, hour]}
graph:
  relations:
    - {left: ad, right: person}
    - {left: hour, right: person}
training: {batch_size: 64, admission: {min_count: 2, min_counts: {tags: 3, ad: 4}}}
data_gate: {null_share_by_field: {hour: 0.5, ad: 0.1}}
"""
DROPPED = ("tags", "hour", "ad_hour", "hour__person")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_pruned_file_says_the_same_of_everything_but_the_dropped(source, tmp_path):
    before, out = load_config(source), tmp_path / "new" / "pruned.yaml"
    after = write_pruned(source, DROPPED, out, tmp_path)
    assert after == load_config(out)
    assert after.features.names() == ("ad", "person", "price")
    assert after.features.model_dump(exclude={"fields"}) == before.features.model_dump(
        exclude={"fields"}
    )
    assert all(
        after.features.field(name) == before.features.field(name) for name in after.features.names()
    )
    assert [r.name for r in after.graph.relations] == ["ad__person"]
    assert after.training.admission.min_counts == {"ad": 4}
    assert after.data_gate.null_share_by_field == {"ad": 0.1}
    same = {"features", "graph", "training", "data_gate"}
    assert after.model_dump(exclude=same) == before.model_dump(exclude=same)


def test_the_source_is_left_as_it_is(source, tmp_path):
    write_pruned(source, DROPPED, tmp_path / "pruned.yaml", tmp_path)
    assert source.read_text(encoding="utf-8") == TEXT


def test_placeholders_stay_placeholders(source, tmp_path, monkeypatch):
    out = tmp_path / "pruned.yaml"
    write_pruned(source, DROPPED, out, tmp_path)
    assert "${LOGS:-logs}/dt={date}/*.csv" in out.read_text(encoding="utf-8")
    monkeypatch.setenv("LOGS", "elsewhere")
    assert load_config(out).source.path == "elsewhere/dt={date}/*.csv"


def test_overrides_count_but_are_not_written(source, tmp_path):
    out = tmp_path / "pruned.yaml"
    assert (
        write_pruned(source, DROPPED, out, tmp_path, ["training.batch_size=8"]).training.batch_size
        == 8
    )
    assert load_config(out).training.batch_size == 64


def test_nothing_dropped_is_the_same_configuration(source, tmp_path):
    assert write_pruned(source, (), tmp_path / "pruned.yaml", tmp_path) == load_config(source)


def test_a_file_that_would_not_be_valid_is_not_left_behind(source, tmp_path):
    out = tmp_path / "pruned.yaml"
    with pytest.raises(InputError, match="ad_hour"):
        write_pruned(source, ("hour",), out, tmp_path)
    assert not out.exists()


def test_names_of_a_relation_network_go_with_their_fields():
    document = yaml.safe_load(TEXT) | {
        "model": {"relations": {"fields": ["ad", "tags", "person"]}, "dim": 4}
    }
    pruned = prune_document(document, frozenset(DROPPED))
    assert pruned["model"] == {"relations": {"fields": ["ad", "person"]}, "dim": 4}


def test_a_configuration_without_optional_sections():
    document = {
        k: v for k, v in yaml.safe_load(TEXT).items() if k in ("name", "source", "features")
    }
    assert prune_document(document, frozenset({"tags"})).keys() == document.keys()


@pytest.mark.parametrize("name", ["kuairand_pure", "simulated", "movielens_1m", "globo"])
def test_every_shipped_configuration_can_lose_a_field(name, tmp_path, request):
    source = request.config.rootpath / "conf" / f"{name}.yaml"
    before = load_config(source, workspace=tmp_path)
    needed = {part for f in before.features.fields for part in getattr(f, "of", ())}
    needed |= {side for r in before.graph.relations for side in (r.left, r.right)}
    lost = next(name for name in reversed(before.features.names()) if name not in needed)
    after = write_pruned(source, (lost,), tmp_path / "pruned.yaml", tmp_path)
    assert after.features.names() == tuple(n for n in before.features.names() if n != lost)
    assert after.source == before.source
