"""What the tests of the notebooks share: the files, and kernels without a network."""

from pathlib import Path

import pytest

from mmlab.notebooks.catalogue import NOTEBOOKS

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
    """One test a notebook, for each test that takes ``path``."""
    if "path" in metafunc.fixturenames:
        paths = sorted(NOTEBOOKS.glob("*.ipynb"))
        metafunc.parametrize("path", paths, ids=[path.stem for path in paths])


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Python starts from here on cannot reach another machine."""
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline/sitecustomize.py").write_text(BLOCK_NETWORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "offline"))
