"""The house style: fixed, distinct looks; intervals in place; whole files with alt text."""

import base64
import html
import os
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import ScalarFormatter
from nbconvert import HTMLExporter
from nbformat import v4

from mmlab import plotting
from mmlab.experiments import Diagnosis, interval, share_interval
from mmlab.experiments.findings import Finding
from mmlab.files import output_folder


@pytest.fixture
def table() -> pd.DataFrame:
    accuracy = {"joint": [0.80, 0.84, 0.82, 0.81, 0.79], "image": [0.95, 0.96, 0.97, 0.94, 0.98]}
    return pd.DataFrame(
        [(m, seed, a) for m, runs in accuracy.items() for seed, a in enumerate(runs)],
        columns=["method", "seed", "accuracy"],
    )


@pytest.fixture
def shown(monkeypatch, tmp_path) -> list:
    """What `show` displays, with its files sent to a temporary folder."""
    displayed = []
    monkeypatch.setenv("MMLAB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setattr(
        "IPython.display.display", lambda *a, **options: displayed.append((*a, options))
    )
    return displayed


@pytest.fixture
def axes():
    _, (ax,) = plotting.canvas()
    yield ax
    plt.close("all")


def test_importing_mmlab_does_not_import_matplotlib():
    code = "import sys, mmlab; assert not {'matplotlib', 'seaborn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_known_name_keeps_its_look_whatever_else_is_drawn():
    alone = plotting.looks(["image"])["image"]
    beside = plotting.looks(["zeta", "joint", "image", "alpha"])["image"]
    assert alone == beside == plotting.LOOKS["image"]


def test_an_unknown_name_keeps_its_look_in_any_order():
    assert plotting.looks(["smell", "joint"])["smell"] == plotting.looks(["smell"])["smell"]
    assert plotting.looks(["smell", "touch"]) == plotting.looks(["touch", "smell"])
    names = [f"method {i}" for i in range(12)]  # so many that some want the same look
    assert plotting.looks(names) == plotting.looks(names[::-1])


def test_an_unknown_name_keeps_its_look_in_every_process():
    names = ["smell", "touch", "taste"]
    code = f"from mmlab import plotting; print([plotting.looks([n])[n] for n in {names}])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str([plotting.looks([name])[name] for name in names])


def test_looks_come_in_the_order_of_the_names_each_once():
    found = plotting.looks(["zeta", "joint", "alpha", "zeta"])
    assert list(found) == ["zeta", "joint", "alpha"]
    assert found == plotting.looks(["zeta", "joint", "alpha"])


def test_modalities_differ_in_colour_and_in_line_and_in_marker():
    known = [plotting.LOOKS[name] for name in ("joint", "audio", "image", "text")]
    for part in range(3):
        assert len({look[part] for look in known}) == len(known)


def test_no_two_known_looks_share_a_line_or_a_marker():
    for part in (1, 2):
        assert len({look[part] for look in plotting.LOOKS.values()}) == len(plotting.LOOKS)


@pytest.mark.parametrize(
    "together", [["OGM", "OGM-GE"], ["ACE", "BDO"], ["G-Blend", "OGM-GE", "MMPareto", "MLA"]]
)
def test_methods_drawn_together_differ_in_colour(together):
    names = ["joint", "audio", "image", "uniform", *together]
    assert len({look.color for look in plotting.looks(names).values()}) == len(names)


def test_other_names_of_a_method_have_its_look():
    assert plotting.looks(["ATF"])["ATF"] == plotting.LOOKS["ACE"]
    assert plotting.looks(["Uniform"])["Uniform"] == plotting.LOOKS["uniform"]


def test_looks_never_collide():
    names = [*plotting.LOOKS, *(f"method {i}" for i in range(12))]
    assert len(set(plotting.looks(names).values())) == len(names)


def test_four_unknown_names_have_four_colours_and_all_lines():
    found = plotting.looks(f"method {i}" for i in range(4)).values()
    assert len({look.color for look in found}) == 4
    assert len({look.linestyle for look in found}) == 3


def test_an_unknown_name_avoids_the_colours_of_the_known_ones():
    known = ["uniform", "MMPareto", "OGM-GE"]
    found = plotting.looks([*known, "mine", "yours"])
    assert len({look.color for look in found.values()}) == 5


def test_too_many_names_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"13 names .* panels"):
        plotting.looks(f"method {i}" for i in range(13))


def _bars(ax):
    """Ends of the horizontal error bars, by row from the top."""
    return [container.lines[2][0].get_segments()[0][:, 0] for container in ax.containers]


def test_comparison_draws_each_interval_at_its_row(table, axes):
    plotting.comparison(table, ax=axes)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["joint", "image"]
    for bar, name in zip(_bars(axes), ["joint", "image"], strict=True):
        _, low, high = share_interval(table[table.method == name].accuracy)
        np.testing.assert_allclose(bar, [low, high])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first method on top


def test_comparison_shows_every_run(table, axes):
    plotting.comparison(table, ax=axes)
    drawn = np.concatenate([line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 5])
    np.testing.assert_allclose(np.sort(drawn), np.sort(table.accuracy))


def test_differences_are_paired_by_seed(table, axes):
    shuffled = table.sample(frac=1, random_state=0).sort_values("method", ascending=False)
    plotting.differences(shuffled, ax=axes)
    paired = np.array([0.95, 0.96, 0.97, 0.94, 0.98]) - np.array([0.80, 0.84, 0.82, 0.81, 0.79])
    np.testing.assert_allclose(_bars(axes), [interval(paired)[1:]])


def test_differences_say_to_what_and_have_a_line_at_0(table, axes):
    plotting.differences(table, baseline="image", ax=axes)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["joint"]
    assert axes.get_xlabel() == "accuracy minus image, points"
    assert [0, 0] in [list(line.get_xdata()) for line in axes.lines]
    assert axes.xaxis.get_major_formatter()(-0.125, 0) == "−12.5"


def test_a_figure_says_what_it_is_told_to_say(table):
    _, panels = plotting.canvas(3)
    plotting.comparison(table, ax=panels[0])
    plotting.comparison(table, label="right, %", ax=panels[1])
    plotting.differences(table, label="gain, points", ax=panels[2])
    assert [ax.get_xlabel() for ax in panels] == ["accuracy, %", "right, %", "gain, points"]
    plt.close("all")


def test_a_method_looks_the_same_in_both_panels(axes):
    names = ["joint", *(f"method {i}" for i in range(9))]
    rows = [(m, seed, 0.1 * seed) for m in names for seed in (0, 1)]
    table = pd.DataFrame(rows, columns=["method", "seed", "accuracy"])
    _, panels = plotting.canvas(2)
    plotting.comparison(table, ax=panels[0])
    plotting.differences(table, baseline="method 4", ax=panels[1])
    drawn = [
        {label.get_text(): bar[0].get_color() for label, bar in zip(labels, bars, strict=True)}
        for labels, bars in ((ax.get_yticklabels(), ax.containers) for ax in panels)
    ]
    assert drawn[1] == {name: drawn[0][name] for name in names if name != "method 4"}


def test_one_run_has_no_interval(table, axes):
    with pytest.raises(ValueError, match="at least 2 runs"):
        plotting.comparison(table[table.seed == 0], ax=axes)


def test_curves_draw_the_mean_and_the_band(axes):
    history = pd.DataFrame(
        [(s, e, "audio", s + e) for s in range(5) for e in (1, 2)],
        columns=["seed", "epoch", "output", "value"],
    )
    plotting.curves(history, ax=axes)
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_ydata(), [3, 4])
    assert line.get_color() == plotting.LOOKS["audio"].color
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    _, low, _ = interval([1, 2, 3, 4, 5])
    _, _, high = interval([2, 3, 4, 5, 6])
    np.testing.assert_allclose([edges.min(), edges.max()], [low, high])


def test_curves_come_in_the_table_s_order_with_few_marks_and_whole_epochs(axes):
    rows = [
        (s, e, name, 0.1 * s) for name in ("text", "audio") for s in range(5) for e in range(20)
    ]
    history = pd.DataFrame(rows, columns=["seed", "epoch", "output", "value"])
    plotting.curves(history, percent=True, ax=axes)
    assert [line.get_label() for line in axes.lines] == ["text", "audio"]
    assert [line.get_markevery() for line in axes.lines] == [4, 4]
    assert len(axes.collections) == 2  # five seeds have a band
    assert all(tick == round(tick) for tick in axes.xaxis.get_major_locator().tick_values(0, 2))
    assert axes.yaxis.get_major_formatter()(0.25, 0) == "25"


@pytest.mark.parametrize("draw", ["comparison", "differences"])
def test_fewer_than_five_runs_show_themselves_and_no_interval(table, axes, draw):
    few = table[table.seed < 4]
    getattr(plotting, draw)(few, ax=axes)
    assert all(not container.lines[2] for container in axes.containers)
    assert max(len(line.get_xdata()) for line in axes.lines) == 4


@pytest.mark.parametrize("draw", ["comparison", "differences"])
def test_a_method_with_a_failed_run_has_no_mean_and_says_so(table, axes, draw):
    table.loc[(table.method == "image") & (table.seed == 2), "accuracy"] = np.nan
    getattr(plotting, draw)(table, ax=axes)
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["joint"] * (draw == "comparison") + ["image (a run failed)"]
    assert np.isnan(axes.containers[-1].lines[0].get_xdata().astype(float)).all()


def test_curves_of_few_seeds_are_lines_without_a_band(axes):
    rows = [(s, e, "audio", s + e) for s in range(4) for e in (1, 2)]
    history = pd.DataFrame(rows, columns=["seed", "epoch", "output", "value"])
    plotting.curves(history, ax=axes)
    mean, *each = axes.lines
    np.testing.assert_allclose(mean.get_ydata(), [2.5, 3.5])
    assert [[*line.get_ydata()] for line in each] == [[s + 1, s + 2] for s in range(4)]
    assert {line.get_label()[0] for line in each} == {"_"}, "they stand in no legend"
    assert not axes.collections


def test_curves_of_one_seed_have_no_band(axes):
    history = pd.DataFrame({"seed": 0, "epoch": [1, 2], "output": "audio", "value": [1.0, 2.0]})
    plotting.curves(history, ax=axes)
    assert [[*line.get_ydata()] for line in axes.lines] == [[1, 2], [1, 2]]
    assert not axes.collections
    assert isinstance(axes.yaxis.get_major_formatter(), ScalarFormatter)  # no share, so no %


def test_show_writes_both_files_and_displays_the_alt_text(shown, tmp_path):
    figure, _ = plotting.canvas()
    plotting.show(figure, "01-test", "Two points.")
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == ["01-test.png", "01-test.svg"]
    ((data, options),) = shown
    assert base64.b64decode(data["image/png"]) == (tmp_path / "figures/01-test.png").read_bytes()
    assert options["metadata"]["image/png"]["alt"] == "Two points."
    assert b"Software" not in base64.b64decode(data["image/png"])  # it would name a version
    assert not plt.get_fignums()  # the inline backend must not show it a second time


def test_the_alt_text_reaches_the_page(shown):
    plotting.show(plotting.canvas()[0], "01-test", 'Joint is "below" image.')
    ((data, options),) = shown
    output = v4.new_output("display_data", data=data, metadata=options["metadata"])
    cell = v4.new_code_cell("plot()", outputs=[output])
    page, _ = HTMLExporter().from_notebook_node(v4.new_notebook(cells=[cell]))
    assert 'Joint is "below" image.' in html.unescape(page)
    assert page.count("<img") == 1
    assert data["text/plain"] == 'Joint is "below" image.'


def test_the_same_figure_gives_the_same_files(shown, tmp_path):
    plotting.style()
    content = []
    for _ in range(2):
        figure, (ax,) = plotting.canvas()
        ax.plot([1, 2], [3, 1])
        plotting.show(figure, "01-test", "A line.")
        content.append([path.read_bytes() for path in sorted((tmp_path / "figures").iterdir())])
    assert content[0] == content[1]


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_a_figure_without_alt_text_is_refused(shown, tmp_path, alt):
    with pytest.raises(ValueError, match=r"'01-test' has no alt text; say"):
        plotting.show(plotting.canvas()[0], "01-test", alt)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", "01-test.png", ".hidden"])
def test_a_name_that_leaves_the_folder_is_refused(shown, name):
    with pytest.raises(ValueError, match="not allowed; use letters"):
        plotting.show(plotting.canvas()[0], name, "Nothing.")


def test_a_failed_write_leaves_the_old_file_and_no_debris(shown, tmp_path, monkeypatch):
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "01-test.png").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"01-test\.png.*No space.*the disk is full"):
        plotting.show(plotting.canvas()[0], "01-test", "Nothing.")
    assert [path.name for path in folder.iterdir()] == ["01-test.png"]
    assert (folder / "01-test.png").read_bytes() == b"old"


def test_figures_go_into_the_checkout_or_else_into_the_current_folder(tmp_path, monkeypatch):
    assert output_folder("figures", tmp_path) == Path("figures")
    (tmp_path / "pyproject.toml").touch()
    assert output_folder("figures", tmp_path) == tmp_path / "figures"
    monkeypatch.delenv("MMLAB_FIGURES")
    assert Path(__file__).parents[1] / "figures" == plotting.figures_folder()


# --- diagrams and the map -------------------------------------------------------------------------

BOXES = {
    "encoder": plotting.Box("encoder", 0, 0, "audio"),
    "loss": plotting.Box("loss", 1, 0),
}


def drawn(arrows) -> list:
    figure = plotting.diagram(BOXES, arrows)
    found = [p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]
    plt.close(figure)
    return found


def test_a_diagram_has_its_boxes_arrows_and_words():
    arrows = [plotting.Arrow("encoder", "loss", "$h$"), plotting.Arrow("loss", "encoder", "$g$")]
    figure = plotting.diagram(BOXES, arrows)
    (ax,) = figure.axes
    assert {"encoder", "loss", "$h$", "$g$"} <= {text.get_text() for text in ax.texts}
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    colors = [matplotlib.colors.to_hex(box.get_edgecolor()) for box in boxes]
    assert colors == [plotting.LOOKS["audio"].color.lower(), "#555555"]
    plt.close(figure)


def test_a_gradient_is_dashed_and_runs_beside_the_arrow_that_leads_forward():
    forward = plotting.Arrow("encoder", "loss")
    back = plotting.Arrow("loss", "encoder", back=True)
    there, again = drawn(iter([forward, back]))
    assert (there.get_linestyle(), again.get_linestyle()) == ("-", "--")
    down, up = (arrow.get_path().vertices[0, 1] for arrow in (there, again))
    assert down > 0 > up  # rows are counted from the top: the way back is above


def test_an_arrow_to_no_box_and_no_box_at_all_are_refused():
    with pytest.raises(ValueError, match="an arrow names the box 'moon'; the boxes are"):
        plotting.diagram(BOXES, [plotting.Arrow("encoder", "moon")])
    with pytest.raises(ValueError, match="boxes is empty"):
        plotting.diagram({}, [])


def finding(values: list[float], verdict: str) -> Finding:
    return Finding(pd.Series(values), verdict, "A sentence.")


def test_the_map_fills_what_was_seen_and_keeps_the_order_of_the_sets():
    up, none = finding([0.1, 0.12, 0.11, 0.1, 0.13], "seen"), finding([0.0] * 5, "not seen")
    causes = {"scale": up, "competition": none, "shift": none}
    found = {
        name: Diagnosis(name, {"drop": one, **causes}, {}, pd.DataFrame(), 0.01, {})
        for name, one in (("loud", up), ("calm", none))
    }
    figure = plotting.diagnoses(found)
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles == ["drop", *causes]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["loud", "calm"]
    drops, scales = ([c.lines[0] for c in ax.containers] for ax in figure.axes[:2])
    assert [mark.get_xdata()[0] for mark in drops] == pytest.approx([0.112, 0])
    for marks in (drops, scales):  # no drop, no cause
        assert [mark.get_marker() for mark in marks] == ["o", "D"]
    plt.close(figure)
    with pytest.raises(ValueError, match="found is empty"):
        plotting.diagnoses({})
