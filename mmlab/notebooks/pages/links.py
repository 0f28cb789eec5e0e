"""Where the links of a page lead: to pages of the site, else to copies of files beside them."""

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

LINK = re.compile(r'(<a\b[^>]*\shref=")([^"]*)')
"""What leads from a page, and where to; in text a < is written otherwise."""

FILES = "files"
"""The folder of the site for copies."""


class Links:
    """The links of all pages.

    Args:
        pages: the pages that show a file of the checkout, by name without ending: that file.
        root: the checkout, of which files may be copied.
        site: the folder of the site.
    """

    def __init__(self, pages: Mapping[str, Path], root: Path, site: Path) -> None:
        self.pages, self.root, self.site = pages, root.resolve(), site.resolve()
        self.shown = {file.resolve(): name for name, file in pages.items()}
        self.copies: dict[Path, Path] = {}
        """Where a copy is needed, and of what."""

    def wanted(self) -> dict[Path, Path]:
        """All copies and of what: those of pages that were not written anew, too."""
        folder = self.site / FILES
        there = [copy for copy in folder.rglob("*") if copy.is_file()]
        before = {copy: self.root / copy.relative_to(folder) for copy in there}
        return {copy: file for copy, file in (before | self.copies).items() if file.is_file()}

    def redirect(self, body: str, name: str) -> str:
        """The HTML of a page's body, its links to files of the checkout redirected."""
        return LINK.sub(lambda link: link[1] + self._target(link[2], name), body)

    def _target(self, href: str, name: str) -> str:
        path, mark, anchor = href.partition("#")
        file = self.pages[name].parent / unquote(html.unescape(path))
        if not path or ":" in path or not os.path.exists(file):  # Path.exists raises on long names
            return href
        place = self._place(file.resolve())
        relative = os.path.relpath(place, (self.site / name).parent)
        return html.escape(quote(Path(relative).as_posix())) + mark + anchor

    def _place(self, file: Path) -> Path:
        """Where the site shows a file; what it cannot take along stays where it is."""
        if file in self.shown:
            return self.site / f"{self.shown[file]}.html"
        if not (file.is_file() and file.is_relative_to(self.root)):
            return file
        copy = self.site / FILES / file.relative_to(self.root)
        self.copies[copy] = file
        return copy
