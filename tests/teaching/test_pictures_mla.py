"""MLA's pictures draw what the library computes."""

import matplotlib

matplotlib.use("Agg")

import pytest
import torch

from mmlab import plotting
from mmlab.teaching.pictures import mla as pictures


@pytest.fixture
def ax():
    figure, (ax,) = plotting.canvas()
    yield ax
    figure.clear()


def ends(ax):
    """Where the plain step and the step taken end."""
    lines = {line.get_label(): line.get_xydata()[1] for line in ax.lines}
    return lines["plain step"], lines["step taken"]


def test_without_a_projector_the_plain_step_is_taken(ax):
    pictures.head_step(ax, angle=40, alpha=0.1, projector="none")
    plain, taken = ends(ax)
    assert taken == pytest.approx(plain)
    assert (plain**2).sum() == pytest.approx(1)


@pytest.mark.parametrize("angle", [0, 40, 135])
def test_the_restarted_projector_takes_the_others_mean_and_leaves_the_rest(ax, angle):
    pictures.head_step(ax, angle=angle, alpha=0.25, projector="restarted")
    plain, taken = ends(ax)
    assert taken[0] == pytest.approx(plain[0] * 0.25 / 1.25)  # 1 / (1 + 1/α)
    assert taken[1] == pytest.approx(plain[1])


def test_the_recursion_takes_what_nobody_asked_it_to_spare(ax):
    pictures.head_step(ax, angle=90, alpha=0.1, projector="rls")
    plain, taken = ends(ax)
    expected = 1 / (1 + pictures.BATCHES * pictures.SPREAD**2 / 0.1)
    assert taken[1] == pytest.approx(plain[1] * expected, rel=0.01)


def test_an_unknown_projector_is_named():
    with pytest.raises(ValueError, match="'rsl'; allowed are none, restarted, rls"):
        pictures.plane_projector("rsl", 0.1)


def test_the_simplex_is_one_and_its_corners_are_certain():
    grid = pictures.simplex(20)
    torch.testing.assert_close(grid.sum(-1), torch.ones(len(grid), dtype=torch.float64))
    assert (grid > 0).all() and len(grid) == 20 * 21 / 2
    assert (grid.amax(0) > 0.999).all()


def test_the_gate_stays_within_its_bounds_and_trusts_the_surer():
    grid = pictures.simplex(20)
    unsure = torch.full((3,), 1 / 3, dtype=torch.float64)
    weight = pictures.gate_weight(grid, unsure)
    assert weight.min() >= 0.5 and 0.74 < weight.max() <= 0.75
    assert weight.argmax() in grid.amax(-1).topk(3).indices


def test_the_drawn_boundary_is_where_the_fused_class_changes():
    own = torch.tensor([[0.2, 0.7, 0.1], [0.2, 0.4, 0.4]], dtype=torch.float64)
    other = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)
    mean = pictures.says_first(own, other, 0.5)
    product = own * other  # equal weights: the product of the probabilities decides
    assert ((mean > 0) == (product[:, 0] > product[:, 1:].amax(-1))).all()
    assert mean[0] < 0 < mean[1]
    own_only, other_only = (pictures.says_first(own, other, weight) for weight in (1.0, 0.0))
    assert (own_only < 0).all() and (other_only > 0).all()


@pytest.mark.parametrize("sure", [0.34, 0.6, 0.95])
def test_the_gate_is_drawn_with_its_title(ax, sure):
    pictures.gate(ax, sure=sure)
    title = ax.get_title("left") or ax.get_title()  # the house style puts it on the left
    assert f"{100 * sure:.0f} %" in title
    assert ax.collections
