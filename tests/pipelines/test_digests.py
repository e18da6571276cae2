"""Content digests see data and nothing else."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.store.digests import content_digest


def write_table(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": values}), path, **options)


def digest_of(tmp_path, name, fill):
    folder = tmp_path / name
    folder.mkdir()
    fill(folder)
    return content_digest(folder)


def test_parquet_counts_by_rows_not_by_encoding_or_file_names(tmp_path):
    one = digest_of(
        tmp_path,
        "one",
        lambda f: write_table(f / "t" / "part-0-abc.parquet", [1, 2, 3], compression="snappy"),
    )
    two = digest_of(
        tmp_path,
        "two",
        lambda f: write_table(
            f / "t" / "part-0-xyz.parquet", [1, 2, 3], compression="zstd", use_dictionary=False
        ),
    )
    other = digest_of(
        tmp_path, "other", lambda f: write_table(f / "t" / "part-0-abc.parquet", [1, 3, 2])
    )
    assert one == two != other


def test_a_table_may_be_split_into_other_files(tmp_path):
    def split(folder):
        write_table(folder / "t" / "part-0.parquet", list(range(5)))
        write_table(folder / "t" / "part-1.parquet", [9])

    def reordered(folder):
        write_table(folder / "t" / "part-0.parquet", [9])
        write_table(folder / "t" / "part-1.parquet", list(range(5)))

    assert digest_of(tmp_path, "a", split) != digest_of(tmp_path, "b", reordered)


def test_arrays_count_by_value_type_and_shape(tmp_path):
    def save(array):
        return lambda folder: np.save(folder / "a.npy", array)

    digests = [
        digest_of(tmp_path, str(i), save(a))
        for i, a in enumerate(
            [
                np.zeros(4, np.float32),
                np.zeros(4, np.float64),
                np.zeros((2, 2), np.float32),
                np.ones(4, np.float32),
            ]
        )
    ]
    assert len(set(digests)) == 4


def test_npz_counts_by_its_arrays(tmp_path):
    one = digest_of(
        tmp_path, "one", lambda f: np.savez(f / "a.npz", x=np.arange(3), y=np.arange(2))
    )
    two = digest_of(
        tmp_path, "two", lambda f: np.savez_compressed(f / "a.npz", y=np.arange(2), x=np.arange(3))
    )
    assert one == two


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        ({"step_s": 9}, True),
        ({"examples_per_s": 1}, True),
        ({"input_share": 1}, True),
        ({"auc": 0.6}, False),
    ],
)
def test_measured_times_in_json_do_not_count(tmp_path, change, equal):
    def save(document):
        return lambda folder: (folder / "m.json").write_text(json.dumps(document))

    base = {"auc": 0.7, "step_s": 1.5, "examples_per_s": 3e4, "input_share": 0.1}
    one = digest_of(tmp_path, "one", save(base))
    two = digest_of(tmp_path, "two", save({**base, **change}))
    assert (one == two) is equal


def test_pictures_and_reports_do_not_count(tmp_path):
    def fill(text):
        def write(folder):
            (folder / "plots").mkdir()
            (folder / "plots" / "roc.png").write_text(text)
            (folder / "_SUCCESS").write_text(text)

        return write

    assert digest_of(tmp_path, "one", fill("a")) == digest_of(tmp_path, "two", fill("b"))
