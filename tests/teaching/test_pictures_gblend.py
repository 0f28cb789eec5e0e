"""The pictures of Gradient-Blending show the numbers of the library, and where they lie."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from mmlab.balancers.gblend import blend_weights, optimal_weights
from mmlab.plotting import LOOKS
from mmlab.teaching.pictures import gblend as pictures

G = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
SIGMA = torch.tensor([2.0, 0.8, 0.25], dtype=torch.float64)
CURVES = {  # (training, held-out); from 0 to 2: gains 1, -0.5, 1.5 and overfits 0.5, 1.5, 0.25
    "joint": (torch.tensor([2.0, 1.0, 0.5]), torch.tensor([2.0, 1.2, 1.0])),
    "audio": (torch.tensor([2.0, 1.5, 1.0]), torch.tensor([2.0, 1.4, 2.5])),
    "image": (torch.tensor([2.0, 1.0, 0.25]), torch.tensor([2.0, 1.0, 0.5])),
}


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.mark.parametrize(("head", "k"), [("joint", 0), ("audio", 1), ("image", 2)])
def test_the_title_says_gain_overfit_and_weight(ax, head, k):
    gain, overfit = torch.tensor([1.0, -0.5, 1.5]), torch.tensor([0.5, 1.5, 0.25])
    pictures.estimate(CURVES, ax, head=head, before=0, after=2)
    w = blend_weights(overfit, gain)[k]
    numbers = f"ΔG {gain[k]:+.2f}, ΔO {overfit[k]:+.2f}".replace("-", "−")
    assert ax.get_title(loc="left") + ax.get_title() == f"{head}: weight {w:.2f}\n{numbers}"


def drawn(ax, **settings):
    pictures.estimate(CURVES, ax, **settings)
    return ax.get_title(loc="left") + ax.get_title()


def test_epochs_in_the_wrong_order_are_swapped(ax):
    right = drawn(ax, head="audio", before=0, after=2)
    assert drawn(ax, head="audio", before=2, after=0) == right
    assert drawn(ax, head="audio", before=0, after=1) != right


@pytest.mark.parametrize("head", CURVES)
def test_the_arrow_spans_the_gain_and_its_colour_tells_a_rise(ax, head):
    pictures.estimate(CURVES, ax, head=head, before=0, after=2)
    (arrow,) = ax.texts
    start, end = arrow.xyann[1], arrow.xy[1]
    assert (start, end) == (2.0, CURVES[head][1][2])
    assert arrow.arrowprops["color"] == (pictures.UP if end > start else pictures.DOWN)


def test_one_checkpoint_has_no_arrow_and_equal_weights(ax):
    assert "weight 0.33" in drawn(ax, head="image", before=1, after=1)
    assert not ax.texts


@pytest.mark.parametrize("rule", ["|G|/O²", "G/O, guarded"])
def test_an_unguarded_rule_has_no_weight_between_equal_checkpoints(ax, rule):
    title = drawn(ax, head="image", before=1, after=1, rule=rule)
    assert title == "image: no weight, 0/0\nΔG +0.00, ΔO +0.00"


def test_the_bars_are_the_overfit_before_and_after(ax):
    pictures.estimate(CURVES, ax, head="joint", before=1, after=2)
    bars = [line.get_ydata() for line in ax.lines if line.get_linewidth() == 4]
    np.testing.assert_allclose(bars, [[1.0, 1.2], [0.5, 1.0]], rtol=1e-6)


def test_the_rules_are_what_their_names_say():
    overfit, gain = torch.tensor([0.5, -1.0]), torch.tensor([1.0, -2.0])
    torch.testing.assert_close(pictures.RULES["|G|/O²"](overfit, gain), torch.tensor([4, 2]) / 6)
    torch.testing.assert_close(
        pictures.RULES["G/O, guarded"](overfit, gain), torch.tensor([1, 0.0])
    )
    assert pictures.RULES["G/O², guarded"] is blend_weights


def test_second_moments_are_those_of_draws():
    corr, bias = 0.6, 1.5
    root = torch.linalg.cholesky(pictures.second_moment(SIGMA, corr))
    noise = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=SIGMA.dtype)
    o = bias * SIGMA + noise @ root.T
    found = o.T @ o / len(o)
    torch.testing.assert_close(found, pictures.second_moment(SIGMA, corr, bias), rtol=0.02, atol=0)
    torch.testing.assert_close(pictures.second_moment(SIGMA), SIGMA.square().diag())


@pytest.mark.parametrize(("correlation", "bias"), [(0.0, 0.0), (0.6, 0.0), (0.0, 2.0)])
def test_the_map_marks_the_least_and_the_formula(ax, correlation, bias):
    pictures.criterion(G, SIGMA, ax, correlation=correlation, bias=bias)
    places = {
        line.get_label(): line.get_xydata()[0] for line in ax.lines if line.get_label()[0] != "_"
    }
    moment = pictures.second_moment(SIGMA, correlation, bias)
    diagonal = pictures.over_sum(G / moment.diagonal())
    np.testing.assert_allclose(places["best"], optimal_weights(G, moment)[:2])
    np.testing.assert_allclose(places["formula"], diagonal[:2])
    shown = ax.get_title(loc="left") + ax.get_title()
    assert f"best {pictures.ratio(optimal_weights(G, moment), G, moment):.2f}" in shown
    assert f"formula {pictures.ratio(diagonal, G, moment):.2f}" in shown


def test_only_the_first_panel_of_a_strip_is_labelled():
    figure, axes = plt.subplots(1, 2)
    for ax in axes:
        pictures.estimate(CURVES, ax, head="image", before=0, after=2)
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False]
    plt.close(figure)


def curves_of(seeds):
    """Two losses of one head at three epochs; each seed's lie 0.1 above the last one's."""
    rows = [
        ("image", seed, split, epoch, start - 0.5 * epoch + 0.1 * seed)
        for seed in range(seeds)
        for split, start in (("train", 1.5), ("holdout", 2.0))
        for epoch in range(3)
    ]
    return pd.DataFrame(rows, columns=["output", "seed", "split", "epoch", "value"])


@pytest.mark.parametrize("seeds", [1, 4])
def test_losses_show_each_run_and_the_mean(ax, seeds):
    pictures.losses(curves_of(seeds), ax)
    lines = {line.get_label(): line for line in ax.lines if line.get_label()[0] != "_"}
    assert [*lines] == ["holdout", "training"]
    assert sum(line.get_linewidth() < 1 for line in ax.lines) == 2 * seeds
    mean = 0.1 * np.arange(seeds).mean()
    np.testing.assert_allclose(lines["holdout"].get_ydata(), mean + np.array([2.0, 1.5, 1.0]))
    np.testing.assert_allclose(lines["training"].get_ydata(), mean + np.array([1.5, 1.0, 0.5]))
    assert {line.get_color() for line in ax.lines} == {LOOKS["image"].color}
    assert ax.get_title(loc="left") + ax.get_title() == "image"


def test_maps_share_one_scale():
    figure, axes = plt.subplots(1, 2)
    settings = ({"correlation": 0.0}, {"bias": 2.0})
    shades = [pictures.criterion(G, SIGMA, ax, **s) for ax, s in zip(axes, settings, strict=True)]
    assert [*shades[0].levels] == [*shades[1].levels]
    pictures.scale(shades[0], axes)
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "J over its least value"
    assert [t.get_text() for t in bar.get_yticklabels()][:2] == ["1×", "2×"]
    plt.close(figure)
