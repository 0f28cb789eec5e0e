"""No window opens in the tests, on any system (set here, not in the environment: kernels inherit
that, and theirs is to draw inline)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

sys.path.append(str(Path(__file__).parent))  # for `measuring`

matplotlib.use("Agg")

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several on this machine: one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW = {
    *("browser", "notebooks", "bench", "integrations"),
    *("test_bootstrap.py", "test_packaging.py", "test_stacked.py", "test_fusion.py"),
    *("test_diagnosis.py", "test_local.py", "test_workers.py", "test_cache.py", "test_identity.py"),
    *("test_stamps.py", "test_icons.py", "test_items.py", "test_watch.py"),
    *("test_several_processes.py", "test_grading.py", "test_slides.py"),
    *("test_site.py", "test_site_library.py"),
}
"""Folders and files whose tests take seconds each: `pytest -m "not slow"` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW.intersection(item.path.parts):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def figures_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Figures of a test, and of what it starts, do not replace those of a reader's run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMLAB_FIGURES", str(tmp_path_factory.mktemp("figures")))
        yield


@pytest.fixture(autouse=True)
def figures_as_found() -> Iterator[None]:
    """No test meets the open figures or the style of the one before."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
        pyplot.rcdefaults()
