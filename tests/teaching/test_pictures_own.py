"""The pictures of one's own method: gaps are those of the history, a board keeps all rows."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from mmlab import plotting
from mmlab.teaching.pictures import own as pictures


@pytest.fixture
def history():
    """Two modalities, two readings: the gap of the audio grows to 0.5, that of the image to 0.1."""
    rows = [
        (0, "train", "audio", 2.0),
        (0, "holdout", "audio", 2.0),
        (1, "train", "audio", 0.4),
        (1, "holdout", "audio", 0.9),
        (0, "train", "image", 2.0),
        (0, "holdout", "image", 2.1),
        (1, "train", "image", 1.0),
        (1, "holdout", "image", 1.1),
    ]
    found = pd.DataFrame(rows, columns=["epoch", "split", "output", "value"])
    other = found.assign(metric="loss", value=9.0)
    return pd.concat([found.assign(metric="share loss"), other], ignore_index=True)


def test_every_stage_has_its_check():
    plotting.style()
    (ax,) = pictures.way().axes
    words = [text.get_text() for text in ax.texts]
    for stage, check in pictures.WAY.items():
        assert stage in words and check in words


def test_the_last_gaps_are_holdout_minus_training(history):
    found = pictures.last_gaps(history)
    assert found.to_dict() == pytest.approx({"audio": 0.5, "image": 0.1})


def test_lines_are_of_the_share_losses_alone(history):
    plotting.style()
    one, other = pictures.gaps({"one": history, "other": history}).axes
    drawn = [line.get_ydata() for line in one.get_lines()]
    np.testing.assert_allclose(drawn, [[2.0, 0.4], [2.0, 0.9], [2.0, 1.0], [2.1, 1.1]])
    assert other.get_title("left") == "other"


def test_a_board_is_sorted_by_the_holdout():
    rows = []
    for seed in range(5):
        shift = 0.001 * seed
        for method, holdout, test in (("joint", 0.8, 0.9), ("mine", 0.9, 0.7)):
            scores = {"accuracy": test + shift, "holdout accuracy": holdout + shift}
            rows.append({"method": method, "seed": seed} | scores)
    found = pictures.board(pd.DataFrame(rows))
    assert [*found.index] == ["mine", "joint"], "although the test has another opinion"
    assert found["holdout, %"].tolist() == [90.2, 80.2]


def test_the_same_row_looks_the_same_in_both_panels(monkeypatch):
    plotting.style()
    monkeypatch.setattr(plotting, "LOOKS", plotting.LOOKS | plotting.looks(pictures.ROWS))
    runs = [("joint", 0.8), ("Brake", 0.9), ("image alone", 0.7)]
    table = pd.DataFrame(
        [{"method": m, "seed": s, "accuracy": x + s / 100} for m, x in runs for s in range(5)]
    )
    tables = {"one": table, "other": table[table["method"] != "image alone"]}
    one, other = pictures.beside_joint(tables).axes
    assert [ax.get_title("left") for ax in (one, other)] == ["one", "other"]
    (left, right) = (ax.get_lines()[0] for ax in (one, other))
    np.testing.assert_allclose(left.get_xdata(), 0.1)
    assert left.get_color() == right.get_color() and left.get_marker() == right.get_marker()


def test_arrows_that_are_compared_differ_in_colour():
    found = plotting.looks(pictures.ROWS)
    assert found["Sidestep"].color != found["PCGrad"].color
