"""The published layout becomes codes by field; what the training rows do not have is 0; nothing is
lost on the way.
"""

import gzip
from pathlib import Path

import numpy as np
import pytest
from frappe_files import ROWS, write_frappe
from harness.frappe_data import FIELDS, SPLITS, Frappe

HEADER = ",".join(("label", *FIELDS))


def write(folder: Path, name: str, *rows: str, header: str = HEADER) -> None:
    with gzip.open(folder / f"{name}.csv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join((header, *rows)) + "\n")


def test_codes_are_places_among_the_training_rows_codes_and_0_is_unknown(tmp_path: Path):
    write(tmp_path, "train", "1,70,300,1,2,3,4,5,6,7,8", "0,20,300,1,2,3,4,5,6,7,9")
    write(tmp_path, "valid", "1,20,300,1,2,3,4,5,6,7,8")
    write(tmp_path, "test", "0,50,999,1,2,3,4,5,6,7,5")
    data = Frappe.read(tmp_path)
    assert data.sizes == (2, 1, 1, 1, 1, 1, 1, 1, 1, 2)
    np.testing.assert_array_equal(data.train.codes[:, [0, 1, 9]], [[2, 1, 1], [1, 1, 2]])
    np.testing.assert_array_equal(data.valid.codes[:, [0, 1, 9]], [[1, 1, 1]])
    np.testing.assert_array_equal(data.test.codes[:, [0, 1, 9]], [[0, 0, 0]])
    np.testing.assert_array_equal(data.train.label, [1, 0])


def test_other_columns_are_refused_with_the_file(tmp_path: Path):
    for name in SPLITS:
        write(tmp_path, name, "1,2", header="label,user")
    with pytest.raises(ValueError, match=r"train.csv.gz.*'user'"):
        Frappe.read(tmp_path)


def test_what_is_written_for_other_libraries_is_read_back(tmp_path: Path):
    write_frappe(tmp_path)
    data = Frappe.read(tmp_path)
    data.write(tmp_path / "data.npz")
    again = Frappe.load(tmp_path / "data.npz")
    assert again.sizes == data.sizes
    assert {name: len(getattr(again, name)) for name in SPLITS} == ROWS
    assert again.digest() == data.digest()
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(again, name).codes, getattr(data, name).codes)


def test_the_digest_changes_with_a_label(tmp_path: Path):
    write_frappe(tmp_path)
    data = Frappe.read(tmp_path)
    before = data.digest()
    data.test.label[0] = 1 - data.test.label[0]
    assert data.digest() != before


def test_the_real_files_have_the_published_sizes(data_folder: Path):
    folder = data_folder / "frappe_x1"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set ELASTIC_CTR_DATA to a folder with frappe_x1")
    data = Frappe.read(folder)
    assert [len(getattr(data, name)) for name in SPLITS] == [202_027, 57_722, 28_860]
    assert [len(np.unique(column)) for column in data.train.codes.T] == list(data.sizes)
