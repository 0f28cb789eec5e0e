"""What the tests of the notebooks share: the files, and kernels without a network."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mmlab.notebooks.catalogue import NOTEBOOKS
from mmlab.notebooks.warm import WarmParent

sys.path.append(str(Path(__file__).parent))  # for `small`, however pytest is started

BLOCK_NETWORK = '''
"""Python imports this as it starts: a kernel reaches its own machine and no other."""
import socket

_connect = socket.socket.connect


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        if not str(address[0]).startswith("127.") and address[0] not in ("::1", "localhost"):
            raise OSError(f"no network in the smoke profile: {address}")
    return _connect(self, address)


socket.socket.connect = connect
'''


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per notebook, for each test that takes ``path``."""
    if "path" in metafunc.fixturenames:
        paths = sorted(NOTEBOOKS.glob("*.ipynb"))
        metafunc.parametrize("path", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH that keeps Python from reaching another machine."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(BLOCK_NETWORK)
    return str(folder)


@pytest.fixture
def no_network(offline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Python starts from here on cannot reach another machine."""
    monkeypatch.setenv("PYTHONPATH", offline)


@pytest.fixture(scope="session")
def warm_parent(offline: str) -> Iterator[WarmParent]:
    """One process to fork kernels from, for all tests here; they cannot reach another machine."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", offline)
        parent = WarmParent()
    with parent:
        yield parent
    assert not psutil.pid_exists(parent.pid)
