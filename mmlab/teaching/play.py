"""One drawing, two ways to see it: a strip of small multiples, and sliders for who is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any


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
    strip:    the settings of the small multiples, each a value for every control; the sliders
              start at the first.
    name, alt: file name and alt text of the strip, as for `plotting.show`.
    controls: one a keyword of `draw`: (low, high, step) for a slider, a list for a choice, True
              or False for a box to tick (ipywidgets' own abbreviations).

    A run without a reader (MMLAB_STRICT=1) makes no widget, so its page has no empty box.
    Raises ValueError where a setting does not name just the controls.
    """
    from mmlab import plotting

    for settings in strip:
        if settings.keys() != controls.keys():
            raise ValueError(
                f"a setting of the strip names {sorted(settings)}, the controls are "
                f"{sorted(controls)}; give each setting one value for every control"
            )
    figure, axes = plotting.canvas(len(strip))
    for ax, settings in zip(axes, strip, strict=True):
        draw(ax, **settings)
    plotting.show(figure, name, alt)
    if os.environ.get("MMLAB_STRICT") != "1":
        _sliders(draw, strip[0], controls)


def _sliders(draw: Callable[..., None], start: Mapping[str, Any], controls: Mapping) -> None:
    """One picture that is drawn anew whenever a control is released."""
    import ipywidgets
    from IPython.display import display

    from mmlab import plotting

    widgets = {key: _widget(key, control, start[key]) for key, control in controls.items()}

    def redraw(**values: Any) -> None:
        figure, (ax,) = plotting.canvas()
        draw(ax, **values)
        display(figure)
        figure.clear()

    output = ipywidgets.interactive_output(redraw, widgets)
    display(ipywidgets.VBox([*widgets.values(), output]))


def _widget(key: str, control: Any, start: Any) -> Any:
    import ipywidgets

    widget = ipywidgets.interactive.widget_from_abbrev(control)
    widget.value, widget.description = start, key
    if hasattr(widget, "continuous_update"):
        widget.continuous_update = False  # a picture a move would lag behind the hand
    return widget
