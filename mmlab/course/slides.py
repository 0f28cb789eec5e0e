"""Slides: the figures of executed notebooks with their captions, each notebook one HTML file.

A file needs nothing beside it: pictures are inside, formulas are MathML. A browser prints it, one
slide per page.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters import markdown2html

from mmlab.files import write_atomically
from mmlab.notebooks.catalogue import NotebookError

HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
GOALS = re.compile(r"^After this notebook you can\n\n(.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
SUMMARY = re.compile(
    r"^## (Summary in five lines[^\n]*)\n\n(.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL
)
CAPTION = re.compile(r"\*\*Figure \d+\.\*\*.*?(?=\n\n|\Z)", re.DOTALL)
FORMULA = re.compile(r"\$([^$]+)\$")
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]+")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

STYLE = """
@page { size: 10in 5.625in; margin: 0; }
html { scroll-snap-type: y mandatory; color: #1d2733;
  font: min(2.1vw, 3.4vh)/1.4 system-ui, sans-serif; }
body { margin: 0; }
section { box-sizing: border-box; height: 100vh; padding: 2.5vw 4vw; scroll-snap-align: start;
  display: flex; flex-direction: column; gap: 1.5vw; overflow: hidden; break-after: page; }
section.words { justify-content: center; font-size: .9em; }
h1, h2 { margin: 0; font-size: 1.3em; line-height: 1.2; }
h1 { font-size: 2em; }
figure { margin: 0; flex: 1; min-height: 0; display: flex; flex-direction: column; gap: 1vw; }
img { flex: 1; min-height: 0; object-fit: contain; }
figcaption { font-size: .8em; }
p, ul, ol { margin: 0; }
li { margin-bottom: .5em; }
@media print { html { font-size: 16pt; } section { height: 5.625in; padding: .25in .4in; } }
"""
TURN = """
const slides = [...document.querySelectorAll("section")];
addEventListener("keydown", event => {
  const way = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  if (!way) return;
  event.preventDefault();
  const here = slides.findIndex(slide => slide.getBoundingClientRect().bottom > 1);
  slides[here + way]?.scrollIntoView();
});
"""


def write(source: Path, out: Path, numbers: Iterable[int | str] = ()) -> list[Path]:
    """Make slides of the executed notebooks in a folder; gives the files, in order.

    numbers: which notebooks; all that are there if none is given.

    Raises NotebookError where a notebook has not been executed.
    """
    there = {path.name[:2]: path for path in sorted(source.glob("[0-9][0-9]-*.ipynb"))}
    wanted = [str(number).zfill(2) for number in numbers] or [*there]
    if not wanted or (missing := [number for number in wanted if number not in there]):
        which = ", ".join(missing) if wanted else "at all"
        raise NotebookError(
            f"no executed notebook {which} in {source}: first run it, `python3 -m mmlab run`"
        )
    paths = []
    for number in wanted:
        page = _page(nbformat.read(there[number], as_version=4))
        paths.append(out / f"{there[number].stem}.html")
        write_atomically(paths[-1], page)
    return paths


def print_pdf(path: Path) -> Path:
    """Print slides with Chromium, beside them. Raises NotebookError where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NotebookError(
            f"no Chromium here to print with (looked for {', '.join(BROWSERS)}): install it, or "
            "open the slides in a browser and print them to a file"
        )
    out = path.with_suffix(".pdf")
    root = ["--no-sandbox"] if getattr(os, "geteuid", os.getpid)() == 0 else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer", *root]
        line = [browser, *options, f"--user-data-dir={profile}", f"--print-to-pdf={out}"]
        done = subprocess.run([*line, path.resolve().as_uri()], capture_output=True, check=False)
    if done.returncode or not out.is_file():
        last = done.stderr.decode(errors="replace").strip()[-300:]
        raise NotebookError(f"{browser} could not print {path}: {last}")
    return out


def _page(notebook: nbformat.NotebookNode) -> str:
    title = html.escape(HEADING.findall(notebook.cells[0].source)[0])
    slides = "\n".join(_slides(notebook))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
{slides}
<script>{TURN}</script>
</body>
</html>
"""


def _slides(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Title with goals, each figure under its heading, the summary."""
    cells = notebook.cells
    opening = cells[0].source
    goals = GOALS.search(opening)
    heading = HEADING.findall(opening)[0]
    yield _words("h1", heading, goals[1] if goals else "")
    for at, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            heading = ([heading, *HEADING.findall(cell.source)])[-1]
            if summary := SUMMARY.search(cell.source):
                yield _words("h2", *summary.groups())
        for image in _images(cell):
            below = next((c.source for c in cells[at:] if c.cell_type == "markdown"), "")
            caption = CAPTION.match(below)
            yield _figure(heading, image, caption[0] if caption else "")


def _words(tag: str, heading: str, text: str) -> str:
    return f'<section class="words"><{tag}>{_inline(heading)}</{tag}>\n{_markup(text)}</section>'


def _figure(heading: str, image: str, caption: str) -> str:
    return (
        f"<section><h2>{_inline(heading)}</h2>\n<figure>{image}\n"
        f"<figcaption>{_markup(caption)}</figcaption></figure></section>"
    )


def _images(cell: nbformat.NotebookNode) -> Iterator[str]:
    """The figures of a cell, as tags that hold them."""
    for output in cell.get("outputs", []):
        if code := output.get("data", {}).get("image/png"):
            alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
            yield f'<img src="data:image/png;base64,{"".join(code.split())}" alt="{alt}">'


def _inline(text: str) -> str:
    """Markdown of one line, without the paragraph around it."""
    return re.sub(r"^<p>|</p>$", "", _markup(text).strip())


def _markup(text: str) -> str:
    """Markdown as HTML; formulas as MathML, Chinese marked as such."""
    page = FORMULA.sub(lambda found: convert(html.unescape(found[1])), markdown2html(text))
    return CHINESE.sub(lambda found: f'<span lang="zh">{found[0]}</span>', page)
