"""The pictures of the wider field: every method has its branch, and what is counted is counted."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch

from mmlab import plotting
from mmlab.balancers import METHODS, Joint
from mmlab.datasets import Batch, MultimodalData
from mmlab.teaching.pictures import field as pictures


def test_every_method_stands_on_one_branch_of_the_tree():
    """A new method has its place here: say which of these things it changes."""
    placed = [name for branch in pictures.TREE for name in branch.methods]
    assert len(placed) == len(set(placed))
    assert {*METHODS} - {"joint"} == {*placed}
    assert {*pictures.KNOWN} <= {*placed}


def test_the_tree_names_its_methods_and_stays_within_the_figure():
    plotting.style()
    figure = pictures.tree()
    figure.draw_without_rendering()
    (ax,) = figure.axes
    words = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert {*METHODS} - {"joint"} <= {*words}
    assert max(box.x1 for box in words.values()) <= figure.bbox.x1


def test_the_sum_is_the_diagonal():
    plotting.style()
    figure = pictures.rules({"uniform": lambda gram: torch.ones(2).double()}, (90.0, 120.0), 2.0)
    tips = [ax.get_lines()[0].get_xydata()[0] for ax in figure.axes]
    np.testing.assert_allclose(tips[0], [1, 2], atol=1e-12)
    np.testing.assert_allclose(tips[1], [0, 3**0.5], atol=1e-12)


def test_no_two_rules_of_a_figure_share_a_colour():
    plotting.style()
    names = ("PCGrad", "CAGrad", "IMTL-G", "Nash-MTL", "Aligned-MTL")
    same = {name: lambda gram: torch.ones(2).double() for name in names}
    (ax,) = pictures.rules(same, (60.0,), 2.0).axes
    marks = [line for line in ax.get_lines() if line.get_label() in names]
    assert len({line.get_color() for line in marks}) == len(marks) == len(names)


def tiny():
    draw = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(12, 5, generator=draw) for m in ("audio", "image")}
    split = Batch(inputs, torch.arange(12) % 3)
    return MultimodalData(split, split, split)


@pytest.mark.parametrize(
    ("name", "forward", "backward"), [("joint", 1, 1), ("MMPareto", 1, 2), ("BDO", 2, 1)]
)
def test_costs_are_those_of_the_passes(name, forward, backward):
    row = pictures.costs(tiny(), [name], epochs=2).loc[name]
    assert (row.forward, row.backward) == (forward, backward)
    assert row["in joint steps"] == pytest.approx((forward + 2 * backward) / 3)
    assert row.floor == METHODS[name].floor


def test_trials_count_too():
    """A super-epoch of Gradient-Blending costs its own training and trials that cost two."""
    row = pictures.costs(tiny(), ["G-Blend"], epochs=2).loc["G-Blend"]
    assert row.backward > 1


def test_the_training_at_play_has_a_row_for_each_method(monkeypatch):
    monkeypatch.setattr(pictures, "SAMPLES", 64)
    plotting.style()
    figure, (ax,) = plotting.canvas()
    methods = {"one": Joint, "two": Joint}
    found = pictures.short_trainings(methods, loudness=[0.5, 2.0], noise=[0.1])
    pictures.side_by_side(ax, found, loudness=0.5, noise=0.1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_title("left") == "audio × 0.5, noise 0.1"
    points = np.array([line.get_xydata()[0] for line in ax.get_lines()])
    assert len(points) == 6 and points[:, 0].min() >= 0 and points[:, 0].max() <= 100
    np.testing.assert_array_equal(points[:3, 0], points[3:, 0])  # the same seed
    assert (found.loc[0.5] != found.loc[2.0]).to_numpy().any()  # another setting, another training
    figure.clear()


def test_short_trainings_keep_the_type_of_their_data_and_repeat_themselves():
    data = pictures.first(tiny(), 8)
    assert len(data.test) == 8 and data.train.inputs["audio"].dtype == torch.float64
    one, two = (pictures.trained(Joint(), data, epochs=1, seed=0) for _ in range(2))
    assert pictures.apart(one, two) == 0
    assert pictures.apart(one, pictures.trained(Joint(), data, epochs=2, seed=0)) > 0
