"""Say which cells of a table are short or long, for the style sheet; keep intervals on one line.

A browser gives a column at least the width of its longest word. A Chinese word may break after each
character, so a column of Chinese can become one character wide. Sentences that do not fit a phone
become towers of words.
"""

import re
from typing import Any
from unicodedata import east_asian_width

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.transforms import SphinxTransform

SHORT = 14
"""Columns of text that stay on one line."""

LONG = 40
"""Columns of text that need a wide cell."""

INTERVAL = re.compile(r"(\[[^\[\],]+,) ([^\[\],]+\])")


class CellWidths(SphinxTransform):
    """Give short and long cells of tables a class."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for cell in self.document.findall(nodes.entry):
            columns = width(cell.astext())
            if columns > LONG:
                cell["classes"].append("long")
            elif columns <= SHORT and cell.next_node(nodes.math) is None:  # its source is longer
                cell["classes"].append("short")


def width(text: str) -> int:
    """How many columns a text takes; a Chinese character takes two."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def keep_intervals(soup: BeautifulSoup) -> None:
    """Let no line break in the intervals of a table's cells, such as [85.0, 91.0]."""
    for text in soup.find_all(string=INTERVAL):
        if text.find_parent("td"):
            text.replace_with(INTERVAL.sub("\\1\N{NO-BREAK SPACE}\\2", text))
