"""What Sphinx reads: the notebooks that ran, the docs, and the pages that are written here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlab.files import write_atomically
from mmlab.notebooks.pages.prepare import Notes, plain_markdown
from mmlab.notebooks.pages.records import table
from mmlab.notebooks.pages.reference import reference_pages

TITLE = """Balanced multimodal learning
============================

Notebooks and a small library: why a network with several modalities can lose to its best single
one, and the methods that answer it.
"""

ORDER = """
The notebooks as they ran, in reading order. Minutes are what a reader should allow on a CPU in
the profile ``teach``; ``smoke`` is a quick look, with fewer seeds and wider intervals.
"""

QUESTIONS = """
- :doc:`Which drop do my data have? <docs/diagnose>`
- `Which method should I use? <docs/diagnose.html#which-method-should-i-use>`__
- :doc:`What does each method read and change? <docs/methods-map>`
  :doc:`What does it cost? <mmlab/balancers/README>`
- What is its formula? :doc:`OGM-GE <docs/audit/04-ogm-ge>`,
  :doc:`MMPareto <docs/audit/05-mmpareto>`, others in their notebooks
- :doc:`How do I train on a folder of my own files? <docs/own-data>`
- :doc:`How do I train on several GPUs? <docs/several-processes>`
- :doc:`Where is the assignment of the course? <docs/course/assignment>`
  :doc:`Where are the plans and the slides? <docs/course/README>`
- :doc:`How do I cite? <docs/references>`
- :doc:`中文介绍 <README.zh>`
"""
"""What readers come for; a page that is not there is no link."""

NOTEBOOKS = """
.. raw:: html
   :file: runs.html

.. toctree::
   :hidden:
   :titlesonly:
   :glob:
   :caption: Notebooks

   [0-9][0-9]-*
"""

LIBRARY = """
.. toctree::
   :hidden:
   :titlesonly:
   :glob:
   :caption: The library

   README
   README.zh
   docs/library
   docs/diagnose
   docs/own-data
   docs/first-method
   docs/own-method
   docs/your-own
   docs/many-runs
   docs/several-processes
   docs/papers-data
   docs/*
   data/README
   mmlab/balancers/README
   reference/index
   CONTRIBUTING

.. toctree::
   :hidden:
   :titlesonly:
   :glob:
   :caption: The course

   docs/course/README
   docs/course/*

.. toctree::
   :hidden:
   :titlesonly:
   :glob:
   :caption: Papers and released code

   docs/audit/*
"""
"""What is read first stands first; a glob takes what is not named before it."""

BADGES = re.compile(r"^\[!\[.*\n", re.MULTILINE)
"""Lines of pictures that are elsewhere."""

DOCS = (
    "README.md",
    "README.zh.md",
    "docs/*.md",
    "docs/*/*.md",
    "data/README.md",
    "mmlab/balancers/README.md",
    "CONTRIBUTING.md",
)
"""Pages of the checkout that the site has, too."""


def pages_of(records: list[dict[str, Any]], folder: Path, library: bool) -> dict[str, Path]:
    """The pages of the site that show a file, by name without ending: that file."""
    pages = {r["notebook"]: folder / f"{r['notebook']}.ipynb" for r in records if r["ok"]}
    if library:
        root = folder.parent
        files = sorted(file for pattern in DOCS for file in root.glob(pattern))
        pages |= {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
    return pages


def stage(source: Path, records: list[dict[str, Any]], pages: dict[str, Path]) -> bool:
    """Lay out the sources of all pages, and touch none that is as it should be.

    Args:
        source: the folder for them.
        records: how the notebooks ran, with the sources of their pages.
        pages: what `pages_of` says.

    Returns:
        Whether there are other pages than before.
    """
    wanted = {source / name: text for name, text in _sources(records, pages)}
    there = {file for file in source.rglob("*") if file.is_file()}
    for file in there - wanted.keys():
        file.unlink()
    for file, text in wanted.items():
        if not (file in there and file.read_text("utf-8") == text):
            write_atomically(file, text)
    return there != wanted.keys()


def _sources(records: list[dict[str, Any]], pages: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Names and contents."""
    notebooks = {r["notebook"]: r["page"] for r in records if r["ok"]}
    yield from ((f"{name}.ipynb", text) for name, text in notebooks.items())
    yield "runs.html", table(records)
    library = pages.keys() - notebooks.keys()
    parts = (TITLE, QUESTIONS, ORDER, NOTEBOOKS, LIBRARY) if library else (TITLE, ORDER, NOTEBOOKS)
    yield "index.rst", "".join(parts)
    if library:
        for name in sorted(library):
            file = pages[name]
            text = BADGES.sub("", file.read_text("utf-8"))
            yield f"{name}.md", plain_markdown(text, file.parent, Notes())
        yield from reference_pages()
