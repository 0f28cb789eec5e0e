"""What the tests of the site share: results as the runner leaves them, and pages to look into."""

import json
from pathlib import Path

from bs4 import BeautifulSoup
from nbformat import v4

from mmlab.notebooks.pages.prepare import prepare


def add_result(out: Path, name: str, *, ok: bool = True, cause: str = "", cells=()) -> list[str]:
    """A record, and the source of a page if all went well, as the runner leaves them; its notes."""
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    record = {
        "notebook": name,
        "title": f"Title of {name}",
        "minutes": "5",
        "parameters": {"profile": "smoke"},
        "ok": ok,
        "cell": None if ok else 7,
        "line": "" if ok else "line 1: x",
        "cause": cause,
        "seconds": 12.3,
        "finished": "2026-01-02T03:04:05+00:00",
        "device": "cpu",
        "versions": {"torch": "2.6"},
    }
    (out / f"notebooks/{name}.json").write_text(json.dumps(record))
    if not ok:
        return []
    title = v4.new_markdown_cell(f"# {name}")
    notebook = v4.new_notebook(cells=[title, *cells])
    page, notes = prepare(notebook, out.parent / "notebooks")
    (out / f"notebooks/{name}.page").write_text(page, "utf-8")
    return notes


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text("utf-8"), "html.parser")


def article(page: Path) -> BeautifulSoup:
    """What a page says, without what is around it."""
    return soup(page).select_one("article.bd-article")
