"""`explore` without a reader and with one: ipywidgets' controls can be moved without a browser."""

import base64
import re
from html.parser import HTMLParser

import ipywidgets
import pytest

from mmlab import plotting
from mmlab.teaching import explore

plt = plotting.plt
CONTROLS = {"angle": (0, 180, 5, "degrees"), "gamma_rate": (0.0, 2.0, 0.25), "raw": False}
CONTROLS["kind"] = ["sum", "concat"]
START = {"angle": 90, "gamma_rate": 1.5, "raw": False, "kind": "concat"}
STRIP = [START, {**START, "angle": 45}, {**START, "raw": True}]


class Drawing:
    """Draws a line, and notes with which values."""

    def __init__(self):
        self.calls = []

    def __call__(self, ax, **values):
        self.calls.append(values)
        if values["angle"] == 180:
            raise ZeroDivisionError("nothing is there at 180")
        ax.plot([0, values["angle"]])
        ax.set_title(" ".join(map(str, values.values())))


@pytest.fixture
def draw():
    return Drawing()


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """What is displayed, in order."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: found.append(what))
    monkeypatch.setenv("MMLAB_FIGURES", str(tmp_path))
    monkeypatch.setitem(plt.rcParams, "savefig.dpi", 30)  # quick
    return found


@pytest.fixture
def headless(monkeypatch, shown):
    monkeypatch.setenv("MMLAB_STRICT", "1")


@pytest.fixture
def live(monkeypatch, shown):
    monkeypatch.delenv("MMLAB_STRICT", raising=False)


def play(draw, strip=STRIP, **controls):
    explore(draw, strip=strip, name="play", alt="Three lines.", **(controls or CONTROLS))


def parts(shown):
    """The controls by name, and the output under them; of a slider, what moves it."""
    (box,) = (one for one in shown if isinstance(one, ipywidgets.VBox))
    *rows, output = box.children
    assert isinstance(output, ipywidgets.Output)
    return [row.children[1] if isinstance(row, ipywidgets.HBox) else row for row in rows], output


def named(shown):
    controls, output = parts(shown)
    return dict(zip(CONTROLS, controls, strict=True)), output


def numbers(shown):
    """The box beside each slider."""
    (box,) = (one for one in shown if isinstance(one, ipywidgets.VBox))
    return [row.children[0] for row in box.children if isinstance(row, ipywidgets.HBox)]


def image(output):
    """Source and alt text of the one image in an output."""
    (shown,) = output.outputs
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append(dict(attributes))
    parser.feed(shown["data"]["text/html"])
    (tag,) = found
    assert tag["src"] == f"data:image/png;base64,{shown['data']['image/png']}"
    return tag["src"], tag["alt"]


# --- nobody there ------------------------------------------------------------------------------


def test_without_a_reader_there_is_the_strip_and_no_widget_at_all(draw, headless, shown, tmp_path):
    before = len(ipywidgets.widgets.widget._instances)
    play(draw)
    assert len(ipywidgets.widgets.widget._instances) == before
    assert draw.calls == STRIP
    (strip,) = shown
    assert strip["text/plain"] == "Three lines."
    assert {path.name for path in tmp_path.iterdir()} == {"play.png", "play.svg"}
    assert plt.get_fignums() == []


def test_the_strip_is_one_row_of_panels(draw, headless, monkeypatch):
    seen = []
    monkeypatch.setattr(plotting, "show", lambda figure, *_: seen.append(figure))
    play(draw)
    (figure,) = seen
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["90 1.5 False concat", "45 1.5 False concat", "90 1.5 True concat"]


def test_an_error_in_the_strip_is_raised_and_leaves_no_figure(draw, headless):
    with pytest.raises(ZeroDivisionError):
        play(draw, [{**START, "angle": 180}])
    assert plt.get_fignums() == []


# --- somebody there ----------------------------------------------------------------------------


def test_the_first_picture_is_drawn_once_at_the_first_setting(draw, live, shown):
    play(draw)
    assert draw.calls == [*STRIP, START]
    strip, _, hint = shown
    assert strip["text/plain"] == "Three lines."
    assert "after a restart, run this cell again" in hint["text/plain"]
    _, output = parts(shown)
    source, alt = image(output)
    assert b"Software" not in base64.b64decode(source.partition(",")[2])  # it would name a version
    assert alt == "The picture at angle = 90, gamma_rate = 1.5, raw = False, kind = concat"


@pytest.mark.parametrize(
    ("key", "value"), [("angle", 95), ("gamma_rate", 0.25), ("raw", True), ("kind", "sum")]
)
def test_each_control_redraws_the_one_output_in_its_place(draw, live, shown, key, value):
    play(draw)
    controls, output = named(shown)
    first, _ = image(output)
    states = []
    output.observe(lambda change: states.append(len(change.new)), "outputs")
    controls[key].value = value
    assert draw.calls[len(STRIP) :] == [START, {**START, key: value}]
    second, alt = image(output)
    assert second != first and f"{key} = {value}" in alt
    assert states == [1]  # never empty, never two
    assert len(shown) == 3
    controls[key].value = START[key]
    assert image(output)[0] == first


def test_moving_leaves_no_figure_behind(draw, live, shown):
    play(draw)
    controls, _ = named(shown)
    for angle in range(0, 30, 5):
        controls["angle"].value = angle
    assert plt.get_fignums() == []


def test_others_figures_are_left_alone(draw, live, shown):
    mine = plt.figure()
    play(draw)
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


def test_an_error_shows_in_the_picture_s_place_and_passes(draw, live, shown):
    play(draw)
    controls, output = named(shown)
    controls["angle"].value = 180
    (error,) = output.outputs
    assert (error["output_type"], error["ename"]) == ("error", "ZeroDivisionError")
    assert error["evalue"] == "nothing is there at 180"
    assert "in __call__" in "".join(error["traceback"])
    assert plt.get_fignums() == []
    controls["angle"].value = 90
    image(output)


def test_controls_say_their_name_unit_and_value(draw, live, shown):
    play(draw)
    (angle, rate, raw, kind), _ = parts(shown)
    labelled = [*numbers(shown), raw, kind]
    labels = [widget.description for widget in labelled]
    assert labels == ["angle, degrees", "gamma rate", "raw", "kind"]
    assert all(widget.style.description_width == "initial" for widget in labelled)
    assert isinstance(angle, ipywidgets.IntSlider) and isinstance(rate, ipywidgets.FloatSlider)
    assert isinstance(raw, ipywidgets.Checkbox) and isinstance(kind, ipywidgets.Dropdown)
    assert not angle.readout and not rate.readout, "the number stands in its box"
    assert not angle.continuous_update and not rate.continuous_update
    assert (rate.min, rate.max, rate.step) == (0.0, 2.0, 0.25)


def test_without_ipywidgets_there_is_the_strip_and_how_to_have_more(
    draw, live, shown, monkeypatch, capsys
):
    monkeypatch.setattr("mmlab.teaching.play.find_spec", lambda name: None)
    play(draw)
    (strip,) = shown
    assert strip["text/plain"] == "Three lines."
    assert "%pip install ipywidgets" in capsys.readouterr().out


@pytest.mark.parametrize("control", [(0, 180, 5), (0.05, 1.05, 0.1), (0.0, 1.0, 0.125)])
def test_a_slider_and_its_number_go_together(control, live, shown):
    low, high, step = control
    drawn = []
    explore(
        lambda ax, rate: drawn.append(rate), strip=[{"rate": low}], name="n", alt="a", rate=control
    )
    ((slider,), _), (number,) = parts(shown), numbers(shown)
    assert [(w.min, w.max, w.step, w.value) for w in (slider, number)] == [
        (low, high, step, low)
    ] * 2
    assert type(number.value) is type(low)
    number.value = high
    assert slider.value == high
    slider.value = low
    assert number.value == low
    assert drawn == [low, low, high, low], "one picture for each move"


@pytest.mark.parametrize(
    ("control", "moved", "digits"),
    [((-1.0, 1.0, 0.05), 0.10000000000000009, 0.1), ((0.0, 1.0, 0.125), 0.375, 0.375)],
)
def test_a_number_has_the_digits_of_its_step(control, moved, digits, live, shown):
    explore(lambda ax, x: None, strip=[{"x": 0.0}], name="n", alt="a", x=control)
    ((slider,), _), (number,) = parts(shown), numbers(shown)
    slider.value = moved
    assert number.value == digits


def test_choices_need_not_be_texts(live, shown):
    drawn = []
    strip = [{"size": None}]
    explore(
        lambda ax, size: drawn.append(size), strip=strip, name="n", alt="a", size=[None, (1, 2)]
    )
    (choice,), _ = parts(shown)
    choice.value = (1, 2)
    assert drawn == [None, None, (1, 2)]


# --- what an author can get wrong --------------------------------------------------------------


@pytest.mark.parametrize(
    ("strip", "said"),
    [
        ([], "strip is empty; give at least one setting"),
        ([START, {"angle": 3}], r"names \['angle'\], the controls are \['angle', 'gamma_rate'"),
        ([{**START, "size": 3}], "give each setting one value for every control"),
        ([{**START, "angle": 181}], "angle=181, but its control allows integers from 0 to 180;"),
        ([{**START, "angle": 22.5}], r"angle=22\.5, but its control allows integers from 0 to 180"),
        ([{**START, "gamma_rate": -0.1}], r"gamma_rate=-0\.1, .* numbers from 0\.0 to 2\.0;"),
        ([{**START, "gamma_rate": "1"}], "gamma_rate='1', .* begin the strip with another"),
        ([{**START, "raw": 1}], "raw=1, but its control allows True or False"),
        ([{**START, "kind": "film"}], r"kind='film', .* allows one of \['sum', 'concat'\]"),
    ],
)
def test_a_strip_that_does_not_fit_is_refused_before_anything_is_drawn(strip, said, headless, draw):
    with pytest.raises(ValueError, match=said):
        play(draw, strip)
    assert draw.calls == [] and plt.get_fignums() == []


WRONG = [3, "a", None, [], (1,), (0, 1), (1, 0, 0.1), (0, 1, 0), (0, 1, 0.1, 5), ("a", "b", "c")]


@pytest.mark.parametrize("control", [*WRONG, ipywidgets.IntSlider, range(3), {"a": 1}])
def test_a_control_of_another_form_is_refused(control, headless, draw):
    said = f"the control angle={re.escape(repr(control))} is none; give .low, high, step."
    with pytest.raises(ValueError, match=said):
        play(draw, [{"angle": 1}], angle=control)
    assert draw.calls == []
