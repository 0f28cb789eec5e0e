"""No window opens in the tests, on any system (set here, not in the environment: kernels inherit
that, and theirs is to draw inline)."""

import sys
from collections.abc import Iterator

import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def figures_as_found() -> Iterator[None]:
    """No test meets the open figures or the style of the one before."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
        pyplot.rcdefaults()
