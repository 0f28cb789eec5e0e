"""The example in each balancer's docstring runs, and says what it says."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "gblend",
        "atf",
        "ogm",
        "mmpareto",
        "mla",
        "blend",
        "inforeg",
        "opm",
        "agm",
        "pmr",
        "mmcosine",
        "umt",
        "relearning",
        "lfm",
        "cml",
        "reconboost",
        "smv",
        "dgl",
    ],
)
def test_example_of_the_docstring(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"mmlab.balancers.{name}"))
    assert result.attempted >= 5
    assert result.failed == 0
