"""The parts of information, against what counting and the literature give."""

import pytest
import torch
from scipy.optimize import minimize

from mmlab.datasets.bits import distribution
from mmlab.evaluation.information import information_parts, mutual_information

PARTS = ("redundant", "unique a", "unique b", "synergistic")


@pytest.mark.parametrize(
    "counts", [(1, (0, 0), 0), (0, (1, 0), 0), (0, (0, 1), 0), (0, (0, 0), 1), (1, (1, 1), 1)]
)
def test_the_parts_of_bits_are_their_counts(counts):
    redundant, unique, synergistic = counts
    found = information_parts(distribution(redundant, unique, synergistic), steps=20)
    assert [found[name] for name in PARTS] == pytest.approx(
        [redundant, *unique, synergistic], abs=1e-6
    )


def test_and_has_the_known_parts():
    """Bertschinger et al. 2014: AND has 0.311 bits redundant and 0.5 synergistic."""
    p = torch.zeros(2, 2, 2, dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            p[a & b, a, b] = 0.25
    found = information_parts(p)
    assert found["redundant"] == pytest.approx(0.3113, abs=1e-4)
    assert found["synergistic"] == pytest.approx(0.5, abs=1e-4)
    assert max(abs(found["unique a"]), abs(found["unique b"])) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_the_search_ends_where_another_one_does(seed):
    """Of two bits only two numbers are free, q(a = 1, b = 1, y): scipy searches these."""
    p = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = (p**3) / (p**3).sum()
    ya, yb = p.sum(2), p.sum(1)
    least, most = (ya[:, 1] + yb[:, 1] - ya.sum(1)).clamp(min=0), torch.minimum(ya[:, 1], yb[:, 1])

    def told(place):
        both = least + (most - least) * torch.as_tensor(place)
        none = ya[:, 0] - yb[:, 1] + both
        q = torch.stack([none, yb[:, 1] - both, ya[:, 1] - both, both], -1)
        return mutual_information(q.clamp(min=0))

    found = minimize(told, [0.5, 0.5], bounds=[(0, 1)] * 2, options={"ftol": 1e-15})
    total = mutual_information(p.flatten(1))
    assert total - information_parts(p)["synergistic"] == pytest.approx(found.fun, abs=1e-6)


def test_the_parts_sum_to_all_the_information():
    p = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p /= p.sum()
    found = information_parts(p)
    assert sum(found.values()) == pytest.approx(mutual_information(p.flatten(1)))
    assert min(found.values()) > -1e-4
    assert found["redundant"] + found["unique a"] == pytest.approx(mutual_information(p.sum(2)))


def test_what_is_no_distribution_is_refused():
    with pytest.raises(ValueError, match="no distribution"):
        information_parts(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="Allowed are p"):
        information_parts(torch.ones(2, 2))
