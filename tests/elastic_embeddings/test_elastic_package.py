"""The package's front door: light to import, and every name it promises is there."""

import subprocess
import sys

import pytest

import elastic_embeddings


@pytest.mark.process
def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, elastic_embeddings;"
        "print(sorted({'tensorflow', 'numba', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("name", elastic_embeddings.__all__)
def test_every_promised_name_is_there(name):
    assert getattr(elastic_embeddings, name).__name__ == name


def test_any_other_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'Tabel'"):
        _ = elastic_embeddings.Tabel
