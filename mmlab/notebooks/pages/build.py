"""From records to pages: Sphinx's sources are laid out, read by it, and its pages published."""

import shutil
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import mmlab
from mmlab.notebooks.pages.config import CONFIG
from mmlab.notebooks.pages.links import Links
from mmlab.notebooks.pages.publish import publish
from mmlab.notebooks.pages.records import minute
from mmlab.notebooks.pages.staging import pages_of, stage

WORK = "pages"
"""The folder for what Sphinx reads, remembers and writes, beside ``notebooks`` and ``site``."""


def write_pages(
    out: Path, folder: Path, records: list[dict[str, Any]], *, library: bool, whole: bool
) -> list[str]:
    """Write ``out/site``; gives a line for each thing that could not be written.

    Args:
        out: the build folder.
        folder: where the source notebooks lie.
        records: how the notebooks ran, with the sources of their pages.
        library: whether the docs and the reference belong to the site.
        whole: whether their lists of notebooks are to be right, too.
    """
    work, site = out / WORK, out / "site"
    pages = pages_of(records, folder, library)
    links = Links(pages, folder.parent, site)
    ours = {"mmlab_links": links, "mmlab_footers": _footers(records)}
    settings = deepcopy(CONFIG) | ours  # a theme changes what it gets
    try:
        others = stage(work / "source", records, pages)
        names = _run_sphinx(work, settings, others, whole)
    except Exception as error:
        shutil.rmtree(work, ignore_errors=True)  # what it remembers may be what is wrong
        return [f"cannot build the pages ({type(error).__name__}: {error}); run again"]
    return publish(work / "html", site, names, links.wanted())


def _run_sphinx(work: Path, settings: dict[str, Any], others: bool, whole: bool) -> set[str]:
    """Let Sphinx write pages into ``work/html``; gives the names of all that there are.

    Args:
        work: the folder for what Sphinx reads, remembers and writes.
        settings: Sphinx's.
        others: whether there are other pages than before. Every page lists all.
        whole: whether to write the library's pages for that, too, or leave that for later.
    """
    late = work / "late"
    app = Sphinx(
        srcdir=work / "source",
        confdir=None,
        outdir=work / "html",
        doctreedir=work / "memory",
        buildername="html",
        confoverrides=settings,
        status=None,
        warning=StringIO(),
    )
    if others:
        late.touch()
    if whole:
        app.build(force_all=late.exists())
        late.unlink(missing_ok=True)
    else:
        listed = [file for file in app.srcdir.iterdir() if file.suffix in (".ipynb", ".rst")]
        app.build(filenames=listed if others else ())
    return {*app.env.found_docs, "search"}


def _footers(records: list[dict[str, Any]]) -> dict[str, str]:
    """What stands at the foot of each notebook's page, and as "index" of all others."""
    about = f"mmlab {mmlab.__version__}"
    feet = {"index": about}
    for record in records:
        if record["ok"]:
            profile = record["parameters"].get("profile", "–")
            ran = f"run on {minute(record['finished'])}, profile {profile}"
            feet[record["notebook"]] = f"{about} · {ran}"
    if records:
        last = max(record["finished"] for record in records)
        feet["index"] = f"{about} · last run on {minute(last)}"
    return feet
