"""Pictures after each other: the axes stay where they are, unless a label would be cut."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from mmlab import plotting
from mmlab.teaching.screen import EDGE, Screen


@pytest.fixture(autouse=True)
def house_style():
    with plt.rc_context():
        plotting.style()
        yield
    plt.close("all")


def picture(screen, label="y", panels=1):
    """The figure that was shown, and its pixels."""
    figure, axes = plotting.canvas(panels)
    for ax in axes:
        ax.set(ylabel=label, xlim=(0, 1))
    data = screen.output(figure, "what it shows")
    return figure, np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))


def left(figure):
    return figure.axes[0].get_position().x0


def is_whole(pixels):
    """Whether nothing reaches the edge."""
    edge = np.ones(pixels.shape[:2], dtype=bool)
    edge[EDGE:-EDGE, EDGE:-EDGE] = False
    return (pixels[edge] == pixels[0, 0]).all()


def test_a_picture_is_that_of_a_saved_figure():
    figure, pixels = picture(Screen())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    saved = np.asarray(Image.open(buffer).convert("RGB"))
    np.testing.assert_array_equal(pixels, saved)


def test_axes_stay_where_they_are_with_shorter_labels():
    screen = Screen()
    first, _ = picture(screen, "two\nlines")
    then, pixels = picture(screen)
    assert left(then) == left(first) > left(picture(Screen())[0])
    assert is_whole(pixels)


def test_a_label_that_would_be_cut_is_laid_out_anew():
    screen = Screen()
    first, _ = picture(screen)
    then, pixels = picture(screen, "five\nlines\nof\nlong\ntext")
    assert left(then) > left(first)
    assert is_whole(pixels)
    fresh, _ = picture(Screen(), "five\nlines\nof\nlong\ntext")
    assert left(then) == pytest.approx(left(fresh))


def test_a_picture_is_drawn_once_where_it_fits(monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = []
    draw = FigureCanvasAgg.draw
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda self: (drawn.append(1), draw(self)))
    screen = Screen()
    for _ in range(3):
        picture(screen)
    assert len(drawn) == 3


def test_another_number_of_panels_is_laid_out_anew():
    screen = Screen()
    picture(screen)
    two, pixels = picture(screen, panels=2)
    fresh, _ = picture(Screen(), panels=2)
    assert [ax.get_position().x0 for ax in two.axes] == [ax.get_position().x0 for ax in fresh.axes]
    assert is_whole(pixels)
