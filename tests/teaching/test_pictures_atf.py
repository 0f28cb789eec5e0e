"""The pictures of λ: they follow the rules of the library, and show the second hop."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import same_color

from mmlab.teaching.pictures import atf as pictures


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize("rule", pictures.RULES)
def test_factors_stay_a_split_of_one_and_losses_fall_to_the_floor(rule):
    path = pictures.track(rule, rate=0.5, floor=0.7, steps=300)
    for factors in (path.factors, path.preliminary):
        assert (factors >= 0).all()
        torch.testing.assert_close(factors.sum(1), torch.ones(len(factors)).double())
    assert (path.losses.diff(dim=0) <= 0).all()
    assert path.losses[-1, 1].item() == pytest.approx(0.7, abs=0.01)


def test_ace_moves_in_one_hop_and_bdo_in_two():
    ace, bdo = (pictures.track(rule, rate=0.3, floor=0.0) for rule in ("ace", "bdo"))
    assert torch.equal(ace.factors[1:], ace.preliminary)
    assert torch.equal(ace.preliminary[0], bdo.preliminary[0]), "hop 1 is ACE's"
    assert (bdo.factors[1:, 0] < bdo.preliminary[:, 0]).all(), "the quick one gives rate away"


def test_the_turned_sign_feeds_the_one_that_improved():
    first = {rule: pictures.track(rule, 0.3, 0.0).factors[1, 0] for rule in pictures.RULES}
    assert first["bdo"] < first["ace"] < first["bdo, sign turned"]


def test_without_a_rate_nothing_is_tracked():
    for rule in pictures.RULES:
        assert torch.equal(pictures.track(rule, 0.0, 0.5).factors.unique(), torch.tensor([0.5]))


def test_a_floor_draws_the_whole_rate():
    path = pictures.track("ace", rate=0.5, floor=1.0, steps=300)
    assert path.factors[-1, 1] > 0.99


def test_an_unknown_rule_names_the_allowed():
    with pytest.raises(ValueError, match="'adam'; allowed are 'ace', 'bdo'"):
        pictures.track("adam", 0.3, 0.0)


@pytest.mark.parametrize("rule", pictures.RULES)
def test_hops_draws_the_factors_and_the_second_hop_of_bdo_alone_in_black(ax, rule):
    pictures.hops(ax, rule=rule, rate=0.3, floor=0.2)
    path = pictures.track(rule, 0.3, 0.2)
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    for m, name in enumerate(pictures.MODALITIES):
        assert list(drawn[name]) == path.factors[:, m].tolist()
    black = [line for line in ax.lines if same_color(line.get_color(), pictures.SECOND_HOP)]
    assert len(black) == (0 if rule == "ace" else 2 * pictures.STEPS)
    for line, (half, end) in zip(
        black, zip(path.preliminary[:, 0], path.factors[1:, 0], strict=True), strict=False
    ):
        assert list(line.get_ydata()) == [half, end]
    assert "a = 0.3" in ax.get_title(loc="left") + ax.get_title()
