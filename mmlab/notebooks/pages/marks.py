"""Keep a mark on the line of what it follows: a browser may break before it."""

import re
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

MARKS = re.compile(r"[.,;:?!)，。；：？！、）]+")

VERBATIM = (nodes.literal, nodes.math, nodes.FixedTextElement)


class KeepMarks(SphinxTransform):
    """Keep a formula and the marks behind it together, and a dot and the word before it.

    A formula and its marks come into one span, which the style sheet keeps on one line.
    """

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for formula in list(self.document.findall(nodes.math)):
            text = formula.next_node(descend=False, siblings=True)
            if isinstance(text, nodes.Text) and (marks := MARKS.match(text)):
                span = nodes.inline("", "", classes=["together"])
                formula.replace_self(span)
                span += [formula, nodes.Text(marks[0])]
                text.parent.replace(text, nodes.Text(text[marks.end() :]))
        for text in list(self.document.findall(nodes.Text)):
            if " · " in text and not isinstance(text.parent, VERBATIM):
                text.parent.replace(text, nodes.Text(text.replace(" · ", "\N{NO-BREAK SPACE}· ")))
