"""OGM-GE's pictures draw the library's own k, and the race obeys the law it is drawn for."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mmlab.balancers.ogm import modulation_coefficients
from mmlab.teaching.pictures import ogm as pictures

RATIOS = {"audio": torch.tensor([0.8, 1.5, 2.0]), "image": torch.tensor([1.25, 2 / 3, 0.5])}


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def line(ax, marker):
    return next(line for line in ax.get_lines() if line.get_marker() == marker)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.8])
def test_steps_of_a_run_stand_at_their_coefficient(ax, alpha, continuous):
    pictures.coefficient(ax, RATIOS, alpha=alpha, continuous=continuous)
    for m, marker in (("audio", "s"), ("image", "^")):
        expected = modulation_coefficients(RATIOS[m][:, None], alpha, continuous=continuous)[:, 0]
        np.testing.assert_allclose(line(ax, marker).get_xdata(), RATIOS[m])
        np.testing.assert_allclose(line(ax, marker).get_ydata(), expected, rtol=1e-6)
        assert f"{m}: mean k {expected.mean():.2f}" in ax.get_legend_handles_labels()[1]


def test_the_curve_has_its_jump_at_1_and_the_continuous_one_has_none(ax):
    for continuous, after in ((False, 1 - np.tanh(0.8)), (True, 1.0)):
        ax.clear()
        pictures.coefficient(ax, RATIOS, alpha=0.8, continuous=continuous)
        before, beyond = ax.get_lines()[:2]
        assert before.get_ydata()[-1] == 1
        assert beyond.get_ydata()[0] == pytest.approx(after, abs=1e-4)
        assert ("continuous" in ax.get_title()) == continuous


@pytest.mark.parametrize("loudness", [1.0, 2.0, 3.0])
def test_without_modulation_the_part_of_the_margin_is_that_of_the_squares(loudness):
    _, part = pictures.quiet_part(loudness, alpha=0.0, continuous=False)
    np.testing.assert_allclose(part, 1 / (1 + loudness**2), rtol=1e-6)


@pytest.mark.parametrize("continuous", [False, True])
def test_modulation_gives_the_quiet_feature_more_and_never_the_lead(continuous):
    _, plain = pictures.quiet_part(2.0, alpha=0.0, continuous=continuous)
    _, part = pictures.quiet_part(2.0, alpha=0.8, continuous=continuous)
    assert (part[10:] > plain[10:]).all()
    assert part.max() < 0.51


def test_the_race_draws_both_runs_by_name(ax):
    pictures.race(ax, loudness=2.0, alpha=0.8, continuous=False)
    assert ax.get_legend_handles_labels()[1] == ["joint", "modulated"]
    joint, modulated = ax.get_lines()[:2]
    assert joint.get_ydata()[-1] == pytest.approx(0.2)
    assert modulated.get_ydata()[-1] > joint.get_ydata()[-1]
    assert ax.get_title() == "2 times as loud\nα = 0.8, with the jump"
