"""A small world that was run once: three simulated days through the whole chain."""

import pytest
from worlds import FIRST, LAST, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Three days, run once for all tests that only look."""
    made = make_world(tmp_path_factory.mktemp("world"))
    made.run("run", "--config", str(made.config), "--from", FIRST, "--to", LAST)
    return made
