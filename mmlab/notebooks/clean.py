"""The HTML of a page without anything that runs or loads something by itself.

Outputs and text may hold any HTML. A page keeps what shows (tables, figures, sound, styles) and
loses scripts, event handlers, frames, forms and addresses that are more than a link.
"""

import html
import re

import tinycss2  # type: ignore[import-untyped]
from bleach.css_sanitizer import (  # type: ignore[import-untyped]
    ALLOWED_CSS_PROPERTIES,
    CSSSanitizer,
)
from bleach.sanitizer import Cleaner  # type: ignore[import-untyped]
from bs4 import BeautifulSoup
from bs4.dammit import EntitySubstitution
from bs4.formatter import HTMLFormatter


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TAGS = _names(
    """a abbr audio b blockquote br caption center cite code col colgroup dd del details dfn div dl
    dt em figcaption figure font h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark meter ol p pre progress
    q s samp section small source span strike strong sub summary sup table tbody td tfoot th thead
    tr tt u ul var video wbr"""
)
ATTRIBUTES = _names(
    """align alt bgcolor border cellpadding cellspacing checked class color colspan controls dir
    headers height high id lang loop low max min muted open optimum reversed role rowspan scope size
    span start style title type valign value width"""
)
PROPERTIES = (ALLOWED_CSS_PROPERTIES - {"cursor"}) | _names(
    """background border border-bottom border-left border-radius border-right border-spacing
    border-style border-top border-width caption-side column-gap font-variant-numeric gap margin
    margin-bottom margin-left margin-right margin-top max-height max-width min-height min-width
    opacity overflow-x overflow-y padding padding-bottom padding-left padding-right padding-top
    table-layout text-overflow text-transform word-break word-spacing word-wrap"""
)
UNREAD = _names("embed iframe math noembed noframes noscript object script svg template")
"""What is taken away with all it holds; other unknown tags leave their text."""

LINK = re.compile(r"(https?:|mailto:|[^:]*$|[^:]*[/?#])", re.IGNORECASE)
"""How an address begins that only leads somewhere: no colon, but for that of these three."""
MEDIA = re.compile(r"data:(image|audio|video)/")
LOADS = re.compile(r"(url|src|image|image-set|element)\(", re.IGNORECASE)
"""How a style asks for a file."""


class Style(CSSSanitizer):
    """Declarations that load no file."""

    def sanitize_css(self, style: str) -> str:
        clean = super().sanitize_css(style)
        return "" if LOADS.search(clean) else clean


STYLE = Style(PROPERTIES)


class Quoted(HTMLFormatter):
    """Values in double quotes: bleach escapes what it finds in single ones a second time."""

    def attribute_value(self, value: str) -> str:
        return html.escape(value)


QUOTED = Quoted(entity_substitution=EntitySubstitution.substitute_xml)


def clean(soup: BeautifulSoup) -> tuple[str, list[str]]:
    """The HTML of a page that runs nothing, and the names of what had to go.

    Args:
        soup: the page; what is left out of it is removed from it.
    """
    styles = [_style_sheet(str(tag.extract().string or "")) for tag in soup.select("style")]
    removed = {tag.name for tag in soup.find_all() if tag.name not in TAGS and tag.name.isalnum()}
    for tag in soup.select(",".join(UNREAD)):
        tag.decompose()

    def keeps(tag: str, name: str, value: str) -> bool:
        if name in ATTRIBUTES or name.startswith("aria-"):
            return True
        good = {"href": LINK, "src": MEDIA}.get(name)
        kept = good is not None and good.match(value) is not None
        if not kept and (good or name.startswith("on")):
            removed.add(f"{tag} {name}")
        return kept

    protocols = ("http", "https", "mailto", "data")  # `keeps` says which of them where
    cleaner = Cleaner(TAGS, keeps, protocols, strip=True, css_sanitizer=STYLE)
    sheet = "\n".join(filter(None, styles))
    head = f"<style>\n{sheet}\n</style>\n" if sheet else ""
    return head + cleaner.clean(soup.decode(formatter=QUOTED)), sorted(removed)


def _style_sheet(css: str) -> str:
    """The plain rules of a style sheet: no imports, no fonts, nothing that could end the tag."""
    rules = []
    for rule in tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True):
        if rule.type == "qualified-rule":
            selector = tinycss2.serialize(rule.prelude).strip()
            if declarations := STYLE.sanitize_css(tinycss2.serialize(rule.content)):
                rules.append(f"{selector} {{ {declarations} }}")
    return "\n".join(rule for rule in rules if "<" not in rule)
