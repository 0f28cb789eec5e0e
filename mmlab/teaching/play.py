"""One drawing, two ways to see it: a strip of small multiples, and sliders for who is there."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from importlib.util import find_spec
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmlab.teaching.screen import Screen

HINT = "The controls live as long as the kernel: after a restart, run this cell again."


def explore(
    draw: Callable[..., None],
    *,
    strip: Sequence[Mapping[str, Any]],
    name: str,
    alt: str,
    **controls: Any,
) -> None:
    """Show `draw` for a row of settings; where a person is there, also under sliders.

    draw:     draw(ax, **values) draws one picture into a matplotlib Axes, its title included.
    strip:    the settings of the small multiples, each with a value for every control; the sliders
              start at the first.
    name:     file name of the strip's picture, without folder or suffix, as for `plotting.show`.
    alt:      alt text of the strip's picture, as for `plotting.show`.
    controls: one per keyword of `draw`: (low, high, step) or (low, high, step, unit) for a slider,
              a list for a choice, True or False for a box to tick. Three integers make a slider of
              integers; the unit is a text for its label.

    A run without a reader (MMLAB_STRICT=1) makes no widget, so its page has no empty box.
    Raises ValueError for an empty strip, for a setting that does not name just the controls, for
    a control of another form, and where the first setting is none that its control allows.
    """
    from mmlab import plotting

    _check(strip, controls)
    with _drawn(draw, strip) as figure:
        plotting.show(figure, name, alt)
    if os.environ.get("MMLAB_STRICT") == "1":
        return
    if find_spec("ipywidgets"):
        _sliders(draw, strip[0], controls)
    else:
        print("Here are sliders where ipywidgets is installed: %pip install ipywidgets")


def _check(strip: Sequence[Mapping[str, Any]], controls: Mapping[str, Any]) -> None:
    """Find out before anything is drawn, and without a widget, what a reader would stumble on."""
    if not strip:
        raise ValueError("strip is empty; give at least one setting: a dict with every control")
    for settings in strip:
        if settings.keys() != controls.keys():
            raise ValueError(
                f"a setting of the strip names {sorted(settings)}, the controls are "
                f"{sorted(controls)}; give each setting one value for every control"
            )
    for key, control in controls.items():
        start = strip[0][key]
        fits, allowed = _allowed(key, control, start)
        if not fits:  # the widget would take the nearest value and say nothing
            raise ValueError(
                f"the strip starts at {key}={start!r}, but its control allows {allowed}; "
                "begin the strip with another setting, or widen the control"
            )


def _allowed(key: str, control: Any, start: Any) -> tuple[bool, str]:
    """Whether a control can stand at `start`, and what it allows in words."""
    if isinstance(control, bool):
        return isinstance(start, bool), "True or False"
    if isinstance(control, list) and control:
        return start in control, f"one of {control}"
    if not _is_range(control):
        raise ValueError(
            f"the control {key}={control!r} is none; give (low, high, step) with low < high and "
            "step > 0, also with a unit as a fourth, or a list of choices, or True or False"
        )
    low, high = control[:2]
    number, words = (Integral, "integers") if _is_whole(control) else (Real, "numbers")
    fits = isinstance(start, number) and low <= start <= high
    return fits, f"{words} from {low} to {high}"


def _is_range(control: Any) -> bool:
    """Whether it is (low, high, step) or (low, high, step, unit)."""
    if not isinstance(control, tuple) or len(control) not in (3, 4):
        return False
    low, high, step, *unit = control
    numbers = all(isinstance(number, Real) for number in (low, high, step))
    return numbers and low < high and step > 0 and all(isinstance(text, str) for text in unit)


def _is_whole(control: tuple) -> bool:
    return all(isinstance(number, Integral) for number in control[:3])


@contextlib.contextmanager
def _drawn(draw: Callable[..., None], strip: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """A figure with one panel per setting, which is closed in the end whatever happens."""
    from mmlab import plotting

    figure, axes = plotting.canvas(len(strip))
    try:
        for ax, settings in zip(axes, strip, strict=True):
            draw(ax, **settings)
        yield figure
    finally:
        plotting.plt.close(figure)


def _sliders(draw: Callable[..., None], start: Mapping[str, Any], controls: Mapping) -> None:
    """One picture that is drawn anew, in its place, whenever a control is released."""
    import ipywidgets
    from IPython.display import display

    from mmlab.teaching.screen import Screen

    widgets = {key: _widget(key, control, start[key]) for key, control in controls.items()}
    output, screen = ipywidgets.Output(), Screen()

    def redraw(_: Any = None) -> None:
        values = {key: widget.value for key, widget in widgets.items()}
        # one assignment is one message: the page never stands empty between two pictures
        output.outputs = (_picture(draw, values, screen),)

    for widget in widgets.values():
        widget.observe(redraw, "value")
    redraw()
    display(ipywidgets.VBox([*map(_labelled, widgets.values()), output]))
    display({"text/plain": HINT}, raw=True)  # not in the box, which goes with the kernel


def _picture(
    draw: Callable[..., None], values: Mapping[str, Any], screen: Screen
) -> dict[str, Any]:
    """The drawing as a notebook's output; an error in its place, for a callback raises unseen."""
    alt = "The picture at " + ", ".join(f"{key} = {value}" for key, value in values.items())
    try:
        with _drawn(draw, [values]) as figure:
            data = screen.output(figure, alt)
    except Exception as error:
        lines = traceback.format_exception(error)
        names = {"ename": type(error).__name__, "evalue": str(error)}
        return {"output_type": "error", **names, "traceback": lines}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def _labelled(control: Any) -> Any:
    """A slider after a box with the same number, whose label a screen reader says; others alone."""
    import ipywidgets

    boxes = {
        ipywidgets.IntSlider: ipywidgets.BoundedIntText,
        ipywidgets.FloatSlider: ipywidgets.BoundedFloatText,
    }
    if type(control) not in boxes:
        return control
    same = {name: getattr(control, name) for name in ("min", "max", "step", "value", "description")}
    look = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
    box = boxes[type(control)](**same, **look)
    control.description, control.readout = "", False
    digits = max(_digits(control.min), _digits(control.step))
    ipywidgets.link((control, "value"), (box, "value"), (lambda x: round(x, digits), lambda x: x))
    return ipywidgets.HBox([box, control], layout={"flex_flow": "row wrap"})


def _digits(number: float) -> int:
    """How many decimal places a number has: with more, a slider's 0.1 is 0.10000000000000009."""
    return max(-int(Decimal(str(number)).as_tuple().exponent), 0)


def _widget(key: str, control: Any, start: Any) -> Any:
    """The control with its name beside it, at `start`."""
    import ipywidgets

    look = {
        "value": start,
        "description": key.replace("_", " "),
        "style": {"description_width": "initial"},  # long names are not cut
        "layout": {"width": "min(100%, 480px)"},
    }
    if isinstance(control, bool):
        return ipywidgets.Checkbox(indent=False, **look)
    if isinstance(control, list):
        return ipywidgets.Dropdown(options=[(str(choice), choice) for choice in control], **look)
    low, high, step, *unit = control
    look["description"] = ", ".join([look["description"], *unit])
    bounds = {"min": low, "max": high, "step": step}
    bounds["continuous_update"] = False  # a picture a move would lag behind the hand
    if _is_whole(control):
        return ipywidgets.IntSlider(**bounds, **look)
    return ipywidgets.FloatSlider(**bounds, **look)
