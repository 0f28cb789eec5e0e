"""OGM-GE's pictures draw the library's own k and every step of a run."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mmlab.balancers.ogm import modulation_coefficients
from mmlab.plotting import style
from mmlab.teaching.pictures import ogm as pictures

RATIOS = {"audio": torch.tensor([0.8, 1.5, 2.0]), "image": torch.tensor([1.25, 2 / 3, 0.5])}


@pytest.fixture
def ax():
    style()
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
        assert f"{m} {expected.mean():.2f}" in ax.get_title("left")


def test_the_curve_has_its_jump_at_1_and_the_continuous_one_has_none(ax):
    for continuous, after in ((False, 1 - np.tanh(0.8)), (True, 1.0)):
        ax.clear()
        pictures.coefficient(ax, RATIOS, alpha=0.8, continuous=continuous)
        before, beyond = ax.get_lines()[:2]
        assert before.get_ydata()[-1] == 1
        assert beyond.get_ydata()[0] == pytest.approx(after, abs=1e-4)
        assert ("continuous" in ax.get_title("left")) == continuous


def test_the_trace_shows_every_step_of_every_modality(ax):
    pictures.trace(ax, RATIOS)
    assert ax.get_legend_handles_labels()[1] == ["audio", "image"]
    for line_of, m in zip(ax.get_lines(), RATIOS, strict=False):
        np.testing.assert_allclose(line_of.get_ydata(), RATIOS[m])


def test_the_traces_of_several_runs_share_their_axis():
    style()
    figure = pictures.traces({"joint": RATIOS, "jump": RATIOS})
    assert [ax.get_title("left").split(":")[0] for ax in figure.axes] == ["joint", "jump"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    plt.close(figure)


def test_the_diagram_says_what_becomes_of_each_gradient():
    figure = pictures.network()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum("becomes" in text for text in texts) == 2
    plt.close(figure)


def test_switches_are_changes_of_the_leader():
    assert pictures.switches(RATIOS) == 0.5  # image leads, then audio, then audio
    assert pictures.switches({m: rho[1:] for m, rho in RATIOS.items()}) == 0
