"""Pictures of the audit: what they name, mark and simulate."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from mmlab import plotting
from mmlab.teaching.pictures import audit as pictures


@pytest.fixture(autouse=True)
def style():
    plotting.style()


def test_every_place_is_named_within_the_figure():
    figure = pictures.places()
    figure.draw_without_rendering()
    (ax,) = figure.axes
    words = {text.get_text(): text.get_window_extent() for text in ax.texts if text.get_text()}
    assert {*pictures.PLACES} | {*pictures.PLACES.values()} == {*words}
    assert max(box.x1 for box in words.values()) <= figure.bbox.x1
    assert min(box.x0 for box in words.values()) >= 0


def test_effects_are_in_points_and_coloured_by_their_interval():
    shares = np.array([0.01, 0.02, 0.03, 0.02, 0.02])
    rows = {"better": shares, "worse": -shares, "open": shares - 0.02}
    figure = pictures.effects({name: pd.Series(x) for name, x in rows.items()}, 0.01, "points")
    (ax,) = figure.axes
    means = [bars.lines[0] for bars in ax.containers]
    assert [line.get_xdata()[0] for line in means] == pytest.approx([2, -2, 0])
    assert len({line.get_color() for line in means}) == 3
    assert [label.get_text() for label in ax.get_yticklabels()] == list(rows)


def test_the_rings_are_at_the_best_epoch_and_the_squares_at_the_choice_of_the_holdout():
    table = pd.DataFrame(
        {"seed": 0, "epoch": [1, 2, 3], "holdout": [0.5, 0.6, 0.9], "test": [0.3, 0.7, 0.4]}
    )
    (ax,) = pictures.epochs(table).axes
    single = [line for line in ax.lines if len(line.get_xdata()) == 1]
    marked = {line.get_marker(): line.get_xydata()[0].tolist() for line in single}
    assert marked == {"o": [2, pytest.approx(70)], "s": [3, pytest.approx(40)]}


def lucky(**settings):
    _, (ax,) = plotting.canvas()
    pictures.lucky(ax, **settings)
    assert sum(bar.get_height() for bar in ax.patches) > 0.99 * pictures.RUNS  # within the axis
    return float(ax.get_title("left").rsplit(" ", 1)[1])


def test_one_epoch_has_no_luck_and_many_have_it():
    one = lucky(epochs=1, samples=744, changed=0.1)
    many = lucky(epochs=100, samples=744, changed=1.0)
    assert abs(one) < 0.1
    # the mean of the largest of 100 normal numbers is 2.51 standard deviations
    assert many == pytest.approx(251 * (0.7 * 0.3 / 744) ** 0.5, abs=0.15)
    assert lucky(epochs=100, samples=744, changed=0.05) < many
    assert lucky(epochs=100, samples=5000, changed=1.0) < many / 2
