"""The files of a table: round trips, damage, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from saved_tables import FIELDS, Model, digests, header, materialised, some_table, streams_of

from elastic_embeddings.storage.checkpoint import (
    open_array,
    read_array,
    read_chunks,
    read_header,
    read_vectors,
    verify,
    write_table,
)
from elastic_embeddings.storage.files import ArrayStream, read_stream, write_stream
from features.errors import InputError


@pytest.fixture
def model():
    return some_table()


@pytest.fixture
def saved(model, tmp_path):
    write_table(tmp_path / "table", model.header(), model.arrays())
    return tmp_path / "table"


def test_every_array_comes_back_and_numpy_alone_reads_it(model, saved):
    described = read_header(saved)
    verify(saved, described)
    expected = materialised(model.arrays())
    assert set(described.arrays) == set(expected)
    assert {path.name for path in saved.iterdir()} == {f"{name}.npy" for name in expected} | {
        "table.json"
    }
    for name, array in expected.items():
        for found in (
            np.load(saved / f"{name}.npy", allow_pickle=False),
            read_array(saved, described, name),
            np.concatenate(list(read_chunks(saved, described, name, 7))),
            open_array(saved, described, name),
        ):
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


def test_the_header_comes_back(model, saved):
    found = read_header(saved)
    assert replace(found, arrays={}) == model.header()
    assert list(found.slabs["wide"].slots) == ["z", "m", "v"]  # column order of the packed state
    assert found.fields == FIELDS


def test_the_same_table_gives_the_same_bytes_whatever_the_order_of_its_arrays(
    model, saved, tmp_path
):
    write_table(tmp_path / "twin", model.header(), dict(reversed(model.arrays().items())))
    assert digests(tmp_path / "twin") == digests(saved)


def test_an_empty_table_is_written_and_read(tmp_path):
    write_table(tmp_path / "empty", Model().header(), Model().arrays())
    described = read_header(tmp_path / "empty")
    verify(tmp_path / "empty", described)
    assert open_array(tmp_path / "empty", described, "deep.weights").shape == (0, 3)
    assert [
        chunk.shape for chunk in read_chunks(tmp_path / "empty", described, "deep.weights", 10)
    ] == [(0, 3)]
    assert len(read_vectors(tmp_path / "empty").keys) == 0


def test_vectors_are_those_of_the_admitted_keys(model, saved):
    vectors = read_vectors(saved)
    admitted = {key: entry for key, entry in model.entries.items() if entry.row is not None}
    assert 0 < len(admitted) < len(model.entries)
    assert vectors.keys.tolist() == list(admitted)
    assert vectors.counts.tolist() == [entry.count for entry in admitted.values()]
    rows = np.array([entry.row for entry in admitted.values()])
    np.testing.assert_array_equal(vectors.vectors["wide"], rows[:, :1])
    np.testing.assert_array_equal(vectors.vectors["deep"], rows[:, 4:7])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_vectors_of_16_bit_slabs_are_read_as_float32(model, tmp_path, kind):
    exact = np.array([0.0, -0.0, 1.0, -2.5, 2.0**-14, 240.0], np.float32)  # both formats hold these
    slabs = {"wide": replace(model.header().slabs["wide"], dtype=kind)}
    bits = (
        exact.astype(np.float16)
        if kind == "float16"
        else (exact.view(np.uint32) >> 16).astype(np.uint16)
    )
    arrays = {
        name: array
        for name, array in materialised(model.arrays()).items()
        if not name.startswith(("deep", "wide"))
    }
    admitted = np.arange(len(arrays["keys"])) < len(exact)
    rows = {f"wide.{name}": bits[:, None] for name in ("weights", "z", "m", "v")}
    write_table(
        tmp_path / "t", header(slabs=slabs), streams_of(arrays | rows | {"admitted": admitted})
    )
    found = read_vectors(tmp_path / "t").vectors["wide"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), exact[:, None].view(np.uint32))


@pytest.mark.process
def test_vectors_are_read_without_tensorflow_or_numba(saved):
    code = (
        "import sys, pathlib; from elastic_embeddings import read_vectors;"
        f"read_vectors(pathlib.Path({str(saved)!r}));"
        "assert not {'tensorflow', 'numba', 'scipy', 'pandas', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Damage


def test_one_flipped_bit_in_any_file_is_refused_and_named(saved):
    described = read_header(saved)
    rng = np.random.default_rng(3)
    for path in sorted(saved.glob("*.npy")):
        sound = path.read_bytes()
        for place in {0, 60, len(sound) - 1, int(rng.integers(len(sound)))}:
            damaged = bytearray(sound)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=f"{path.name} .*its checksum"):
                verify(saved, described)
        path.write_bytes(sound)
    verify(saved, described)


@pytest.mark.parametrize(
    "name", ["keys", "deep.accumulator", "sketch.0.current", "tombstones", "counters.hits"]
)
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: None, "is missing"),
        (lambda content: b"", "not a NumPy array"),
        (lambda content: content[:9], "not a NumPy array"),
        (lambda content: content[:-1], "bytes"),
        (lambda content: content + b"\0", "bytes"),
    ],
    ids=["missing", "empty", "header cut", "cut", "added to"],
)
def test_a_file_of_another_size_is_refused_by_every_way_of_reading(saved, name, harm, message):
    described, path = read_header(saved), saved / f"{name}.npy"
    content = harm(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    for read in (
        lambda: verify(saved, described),
        lambda: read_array(saved, described, name),
        lambda: list(read_chunks(saved, described, name, 3)),
        lambda: open_array(saved, described, name),
    ):
        with pytest.raises(InputError, match=rf"{name}\.npy .*{message}"):
            read()


def test_small_reads_check_the_checksum_themselves(saved):
    path = saved / "deep.weights.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"deep\.weights\.npy differs from its checksum"):
        read_vectors(saved)


@pytest.mark.covers("F32")
def test_an_array_that_needs_pickle_is_refused(saved):
    np.save(saved / "keys.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"keys\.npy"):
        read_vectors(saved)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"step": 6', '"step": 9', "checksum"),
        ('"header"', '"haeder"', "cannot be read"),
        ("{", "", "cannot be read"),
        ('"kind"', '"knid"', "cannot be read"),
        ('"keys"', '"../keys"', "cannot be read"),
        ('"format": 2', '"format": 3', "format 3, this program reads 2"),
        ('"format": 2,', "", "format 1, this program reads 2: train from scratch"),
    ],
    ids=[
        "edited",
        "no header",
        "no JSON",
        "unknown name",
        "path outside",
        "newer format",
        "first format",
    ],
)
def test_a_damaged_header_is_refused_and_named(saved, before, after, message):
    path = saved / "table.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=rf"table\.json .*{message}"):
        read_header(saved)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"table\.json is missing"):
        read_header(tmp_path / "nowhere")


def test_an_array_that_the_header_does_not_name_is_refused(saved):
    with pytest.raises(InputError, match=r"no array 'deep\.z'"):
        read_array(saved, read_header(saved), "deep.z")


# What is refused before anything is written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("counts"), "missing .'counts'"),
        (lambda a: a.update(surprise=a["keys"]), "unknown .'surprise'"),
        (lambda a: a.update(admitted=a["admitted"][1:]), "other shapes .'admitted'"),
        (
            lambda a: a.update({"deep.accumulator": a["deep.weights"]}),
            "other shapes .'deep.accumulator'",
        ),
        (
            lambda a: a.update({"tombstone_steps": a["tombstone_steps"][1:]}),
            "other shapes .'tombstone_steps'",
        ),
        (
            lambda a: a.update({"counters.hits": np.zeros(3, np.int64)}),
            "other shapes .'counters.hits'",
        ),
    ],
    ids=["missing", "unknown", "entries", "slot width", "tombstones", "fields"],
)
def test_arrays_that_do_not_fit_are_refused_and_the_old_table_stays(model, saved, change, message):
    before, arrays = digests(saved), materialised(model.arrays())
    change(arrays)
    with pytest.raises(InputError, match=message):
        write_table(saved, model.header(), streams_of(arrays))
    assert digests(saved) == before


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (
            ArrayStream((5, 2), np.float32, [np.zeros((4, 2), np.float32)]),
            "4 rows, 5 were announced",
        ),
        (
            ArrayStream((5, 2), np.float32, [np.zeros((3, 2), np.float32)] * 2),
            "6 rows, 5 were announced",
        ),
        (ArrayStream((5, 2), np.float32, [np.zeros((5, 2))]), "a chunk is float64"),
        (
            ArrayStream((5, 2), np.float32, [np.zeros((5, 3), np.float32)]),
            r"a chunk is float32 \(5, 3\)",
        ),
    ],
    ids=["too few", "too many", "dtype", "width"],
)
def test_chunks_that_do_not_make_the_array_are_refused(tmp_path, stream, message):
    with pytest.raises(InputError, match=message):
        write_stream(tmp_path / "a.npy", stream)


def test_strided_and_chunked_arrays_are_written_as_numpy_would(tmp_path):
    meta = np.arange(40_000_00, dtype=np.int32).reshape(-1, 4)
    described = write_stream(tmp_path / "ours.npy", ArrayStream.of(meta[:, 1]))
    np.save(tmp_path / "numpy.npy", meta[:, 1], allow_pickle=False)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    chunks = list(read_stream(tmp_path / "ours.npy", described, 300_000))
    assert [len(chunk) for chunk in chunks] == [300_000, 300_000, 300_000, 100_000]


@pytest.mark.parametrize("content", ["notes.txt", "sub/table.json", "other.npy"])
def test_a_folder_with_something_else_in_it_is_not_replaced(model, tmp_path, content):
    path = tmp_path / "mine" / content
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(InputError, match="something other than a table"):
        write_table(tmp_path / "mine", model.header(), model.arrays())
    assert path.read_text() == "precious"
