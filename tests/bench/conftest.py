"""A network and sizes so small that no table takes long, and the tables as programs read them."""

import json
from collections.abc import Callable

import pytest
from torch import nn

from mmlab.bench import tables as timed
from mmlab.bench.__main__ import main
from mmlab.bench.networks import Network

TINY = Network(lambda size: nn.Linear(size, 4), {"a": (3,), "v": (2,)}, 4, 1, 8, linear=True)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(timed, "NETWORKS", {"tiny MLPs": TINY})
    for name, values in (("MODALITIES", (2, 3)), ("WIDTHS", (4, 8)), ("BATCHES", (4, 8))):
        monkeypatch.setattr(timed, name, values)


@pytest.fixture
def tables(capsys) -> Callable[..., dict]:
    def printed(*names: str) -> dict:
        """What the command line prints as JSON."""
        main([*names, "--json", "--rounds", "2"])
        result = json.loads(capsys.readouterr().out)
        assert result.pop("rounds") == 2 and result.pop("where") == "one CPU thread"
        for table in result.values():
            for row in table.values():
                assert 0 < row["lower quartile"] <= row["median"] <= row["upper quartile"]
        return result

    return printed
