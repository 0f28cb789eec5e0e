"""The pictures of notebook 05: what is drawn is what the rules give."""

import math

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from mmlab.balancers.mmpareto import pareto_gradient
from mmlab.plotting import plt
from mmlab.teaching.pictures import mmpareto as pictures


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def tips(ax: Axes) -> list[tuple[float, float]]:
    """Where the arrows g, u, sum and MMPareto end, in this order."""
    return [arrow.xy for arrow in ax.texts if getattr(arrow, "arrow_patch", None)]


def curve(ax: Axes, name: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = (line for line in ax.lines if line.get_label() == name)
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


@pytest.mark.parametrize(("angle", "ratio"), [(60, 0.5), (100, 3.0), (170, 1.0)])
def test_two_gradients_have_the_angle_and_ratio_asked_for(angle, ratio):
    g, u = pictures.plane(angle, ratio)
    assert (u.norm() / g.norm()).item() == pytest.approx(ratio)
    cosine = torch.dot(g, u) / g.norm() / u.norm()
    assert math.degrees(math.acos(cosine)) == pytest.approx(angle)
    assert max(g.norm(), u.norm()).item() == pytest.approx(1)


@pytest.mark.parametrize("gamma", [1.0, 1.5])
@pytest.mark.parametrize("angle", [80, 100, 150])
def test_the_arrows_are_the_librarys(ax, angle, gamma):
    pictures.segment(ax, angle=angle, ratio=3, gamma=gamma)
    g, u = pictures.plane(angle, 3)
    expected = torch.stack([g, u, g + u, pareto_gradient(g, u, gamma=gamma)])
    np.testing.assert_allclose(tips(ax), expected)


def test_the_point_on_the_segment_is_its_shortest(ax):
    pictures.segment(ax, angle=120, ratio=2, gamma=1.5)
    g, u = (x.numpy() for x in pictures.plane(120, 2))
    (point,) = (line for line in ax.lines if line.get_marker() == "o")
    point = np.array([point.get_xdata()[0], point.get_ydata()[0]])
    grid = np.linspace(0, 1, 10_001)[:, None]
    assert np.linalg.norm(point) <= np.linalg.norm(grid * g + (1 - grid) * u, axis=1).min() + 1e-12
    np.testing.assert_allclose(point @ (g - u), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("angle", "ratio", "said"),
    [
        (80, 3.0, "80°: no conflict"),
        (90, 3.0, "90°: no conflict"),
        (100, 3.0, "100°: a conflict, the sum serves both"),  # cos −.17 > −1/3
        (150, 3.0, "150°: the sum opposes g"),
        (150, 0.25, "150°: the sum opposes u"),
    ],
)
def test_the_title_says_whom_the_sum_opposes(ax, angle, ratio, said):
    pictures.segment(ax, angle=angle, ratio=ratio, gamma=1.5)
    assert ax.get_title(loc="left") == said or ax.get_title() == said


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_pareto_is_short_in_a_conflict_and_mmpareto_is_not(ax, ratio):
    pictures.lengths(ax, ratio=ratio, gamma=1.5)
    angles, pareto = curve(ax, "Pareto")
    before, after = angles <= 90, angles > 91
    np.testing.assert_allclose(pareto[before], 1)
    assert (pareto[after] <= 1 + 1e-12).all()
    assert ratio == 1 or (pareto[after] < 0.95).all()
    np.testing.assert_allclose(curve(ax, "MMPareto")[1], 1.5)


def test_the_direction_jumps_at_a_right_angle_and_stays_in_the_band(ax):
    pictures.directions(ax, ratio=3, gamma=1.5)
    angles, away = curve(ax, "MMPareto")
    jump = away[angles == 91][0] - away[angles == 90][0]
    assert jump == pytest.approx(2 * math.degrees(math.atan(1 / 3)) - 90, abs=2)
    assert ((angles - 90 < away) & (away < 90))[angles > 90].all()
    total = curve(ax, "sum")[1]
    assert (total > 90).any()
    assert "Pareto" not in [line.get_label() for line in ax.lines]


def test_opposite_gradients_are_drawn_too(ax):
    pictures.segment(ax, angle=180, ratio=1, gamma=1.5)
    np.testing.assert_allclose(tips(ax)[-1], 0, atol=1e-9)


@pytest.mark.parametrize(
    ("angle", "ratio", "square"), [(65, 1.5, True), (125, 1.5, True), (20, 3, False)]
)
def test_the_shortest_point_and_the_midpoint_lie_on_the_segment(ax, angle, ratio, square):
    pictures.shortest(ax, angle=angle, ratio=ratio)
    g, u = (x.numpy() for x in pictures.plane(angle, ratio))
    marks = {line.get_label(): np.array(line.get_xydata()[0]) for line in ax.lines}
    np.testing.assert_allclose(marks["midpoint"], (g + u) / 2)
    grid = np.linspace(0, 1, 10_001)[:, None]
    least = np.linalg.norm(grid * g + (1 - grid) * u, axis=1).min()
    assert np.linalg.norm(marks["shortest point"]) == pytest.approx(least, rel=1e-6)
    assert (abs(marks["shortest point"] @ (g - u)) < 1e-12) == square
    assert ax.get_aspect() == 1  # to scale


def test_all_arrows_and_names_of_the_segment_are_inside_the_picture(ax):
    for angle in (75, 95, 120, 175):
        pictures.segment(ax, angle=angle, ratio=2, gamma=1.5)
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert all(left < x < right and low < y < high for x, y in tips(ax))
