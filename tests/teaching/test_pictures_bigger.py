"""The pictures of notebook 13: every stage has its fault, intervals and bars are those given."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch

from mmlab import plotting
from mmlab.experiments import share_interval
from mmlab.teaching.pictures import bigger


@pytest.fixture(autouse=True)
def style():
    plotting.style()


def test_every_stage_has_what_may_go_wrong():
    (ax,) = bigger.way().axes
    words = [text.get_text() for text in ax.texts]
    for stage, fault in bigger.WAY.items():
        assert stage in words and fault in words


def test_a_clip_shows_each_frame_and_its_sound():
    frames = torch.linspace(-2, 2, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    *pictures, sound = bigger.clip(frames, torch.rand(257, 30)).axes
    values = [ax.images[0].get_array() for ax in pictures]
    assert len(values) == 2 and values[0].min() == 0 and values[1].max() == 1
    assert sound.images[0].get_array().shape == (100, 30)


def test_the_interval_of_the_first_n_seeds():
    runs = [0.7, 0.8, 0.75, 0.72, 0.78, 0.74, 0.77]
    (ax,) = bigger.narrowing({"joint": runs}).axes
    points, line = ax.get_lines()
    np.testing.assert_allclose(points.get_ydata(), 100 * np.array(runs))
    assert line.get_xdata().tolist() == [5, 6, 7]
    assert line.get_ydata()[0] == pytest.approx(100 * np.mean(runs[:5]))
    band = ax.collections[0].get_paths()[0].vertices
    _, low, high = share_interval(runs)
    ends = band[band[:, 0] == 7][:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((100 * low, 100 * high))


def test_features_of_both_processes_reach_both():
    (ax,) = bigger.processes().axes
    words = [text.get_text() for text in ax.texts]
    assert words.count("encoders") == words.count("features\nof all 16") == 2
    arrows = [p for p in ax.patches if type(p).__name__ == "FancyArrowPatch"]
    dashed = [p for p in arrows if p.get_linestyle() == "--"]
    assert len(arrows) == 10 and len(dashed) == 2


def test_bars_stand_on_each_other_and_efficiency_is_in_percent():
    table = pd.DataFrame(
        {"encoders": 60.0, "features": [0.0, 3.0], "gradients": [0.0, 9.0], "fusion": [0.1, 4.0]}
        | {"joint": [1.0, 0.8], "MMPareto": [1.0, 0.7]},
        index=[1, 64],
    )
    left, right = bigger.costs(table).axes
    tops = [bar.get_y() + bar.get_height() for bar in left.patches]
    assert max(tops) == pytest.approx(76.0)
    drawn = {line.get_label(): line.get_ydata().tolist() for line in right.get_lines()}
    assert drawn == {"joint": [100.0, 80.0], "MMPareto": [100.0, 70.0]}
