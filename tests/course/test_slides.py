"""Slides: every figure with its caption, goals and summary; one file that needs no other."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from mmlab.course import slides
from mmlab.course.__main__ import main
from mmlab.notebooks.catalogue import NOTEBOOKS, NotebookError

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
CODE = {"tags": ["experiment"]}


def figure(alt: str) -> nbformat.NotebookNode:
    data, facts = {"image/png": PNG}, {"image/png": {"alt": alt}}
    output = v4.new_output("display_data", data=data, metadata=facts)
    return v4.new_code_cell("plotting.show(...)", outputs=[output], metadata=CODE)


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    cells = [
        v4.new_markdown_cell(
            "# 04 · A < B · 标题\n\nWords.\n\nAfter this notebook you can\n\n"
            "- *derive* $k < 1$,\n  and more;\n- two.\n\n**Time:** 1 min."
        ),
        v4.new_markdown_cell("## The question · 问题"),
        figure('A "curve".'),
        v4.new_markdown_cell(
            "**Figure 1.** *What.* Look at $\\rho_m$.\n\nThis is not on the slide."
        ),
        v4.new_code_cell("plotting.show(...)"),
        v4.new_markdown_cell(
            "## Summary in five lines · 小结\n\n1. One\nand more.\n2. Two.\n\n**本章小结**"
        ),
    ]
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(v4.new_notebook(cells=cells), folder / "04-a.ipynb")
    return folder


def test_a_notebook_becomes_title_figures_and_summary(executed, tmp_path):
    (path,) = slides.write(executed, tmp_path / "slides", ["4"])
    page = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    title, curve, summary = page.select("section")
    assert page.title.string == "04 · A < B · 标题" == title.h1.get_text()
    assert [item.get_text() for item in title.select("li")][1] == "two."
    assert title.select_one("li math") and title.select_one("li em").string == "derive"
    assert curve.h2.get_text() == "The question · 问题" and curve.h2.span["lang"] == "zh"
    assert curve.img["alt"] == 'A "curve".' and curve.img["src"].endswith(PNG)
    caption = curve.figcaption.get_text()
    assert caption.startswith("Figure 1. What. Look at") and "not on the slide" not in caption
    assert curve.select_one("figcaption msub")
    assert len(summary.select("li")) == 2 and "本章小结" not in summary.get_text()


def test_a_page_asks_for_nothing_elsewhere(executed, tmp_path):
    (path,) = slides.write(executed, tmp_path / "slides")
    page = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    assert not page.select("link, script[src], iframe, object")
    assert all(str(tag["src"]).startswith("data:") for tag in page.select("[src]"))
    assert not re.search(r"url\(|@import", page.style.string)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_has_what_slides_are_made_of(path):
    """Goals, five lines of summary, and captions whose formulas can be set."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "plotting.show(" in cell.source:
            cell.outputs = figure("words").outputs
    page = BeautifulSoup(slides._page(notebook), "html.parser")
    sections = page.select("section")
    shown = sum("plotting.show(" in cell.source for cell in notebook.cells)
    assert len(sections) == shown + 2
    assert len(sections[0].select("li")) >= 2 and len(sections[-1].select("li")) == 5
    assert all(s.figcaption.get_text().startswith("Figure ") for s in sections[1:-1])
    assert "$" not in page.body.get_text()


def test_what_was_not_executed_is_named(executed, tmp_path, capsys):
    assert main(["slides", "7", "--source", str(executed), "--out", str(tmp_path)]) == 2
    assert "no executed notebook 07" in capsys.readouterr().err
    with pytest.raises(NotebookError, match="no executed notebook at all"):
        slides.write(tmp_path / "nothing", tmp_path)


def test_without_a_browser_the_way_to_print_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotebookError, match="open the slides in a browser and print them"):
        slides.print_pdf(tmp_path / "x.html")


@pytest.mark.skipif(not any(map(shutil.which, slides.BROWSERS)), reason="no Chromium here")
def test_chromium_prints_one_page_per_slide(executed, tmp_path):
    (path,) = slides.write(executed, tmp_path / "slides")
    pdf = slides.print_pdf(path).read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 3
