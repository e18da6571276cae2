"""The reference server keeps its model whatever arrives, and says truthfully which one it is."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from moving_days import learned_days

from compression.delta.content import content_digest
from compression.delta.write import sealed
from pipelines.follow.publisher import Publisher
from training.data.arrays import read_arrays, write_arrays

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "compression" / "delta"


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    return list(learned_days(tmp_path_factory.mktemp("days"), 4))


@pytest.fixture(scope="module")
def published(versions, tmp_path_factory):
    """Full exports 0 and 3, deltas 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("published")
    publisher = Publisher(folder)
    publisher.publish_full(versions[0])
    for model in versions[1:]:
        publisher.publish_delta(model, {})
    publisher.publish_full(versions[3])
    return folder


@pytest.fixture
def server_module(monkeypatch):
    # As on a server: the two files lie side by side, and the project is not imported.
    monkeypatch.syspath_prepend(str(FOLDER))
    import delta_server

    yield delta_server
    for name in ("delta_server", "delta_client"):
        sys.modules.pop(name, None)


class Served:
    """A server of a copy of what was published, and its log."""

    def __init__(self, module, published, folder):
        self.published, self.folder, self._log = published, folder, folder / "applied.jsonl"
        self.server = module.FollowingModel(folder, self._log)

    def deliver(self, kind, number, to=None):
        target = self.at(kind, number if to is None else to)
        shutil.copytree(self.published / kind / f"{number:09d}", target)
        return target

    def at(self, kind, number):
        return self.folder / kind / f"{number:09d}"

    def look(self):
        """Look for changes and return the lines of the log that are new."""
        before = len(self.lines())
        self.server.catch_up()
        return self.lines()[before:]

    def lines(self):
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def served(server_module, published, tmp_path):
    return Served(server_module, published, tmp_path)


def written_again(folder, change):
    """Change a delta's arrays, and give it the digests of the changed ones."""
    from pipelines.store.digests import file_sha256

    arrays = dict(read_arrays(folder / "arrays.npz"))
    change(arrays)
    write_arrays(folder / "arrays.npz", arrays)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = file_sha256(folder / "arrays.npz")
    manifest.pop("manifest_sha256")
    (folder / "manifest.json").write_text(sealed(manifest))


def _narrow(folder):
    written_again(folder, lambda a: a.update(deep__values=a["deep__values"][:, :1]))


def _nan(folder):
    def change(arrays):
        arrays["deep__values"][0, 0] = np.nan

    written_again(folder, change)


def _infinite_weight(folder):
    def change(arrays):
        name = next(name for name in arrays if name.startswith("dense__"))
        arrays[name].flat[0] = np.inf

    written_again(folder, change)


def _other_dtype(folder):
    written_again(folder, lambda a: a.update(deep__values=a["deep__values"].astype(np.float64)))


def _fewer_rows(folder):
    written_again(folder, lambda a: a.update(deep__values=a["deep__values"][:-1]))


def _key_twice(folder):
    def change(arrays):
        arrays["keys"][1] = arrays["keys"][0]

    written_again(folder, change)


def _without_an_array(folder):
    written_again(folder, lambda a: a.pop("scalers"))


def _other_bytes(folder):
    data = bytearray((folder / "arrays.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "arrays.npz").write_bytes(data)


def _other_result(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "result": "0" * 64}))


def _half_a_manifest(folder):
    (folder / "manifest.json").write_text('{"format": 1, ')


def _list_as_manifest(folder):
    (folder / "manifest.json").write_text("[]")


# Fault H14: a delta of the wrong width and one full of NaN were applied and believed.
@pytest.mark.covers("H14")
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_narrow, "deep__values"),
        (_nan, "not finite"),
        (_infinite_weight, "not finite"),
        (_other_dtype, "float64"),
        (_fewer_rows, "rows for"),
        (_key_twice, "twice"),
        (_without_an_array, "scalers"),
        (_other_bytes, "damaged"),
        (_other_result, "manifest.json is damaged"),
        (_half_a_manifest, "manifest"),
        (_list_as_manifest, "manifest"),
    ],
)
def test_a_delta_that_does_not_fit_changes_nothing_until_it_is_replaced(
    damage, why, served, versions
):
    served.deliver("full", 0)
    first = served.look()[0]
    before = _rows(served)
    damage(served.deliver("deltas", 1))
    (line,) = served.look()
    assert (line["kind"], line["folder"]) == ("rejected", "deltas/000000001")
    assert why in line["reason"]
    assert (line["number"], line["version"]) == (0, content_digest(versions[0]))
    assert line["rows"] == first["rows"]
    np.testing.assert_array_equal(_rows(served), before)
    assert served.look() == []  # not tried, and not reported, again
    shutil.rmtree(served.at("deltas", 1))
    served.deliver("deltas", 1)
    (line,) = served.look()
    assert (line["kind"], line["version"]) == ("delta", content_digest(versions[1]))


def _rows(served):
    tables = served.server.model.tables
    return tables[""]._slabs["deep"]._bands[0].matrix._values.numpy()


# Fault H14: wrong base, and a number that is missing in the sequence.
@pytest.mark.covers("H14")
def test_a_delta_of_another_base_or_after_a_gap_waits_for_a_full_export(served, versions):
    served.deliver("full", 0)
    served.look()
    served.deliver("deltas", 2, to=1)
    (line,) = served.look()
    assert "in order" in line["reason"]
    shutil.rmtree(served.at("deltas", 1))
    served.deliver("deltas", 2)
    (line,) = served.look()
    assert (line["folder"], line["number"]) == ("deltas/000000001", 0)
    assert "missing" in line["reason"]
    assert served.look() == []
    served.deliver("full", 3)
    (line,) = served.look()
    assert (line["kind"], line["version"]) == ("full", content_digest(versions[3]))


# Faults H14 and F30: a damaged export, and a folder of which not every file has arrived.
@pytest.mark.covers("H14", "F30")
@pytest.mark.parametrize(
    "name",
    ["manifest.json", "saved_model/saved_model.pb", "saved_model/variables/variables.index", "all"],
)
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_an_incomplete_full_export_is_waited_for(name, how, served, versions):
    served.deliver("full", 0)
    served.look()
    folder = served.deliver("full", 3)
    paths = [p for p in folder.rglob("*") if p.is_file()] if name == "all" else [folder / name]
    for path in paths:
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-20])
    (line,) = served.look()
    assert (line["kind"], line["folder"]) == ("rejected", "full/000000003")
    assert (line["number"], line["version"]) == (0, content_digest(versions[0]))
    assert served.look() == []
    shutil.rmtree(folder)
    served.deliver("full", 3)
    (line,) = served.look()
    assert (line["kind"], line["version"]) == ("full", content_digest(versions[3]))


# Fault H14.
@pytest.mark.covers("H14")
def test_a_server_that_starts_beside_a_damaged_export_begins_with_the_one_before(served, versions):
    shutil.rmtree(served.deliver("full", 3) / "saved_model")
    (line,) = served.look()
    assert (line["kind"], line["number"], line["version"]) == ("rejected", -1, "")
    served.deliver("full", 0)
    for number in (1, 2, 3):
        served.deliver("deltas", number)
    assert [line["kind"] for line in served.look()] == ["full", "delta", "delta", "delta"]
    assert served.lines()[-1]["version"] == content_digest(versions[3])


# Fault H14: the failure comes after the checks, such as for memory.
@pytest.mark.covers("H14")
def test_a_delta_that_fails_half_way_makes_the_server_load_an_export(served, versions, monkeypatch):
    served.deliver("full", 0)
    served.look()
    table = served.server.model.tables[""]
    matrix = table._slabs["deep"]._bands[0].matrix
    served.deliver("deltas", 1)
    served.deliver("full", 3)

    def fails(**_):
        matrix._values.assign(matrix._values + 1)
        raise MemoryError

    monkeypatch.setitem(
        served.server.model.signatures._signatures,
        "apply_delta",
        _Failing(served.server.model.signatures["apply_delta"], fails),
    )
    kinds = [(line["kind"], line["number"]) for line in served.look()]
    assert kinds == [("rejected", -1), ("full", 3)]
    assert served.lines()[-1]["version"] == content_digest(versions[3])


class _Failing:
    """A signature that fails after it changed something."""

    def __init__(self, signature, fails):
        self.structured_input_signature = signature.structured_input_signature
        self._fails = fails

    def __call__(self, **inputs):
        self._fails(**inputs)


# Fault F16: the disk of the log is full or missing.
@pytest.mark.covers("F16")
def test_a_log_that_cannot_be_written_does_not_stop_the_server(
    server_module, published, versions, tmp_path, capsys
):
    shutil.copytree(published / "full" / "000000000", tmp_path / "full" / "000000000")
    shutil.copytree(published / "deltas", tmp_path / "deltas")
    server = server_module.FollowingModel(tmp_path, tmp_path / "away" / "applied.jsonl")
    server.catch_up()
    assert server.number == 3
    assert server_module.version(server.model) == content_digest(versions[3])
    assert capsys.readouterr().err.count("lost: ") == 4


def test_strange_names_in_the_folder_are_no_numbers(served, versions):
    served.deliver("full", 0)
    for name in ("²", ".000000009", "latest", "5"):
        (served.folder / "full" / name).mkdir()
    (line,) = served.look()
    assert line["version"] == content_digest(versions[0])


def test_the_publisher_finds_its_own_damage(published, versions, tmp_path):
    """A flipped bit would give deltas that no server can apply."""
    from pipelines.follow.publisher import open_publisher

    for damage in ("flip", "gap"):
        folder = tmp_path / damage
        shutil.copytree(published, folder)
        if damage == "flip":
            rows = next((folder / "full" / "000000003" / "compressed").rglob("deep.npy"))
            data = bytearray(rows.read_bytes())
            data[-1] ^= 1
            rows.write_bytes(data)
        else:
            shutil.rmtree(folder / "full" / "000000003")
            shutil.rmtree(folder / "deltas" / "000000002")
        publisher, why = open_publisher(folder)
        assert ("missing" if damage == "gap" else "not the model") in why
        assert not publisher.can_publish_delta(versions[3])
        publisher.publish_full(versions[3])
        assert publisher.number == 4
