"""Pictures of missing modalities: what they name and choose is what the tables say."""

import math

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from mmlab import plotting
from mmlab.teaching.pictures import missing as pictures

SEEDS = range(5)


def expected(table, audio, image, split="test"):
    return (1 - image) * table[f"{split} both"] + image * table[f"{split} audio"]


def table(**methods):
    """Per method: accuracy with both and with the audio alone, on holdout and test."""
    rows = []
    for method, (both, audio) in methods.items():
        for seed in SEEDS:
            row = {"method": method, "seed": seed}
            for split in ("holdout", "test"):
                jitter = 0.001 * (seed - 2)
                row |= {f"{split} both": both + jitter, f"{split} audio": audio - jitter}
                row[f"{split} image"] = both
            for kind in ("mean input", "mean feature"):
                row |= {f"{kind} audio": audio, f"{kind} image": both}
            rows.append(row | {f"test error {left}": 0.1 for left in ("both", "audio", "image")})
    return pd.DataFrame(rows)


@pytest.fixture
def one():
    plotting.style()
    return table(joint=(0.9, 0.5), ensemble=(0.8, 0.6), MLA=(0.8, 0.6))


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_the_network_names_the_three_places():
    plotting.style()
    assert {"1", "2", "3"} <= {*texts(pictures.network())}


def test_lines_end_where_the_patterns_are(one):
    found = pictures.over_rates(one, lambda own, rate: expected(own, 0, rate))
    ends = found[found.method == "joint"].groupby("rate")["value"].mean()
    assert ends[0] == pytest.approx(0.9) and ends[100] == pytest.approx(0.5)
    assert len(pictures.question(one, expected).axes) == 2
    assert len(pictures.rates({0: one, 40: one}, expected, ["joint", "MLA"]).axes) == 2


def test_the_holdout_chooses_and_the_test_is_shown(one):
    name, gain, p = pictures.chosen(one, expected, 0.0, "ensemble")
    assert name == "joint" and p < 0.05 and gain == pytest.approx(0.1)
    other = one.assign(**{"test both": 0.8})  # the test has another opinion
    name, gain, p = pictures.chosen(other, expected, 0.0, "ensemble")
    assert name == "joint" and gain == pytest.approx(0) and p > 0.05
    name, gain, p = pictures.chosen(one, expected, 1.0, "ensemble")
    assert name == "ensemble" and math.isnan(p)
    few = one[one["seed"] < 2]
    assert math.isnan(pictures.chosen(few, expected, 0.0, "ensemble")[2])
    found = texts(pictures.winners({0: one}, expected, "ensemble", rates=(0, 100)))
    assert found == ["joint\n+10.0", "ensemble"]


def test_a_frame_is_thick_where_the_gain_counts_among_all_cells(one):
    def widths(shaken, rates):
        figure = pictures.winners({0: shaken}, expected, "ensemble", rates)
        return [frame.get_linewidth() for frame in figure.axes[0].patches]

    joint = (one["method"] == "joint").to_numpy()
    luck = np.where(joint, np.tile(np.repeat([-0.08, -0.04, 0, 0.04, 0.09], 1), 3), 0)
    shaken = one.assign(**{"test both": one["test both"] + luck})
    p = pictures.chosen(shaken, expected, 0.0, "ensemble")[2]
    assert 0.025 < p < 0.05
    assert widths(shaken, (0,)) == [3] and widths(shaken, (0, 0)) == [0, 0]


def test_fillings_and_the_ensemble_stand_side_by_side(one):
    found = pictures.filled(one, "audio").groupby("method")["value"].mean()
    assert found["ensemble"] == pytest.approx(0.6) and found["zeros"] == pytest.approx(0.5)
    assert {*found.index} == {"zeros", "mean input", "mean feature", "ensemble"}
    assert len(pictures.fillings(one).axes) == 2
    assert len(pictures.calibration(one, ["joint", "MLA"]).axes) == 3


def test_gaps_and_real_gaps(one):
    figure = pictures.gaps({"Catalan": {"letter": 0.9}, "Danish": {"letter": 0.0}})
    assert [ax.get_title("left") for ax in figure.axes] == ["Catalan", "Danish"]
    spoken = one.assign(**dict.fromkeys(("on real", "on random", "on real, vote"), 0.5))
    assert len(pictures.real_gaps({"real": spoken, "random": spoken}).axes) == 3


def test_play_shows_each_method_at_its_accuracy(one):
    figure, (ax,) = plotting.canvas()
    pictures.at_rates(ax, tables={0: one}, expected=expected, trained=0, audio=0, image=100)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["joint", "ensemble", "MLA"]
    means = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(sorted({*np.round(means, 6)} & {50.0, 60.0}), [50, 60])
    figure.clear()
