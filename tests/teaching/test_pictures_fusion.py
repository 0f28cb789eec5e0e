"""The pictures of complex fusion: their numbers are the library's, and nothing is cut off."""

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
import torch

from mmlab import Joint, plotting
from mmlab.models import FUSIONS
from mmlab.teaching.pictures import fusion as pictures


def test_the_network_is_drawn_within_the_figure():
    plotting.style()
    figure = pictures.network()
    figure.draw_without_rendering()
    (ax,) = figure.axes
    boxes = [text.get_window_extent() for text in ax.texts]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_shares_have_a_row_per_fusion_and_a_mark_per_method():
    plotting.style()
    rows = [
        {"fusion": f, "method": m, "seed": s, "shapley a": 0.25 + 0.5 * (m == "OGM")}
        for f in ("concat", "film")
        for m in ("joint", "OGM")
        for s in range(2)
    ]
    figure = pictures.shares({"made up": (pd.DataFrame(rows), "a")}, "OGM")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["concat", "film"]
    means = [line.get_xdata() for line in ax.get_lines() if line.get_markersize() == 9]
    assert [float(x[0]) for x in means] == [25, 25, 75, 75]


@pytest.mark.parametrize(
    ("target", "alike", "bits"),
    [("a", 0.5, [0, 1, 0, 0]), ("a", 1, [1, 0, 0, 0]), ("XOR", 0.5, [0, 0, 0, 1])],
)
def test_the_parts_of_two_bits(target, alike, bits):
    figure, (ax,) = plotting.canvas()
    pictures.parts_of_two_bits(ax, target=target, alike=alike)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(bits, abs=1e-6)
    figure.clear()


def test_no_probability_is_refused():
    with pytest.raises(ValueError, match="probability"):
        pictures.two_bits("a", 1.5)


def test_a_fusion_that_adds_answers_without_interaction():
    widths = {"a": 3, "b": 2}
    h = {m: torch.randn(4, width, dtype=torch.float64) for m, width in widths.items()}
    concat = FUSIONS["concat"](widths, 5).double()
    none, a, b, both = pictures.answers(concat, h)
    torch.testing.assert_close(both - a - b + none, torch.zeros_like(both))
    film = FUSIONS["film"](widths, 5).double()
    none, a, b, both = pictures.answers(film, h)
    assert (both - a - b + none).abs().max() > 1e-3
    torch.testing.assert_close(both, film(h))


def test_pairs_of_fusion_and_method_are_compared():
    rows = {("concat", "joint"): (Joint, 0.01), ("film", "joint"): (Joint, 0.1)}
    table = pictures.compared(
        rows,
        pictures.loaded("av-digits", 64),
        encoders="mlp",
        seeds=range(1),
        epochs=1,
        measure=pictures.heard,
    )
    assert table["fusion"].tolist() == ["concat", "film"]
    assert table["method"].tolist() == ["joint", "joint"]
    concat, film = table["interaction"]
    assert concat < 1e-4 < film
    assert table[["shapley audio", "shapley image"]].sum(axis=1).tolist() == pytest.approx([1, 1])
