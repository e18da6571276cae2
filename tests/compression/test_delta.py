"""Deltas are exact and checked; full + deltas = full, bit for bit; a reader sees no wrong row."""

import json
import os
import subprocess
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from moving_days import ROWS, SCHEMA, columns_of, learned_days

from compression.delta import delta_client
from compression.delta.content import content_digest, why_no_delta
from compression.delta.write import applied, delta_between, read_delta, sealed, write_delta
from compression.export.write import Exporter, export_model
from compression.pruning import stored_as
from features.errors import InputError
from training.packed.matrix import Form, Matrix
from training.packed.rows import Band, PackedRows, PackedSlab
from validation.model.requests import RawRequests

pytestmark = pytest.mark.slow

DAYS = 20


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return list(learned_days(tmp_path_factory.mktemp("days"), DAYS + 1))


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Raw requests of all days: ids that stayed, that went, that came back and that came."""
    days = [columns_of(day) for day in range(DAYS + 1)]
    path = tmp_path_factory.mktemp("requests") / "requests.npz"
    RawRequests.of(SCHEMA, {name: [v for day in days for v in day[name]] for name in days[0]}).save(
        path
    )
    return path


def loaded_from(folder):
    return tf.saved_model.load(str(folder / "saved_model"))


def answers(python, exported, deltas, requests, out):
    out.mkdir()
    (out / "none").mkdir()
    script = Path(__file__).with_name("delta_answers.py")
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [
        python,
        "-I",
        script,
        exported / "saved_model",
        deltas or out / "none",
        requests,
        out / "answers.npy",
    ]
    subprocess.run(command, check=True, env=quiet, cwd=out)
    return np.load(out / "answers.npy")


@pytest.mark.process
@pytest.mark.parametrize(
    "form",
    [Form.FLOAT32, Form.INT8, Form.INT4, pytest.param(Form.FLOAT16, marks=pytest.mark.sweep)],
)
def test_full_and_twenty_deltas_answer_as_a_fresh_full_export_to_the_bit(
    form, models, requests, warm_python, tmp_path
):
    days = [stored_as(model, form) for model in models]
    export_model(days[0], tmp_path / "first")
    export_model(days[-1], tmp_path / "last")
    deltas = [delta_between(before, after) for before, after in pairwise(days)]
    for number, delta in enumerate(deltas):
        write_delta(delta, tmp_path / "deltas" / f"{number:03d}")
    assert all(delta.figures["tombstones"] for delta in deltas[2:])  # who is idle for two days goes
    followed = answers(
        warm_python, tmp_path / "first", tmp_path / "deltas", requests, tmp_path / "a"
    )
    fresh = answers(warm_python, tmp_path / "last", None, requests, tmp_path / "b")
    np.testing.assert_array_equal(followed, fresh)
    assert len(fresh) == (DAYS + 1) * ROWS
    assert (
        np.abs(
            fresh - answers(warm_python, tmp_path / "first", None, requests, tmp_path / "c")
        ).max()
        > 0.05
    )


def rows_by_key(model):
    """Stored bytes by (group, key)."""
    found = {}
    for group, rows in model.tables.items():
        parts = [
            a
            for slab in rows.slabs.values()
            for a in (slab.bands[0].matrix.values, slab.bands[0].matrix.scales)
        ]
        found |= {
            (group, int(key)): b"".join(a[i].tobytes() for a in parts)
            for i, key in enumerate(rows.keys)
        }
    return found


@pytest.mark.parametrize("form", [Form.FLOAT32, Form.INT8])
def test_a_delta_is_exactly_what_changed(form, models):
    """Against dictionaries of bytes."""
    before, after = (stored_as(model, form) for model in models[3:5])
    delta, old, new = delta_between(before, after), rows_by_key(before), rows_by_key(after)
    changed = {key for key, stored in new.items() if old.get(key) != stored}
    names = {
        "": ("keys", "tombstones"),
        "items": ("group__items__keys", "group__items__tombstones"),
    }
    assert {
        (g, k) for g, (name, _) in names.items() for k in delta.arrays[name].tolist()
    } == changed
    assert {(g, k) for g, (_, name) in names.items() for k in delta.arrays[name].tolist()} == set(
        old
    ) - set(new)
    assert delta.figures == {"rows": len(changed), "tombstones": len(set(old) - set(new))}
    assert 0 < len(changed) < len(new)


@pytest.mark.parametrize("form", [Form.FLOAT32, Form.INT4])
def test_deltas_can_be_applied_in_memory_too(form, models):
    before, middle, after = (stored_as(model, form) for model in models[4:7])
    first, second = delta_between(before, middle), delta_between(middle, after)
    assert rows_by_key(applied(applied(before, first), second)) == rows_by_key(after)
    assert content_digest(applied(middle, second)) == content_digest(after)
    with pytest.raises(InputError, match="in order"):
        applied(before, second)
    with pytest.raises(InputError, match="something else"):
        applied(middle, replace(second, result=first.result))


def test_a_model_is_its_own_base_whatever_the_order_of_its_rows(models):
    model = models[2]
    table = model.tables[""]
    order = np.random.default_rng(0).permutation(len(table.keys))
    slabs = {name: PackedSlab.of(rows[order]) for name, rows in table.vectors().items()}
    shuffled = replace(model, tables={**model.tables, "": PackedRows(table.keys[order], slabs)})
    delta = delta_between(model, shuffled)
    assert delta.figures == {"rows": 0, "tombstones": 0}
    assert delta.base == delta.result == content_digest(shuffled)
    assert content_digest(models[3]) != delta.base


def test_the_export_does_not_grow_when_the_table_does_not(models, tmp_path):
    """What is exported is the content, not the free rows that a server added."""
    reports = [export_model(models[-1], tmp_path / str(number)) for number in range(3)]
    assert len({report.bytes_variables for report in reports}) == 1
    assert (
        max(r.bytes_graph for r in reports) - min(r.bytes_graph for r in reports) < 200
    )  # numbers in function names
    assert reports[0].version == content_digest(models[-1])


@pytest.mark.parametrize("form", [Form.FLOAT32, Form.INT8])
def test_an_exporter_of_many_models_writes_what_a_fresh_one_would(form, models, tmp_path):
    """Larger and smaller models in one graph: the same size, version and answers, bit for bit."""
    exporter = Exporter()
    given = {name: tf.constant(values) for name, values in columns_of(9).items() if name != "tags"}
    given |= {"tags": tf.constant([[*tags, "", ""][:2] for tags in columns_of(9)["tags"]])}
    for number in (2, 20, 9):
        model = stored_as(models[number], form)
        ours, fresh = (
            exporter.write(model, tmp_path / f"a{number}"),
            export_model(model, tmp_path / f"b{number}"),
        )
        assert (ours.version, ours.rows) == (fresh.version, fresh.rows)
        assert abs(ours.bytes_exported - fresh.bytes_exported) < 300  # numbers in function names
        answers_of = [
            loaded_from(tmp_path / f"{by}{number}").signatures["serving_default"](**given)
            for by in "ab"
        ]
        np.testing.assert_array_equal(*(answer["probability"] for answer in answers_of))


def test_a_server_has_room_for_what_a_delta_changes_and_no_more(models, tmp_path):
    export_model(models[0], tmp_path / "model")
    loaded = loaded_from(tmp_path / "model")
    for number in range(30):  # there and back: 30 deltas over the same keys
        before, after = models[number % 2], models[1 - number % 2]
        write_delta(delta_between(before, after), tmp_path / f"d{number}")
        delta_client.apply_delta(loaded, tmp_path / f"d{number}")
    for group, table in loaded.tables.items():
        rows, free = int(table._rows), table._free.numpy()
        assert rows == len(models[0].tables[group].keys) + 1 + 1024
        assert len(set(free.tolist())) == len(free) == rows - 1 - len(models[0].tables[group].keys)
        assert free.min() > 0


def test_more_new_keys_than_a_block_has_and_then_none_left(models, tmp_path):
    model, draw = models[0], np.random.default_rng(1)
    table = model.tables[""]
    keys = np.unique(draw.integers(-(2**62), 2**62, 5000))
    slabs = {
        name: PackedSlab.of(draw.normal(size=(len(keys), s.width)).astype(np.float32))
        for name, s in table.slabs.items()
    }
    large = replace(model, tables={**model.tables, "": PackedRows(keys, slabs)})
    empty = replace(model, tables={**model.tables, "": table.take(np.zeros(len(table.keys), bool))})
    export_model(model, tmp_path / "model")
    loaded = loaded_from(tmp_path / "model")
    for name, before, after in (("a", model, large), ("b", large, empty), ("c", empty, model)):
        write_delta(delta_between(before, after), tmp_path / name)
        assert delta_client.apply_delta(loaded, tmp_path / name) == content_digest(after)
        handle = loaded.tables[""]._index._table.resource_handle
        read, _ = tf.raw_ops.LookupTableExportV2(
            table_handle=handle, Tkeys=tf.int64, Tvalues=tf.int32
        )
        assert sorted(read.numpy().tolist()) == sorted(after.tables[""].keys.tolist())


def test_a_reader_meanwhile_sees_an_old_row_or_a_new_one(models, tmp_path):
    """Two quantized models of rows 1 and rows 2: no other answer while deltas go both ways."""
    one, two = (_constant(models[0], value) for value in (1.0, 2.0))
    export_model(one, tmp_path / "model")
    write_delta(delta_between(one, two), tmp_path / "up")
    write_delta(delta_between(two, one), tmp_path / "down")
    loaded = loaded_from(tmp_path / "model")
    table, keys = loaded.tables[""], tf.constant(one.tables[""].keys)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.update(np.unique(_row_values(table, keys)).tolist())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(40):
        delta_client.apply_delta(loaded, tmp_path / "up")
        delta_client.apply_delta(loaded, tmp_path / "down")
    done.set()
    reader.join()
    assert seen == {1.0, 2.0}


def test_rows_are_written_before_keys_lead_to_them_and_never_where_one_leads_now(models, tmp_path):
    export_model(models[0], tmp_path / "model")
    loaded = loaded_from(tmp_path / "model")
    graph = loaded.signatures["apply_delta"].graph
    inner = [
        n
        for f in graph.as_graph_def().library.function
        for n in f.node_def
        if n.op == "LookupTableInsertV2"
    ]
    name = next(
        f
        for f in graph.as_graph_def().library.function
        if any(n.op == "LookupTableInsertV2" for n in f.node_def)
    )
    nodes = {node.name: node for node in name.node_def}
    writes = {node.name for node in name.node_def if node.op == "ResourceScatterUpdate"}
    assert len(writes) == 4  # two groups of two float32 slabs
    reached = [writes & _before(nodes, node.name) for node in inner]
    assert all(len(before) >= 2 for before in reached)
    assert set().union(*reached) == writes
    rows = _rows_of(loaded)
    write_delta(delta_between(models[0], models[1]), tmp_path / "delta")
    delta_client.apply_delta(loaded, tmp_path / "delta")
    changed = set(delta_between(models[0], models[1]).arrays["keys"].tolist())
    after = _rows_of(loaded)
    assert changed & set(rows)
    assert not {after[key] for key in changed} & set(rows.values())
    assert {key: row for key, row in after.items() if key not in changed}.items() <= rows.items()


def _before(nodes, name):
    """Names of all nodes that a node waits for."""
    found, open_ends = set(), [name]
    while open_ends:
        for source in nodes[open_ends.pop()].input:
            parent = source.removeprefix("^").split(":")[0]
            if parent in nodes and parent not in found:
                found.add(parent)
                open_ends.append(parent)
    return found


def _rows_of(loaded):
    handle = loaded.tables[""]._index._table.resource_handle
    keys, rows = tf.raw_ops.LookupTableExportV2(
        table_handle=handle, Tkeys=tf.int64, Tvalues=tf.int32
    )
    return dict(zip(keys.numpy().tolist(), rows.numpy().tolist(), strict=True))


def _constant(model, value):
    tables = {
        group: PackedRows(
            rows.keys,
            {
                n: PackedSlab.of(np.full((len(rows.keys), s.width), value, np.float32), Form.INT8)
                for n, s in rows.slabs.items()
            },
        )
        for group, rows in model.tables.items()
    }
    return replace(model, tables=tables)


def _row_values(table, keys):
    """Decoded by hand from the loaded variables: codes · scale + offset of the keys' rows."""
    handle = table._index._table.resource_handle
    rows = tf.raw_ops.LookupTableFindV2(
        table_handle=handle, keys=keys, default_value=tf.constant(0)
    )
    matrix = table._slabs["deep"]._bands[0].matrix
    codes, scales = (
        tf.gather(matrix._values, rows),
        tf.cast(tf.gather(matrix._scales, rows), tf.float32),
    )
    return (tf.cast(codes, tf.float32) * scales[:, :1] + scales[:, 1:]).numpy()


def test_the_graph_refuses_a_delta_of_another_base_and_changes_nothing(models, tmp_path):
    export_model(models[0], tmp_path / "model")
    loaded = loaded_from(tmp_path / "model")
    arrays = delta_between(models[1], models[2]).arrays
    given = {name: tf.constant(array) for name, array in arrays.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="another model"):
        loaded.signatures["apply_delta"](**given, base=tf.constant("x"), result=tf.constant("y"))
    assert delta_client.version(loaded) == content_digest(models[0])
    assert int(loaded.tables[""]._rows) == len(models[0].tables[""].keys) + 1


@pytest.fixture
def written(models, tmp_path):
    delta = delta_between(models[0], models[1])
    return delta, write_delta(delta, tmp_path / "delta", {"number": 1}), tmp_path / "delta"


def test_it_is_read_as_it_was_written(written):
    delta, size, folder = written
    again = read_delta(folder, base=delta.base)
    assert (again.base, again.result, again.figures) == (delta.base, delta.result, delta.figures)
    assert set(again.arrays) == set(delta.arrays)
    for name, array in delta.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
        assert again.arrays[name].dtype == array.dtype
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def _cut(folder):
    path = folder / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-10])


def _flip(folder):
    data = bytearray((folder / "arrays.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "arrays.npz").write_bytes(data)


def _without_arrays(folder):
    (folder / "arrays.npz").unlink()


def _without_manifest(folder):
    (folder / "manifest.json").unlink()


def _half_a_manifest(folder):
    (folder / "manifest.json").write_text('{"format": 1, ')


def _later_format(folder):
    document = json.loads((folder / "manifest.json").read_text())
    del document["manifest_sha256"]
    (folder / "manifest.json").write_text(sealed(document | {"format": 2}))


@pytest.mark.parametrize(
    "damage", [_cut, _flip, _without_arrays, _without_manifest, _half_a_manifest, _later_format]
)
def test_a_damaged_delta_is_refused_by_us_and_by_the_client(damage, written):
    damage(written[2])
    with pytest.raises(InputError, match="delta"):
        read_delta(written[2])
    with pytest.raises(delta_client.DeltaError):
        delta_client.read_delta(written[2])


def test_a_delta_of_another_base_is_refused(written, models, tmp_path):
    with pytest.raises(InputError, match="in order"):
        read_delta(written[2], base=content_digest(models[1]))
    export_model(models[1], tmp_path / "model")
    loaded = loaded_from(tmp_path / "model")
    with pytest.raises(delta_client.DeltaError, match="in order"):
        delta_client.apply_delta(loaded, written[2])


def test_a_delta_is_never_replaced(written):
    with pytest.raises(InputError, match="another name"):
        write_delta(written[0], written[2])


def _projected(model):
    rows = model.tables[""]
    band = Band(Matrix.of(rows.slabs["deep"].rows()[:, :2], Form.INT8), np.ones((2, 4), np.float32))
    return replace(
        model,
        tables={
            **model.tables,
            "": PackedRows(rows.keys, {**rows.slabs, "deep": PackedSlab((band,))}),
        },
    )


def _banded(model):
    rows = model.tables[""]
    deep, cut = rows.slabs["deep"].rows(), 3
    bands = Band(Matrix.of(deep[:cut], Form.FLOAT32)), Band(Matrix.of(deep[cut:], Form.INT8))
    return replace(
        model,
        tables={
            **model.tables,
            "": PackedRows(rows.keys, {**rows.slabs, "deep": PackedSlab(bands)}),
        },
    )


@pytest.mark.parametrize(("changed", "why"), [(_projected, "projection"), (_banded, "bands")])
def test_bands_and_projections_have_no_delta_and_say_why(changed, why, models, tmp_path):
    model = changed(models[0])
    assert why in why_no_delta(model)
    with pytest.raises(InputError, match=why):
        delta_between(model, model)
    assert export_model(model, tmp_path / "model").version == ""
    loaded = loaded_from(tmp_path / "model")
    assert not {"apply_delta", "model_version"} & set(loaded.signatures)
    with pytest.raises(delta_client.DeltaError, match="takes no deltas"):
        delta_client.version(loaded)


def test_another_graph_needs_a_full_export(models):
    description = models[0].description
    other = replace(
        models[0],
        description=replace(
            description, schema=description.schema.model_copy(update={"timezone": "Asia/Tokyo"})
        ),
    )
    with pytest.raises(InputError, match="in full"):
        delta_between(models[0], other)
    with pytest.raises(InputError, match="in full"):
        delta_between(models[0], stored_as(models[1], Form.INT8))


def test_the_vectors_form_takes_no_deltas(models, tmp_path):
    assert export_model(models[0], tmp_path / "model", "vectors").version == ""
