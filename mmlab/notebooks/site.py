"""The executed notebooks as an HTML site that reads without a network.

The pages are bodies (`mmlab.notebooks.body`) in a frame of our own, so that no template of somebody
else's can ask for a script, font or style elsewhere. Maths is set by the MathJax that the package
jupyter_server_mathjax brings, copied beside the pages.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pygments.formatters import HtmlFormatter

from mmlab.files import UnwritableError, write_atomically
from mmlab.notebooks.result import Result

STYLE = """
:root { --ink: #1d2733; --soft: #5b6875; --line: #dfe5ea; --tint: #f6f8fa; --accent: #0b5c8a; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.6;
  font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
header, main, footer { max-width: 56rem; margin: 0 auto; padding: 0 1.2rem; }
header { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding-top: 1rem;
  padding-bottom: .8rem; border-bottom: 1px solid var(--line); }
footer { margin: 3rem auto; padding-top: 1rem; color: var(--soft); font-size: .85rem;
  border-top: 1px solid var(--line); }
a { color: var(--accent); text-underline-offset: .15em; }
a:focus-visible { outline: 3px solid #f0b429; outline-offset: 2px; }
a.anchor-link { text-decoration: none; opacity: 0; margin-left: .3em; }
:hover > a.anchor-link, a.anchor-link:focus { opacity: 1; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; background: #fff; }
h1, h2, h3, h4 { line-height: 1.25; margin: 2rem 0 .7rem; } h1 { font-size: 2rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
img, svg, audio { max-width: 100%; height: auto; } audio { height: 2.5rem; }
pre { overflow-x: auto; padding: .7rem .9rem; margin: .5rem 0; line-height: 1.45; font-size: .86rem;
  border-radius: 6px; }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, "DejaVu Sans Mono", monospace; }
:not(pre) > code { background: var(--tint); padding: .1em .3em; border-radius: 4px;
  font-size: .9em; }
.input .highlight pre { background: var(--tint); border: 1px solid var(--line); }
.output_area pre { border-left: 3px solid var(--line); border-radius: 0; padding: .1rem .9rem; }
.output_stderr pre { border-color: #d9a441; } .output_error pre { border-color: #b3261e; }
.prompt { display: none; }
.output_html, .text_cell_render, .wide { overflow-x: auto; }
table { border: 0; border-collapse: collapse; margin: 1rem 0; font-size: .93rem; }
th, td { padding: .35rem .8rem; border: 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); }
small { display: block; line-height: 1.4; color: var(--soft); }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid var(--accent);
  background: var(--tint); }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem;
  margin: .7rem 0; }
summary { cursor: pointer; font-weight: 600; }
.ok { color: #17663a; } .failed { color: #a3221b; font-weight: 600; }
@media print { header, .skip { display: none; } }
"""

MATHS = """<script type="text/x-mathjax-config">
MathJax.Hub.Config({
  tex2jax: {inlineMath: [['$', '$'], ['\\\\(', '\\\\)']], processEscapes: true,
            processEnvironments: true},
  TeX: {equationNumbers: {autoNumber: "AMS"}}, messageStyle: "none",
  "HTML-CSS": {availableFonts: [], webFont: "STIX-Web", linebreaks: {automatic: false}}
});
</script>
<script src="mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe" defer></script>
"""


BODY = ".body.html"
"""How the name of a body ends, beside the executed notebook."""

LINK = re.compile(r'(<a\b[^>]*\shref=")([^"]*)')
"""What leads from a page, and where to; in text a < is written otherwise."""


class SiteError(Exception):
    """Some of the site could not be made; the message says what, why, and the fix of each.

    All else is there. After a run, `results` says how the notebooks ran.
    """

    results: Sequence[Result] = ()


def copy_maths(out: Path) -> None:
    """Put MathJax beside the pages, as far as it is not there already.

    Raises:
        UnwritableError: if the disk is full or the folder may not be written.
    """
    source = Path(str(files("jupyter_server_mathjax") / "static"))
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = out / "site/mathjax" / file.relative_to(source)
        if not copy.is_file() or copy.stat().st_size != file.stat().st_size:
            write_atomically(copy, file.read_bytes())


def build(out: Path, folder: Path) -> Path:
    """Build ``out/site`` from the records and bodies in ``out/notebooks``.

    Args:
        out: the build folder.
        folder: where the source notebooks lie, for the links to files beside them.

    Returns:
        The index page.

    Raises:
        SiteError: if a record is damaged or a page cannot be written. The rest is written first.
    """
    site = out / "site"
    faults: list[str] = []
    records = _records(out, faults)
    pages = [record["notebook"] for record in records if record["ok"]]
    for record in records:
        if record["ok"]:
            name = record["notebook"]
            body = LINK.sub(
                lambda link: link[1] + _redirect(link[2], folder, site, pages), record["body"]
            )
            page = _frame(record["title"], body, _neighbours(name, pages), maths=True)
            with _noting(faults):
                write_atomically(site / f"{name}.html", page)
    with _noting(faults):
        copy_maths(out)
    with _noting(faults):
        write_atomically(site / "index.html", _frame("Notebooks", _index(records), ""))
    if faults:
        raise SiteError("\n".join(faults))
    return site / "index.html"


@contextmanager
def _noting(faults: list[str]) -> Iterator[None]:
    """Note that something cannot be written, and go on."""
    try:
        yield
    except UnwritableError as error:
        faults.append(str(error))


def _records(out: Path, faults: list[str]) -> list[dict[str, Any]]:
    """The records that can be read, each with the body of its page; of the others a fault."""
    records = []
    for path in sorted(out.glob("notebooks/*.json")):
        try:
            record = _read(path)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            faults.append(f"{path} is damaged ({what}); delete it, or run that notebook again")
        else:
            # an earlier version's run may have left a record without a body: run again, it gets one
            if record["body"] or not record["ok"]:
                records.append(record)
    return records


def _read(path: Path) -> dict[str, Any]:
    """A record with its body. Raises many kinds of error if it does not hold what it should."""
    record = json.loads(path.read_text("utf-8"))
    _row(record)
    if record["notebook"] != path.stem:
        raise ValueError(f"it is the record of {record['notebook']}")
    body = path.with_name(path.stem + BODY)
    record["body"] = body.read_text("utf-8") if record["ok"] and body.is_file() else ""
    return record


def _redirect(href: str, folder: Path, site: Path, pages: list[str]) -> str:
    """Where a link of a notebook leads on the site: to the page, else to the file itself."""
    target, mark, anchor = href.partition("#")
    file = folder / unquote(html.unescape(target))
    if not target or ":" in target or not os.path.exists(file):  # Path.exists raises on long names
        return href
    if file.suffix == ".ipynb" and file.stem in pages:
        return f"{_address(file.stem)}{mark}{anchor}"
    place = Path(os.path.relpath(file.resolve(), site.resolve())).as_posix()
    return html.escape(quote(place)) + mark + anchor


def _neighbours(name: str, pages: list[str]) -> str:
    """Links to the page before and the page after."""
    at = pages.index(name)
    before, after = pages[max(at - 1, 0) : at], pages[at + 1 : at + 2]
    links = [f'<a rel="prev" href="{_address(page)}">← {_number(page)}</a>' for page in before]
    links += [f'<a rel="next" href="{_address(page)}">{_number(page)} →</a>' for page in after]
    return " ".join(links)


def _number(name: str) -> str:
    """The number that a notebook's name begins with."""
    return html.escape(name[:2])


def _address(name: str) -> str:
    """Where the page of a notebook lies, as a link."""
    return html.escape(quote(f"{name}.html"))


def _frame(title: str, body: str, links: str, *, maths: bool = False) -> str:
    """A whole page around a body."""
    code = HtmlFormatter(style="friendly").get_style_defs(".highlight") if maths else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)} · mmlab</title>
<style>{code}{STYLE}</style>
{MATHS if maths else ""}</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<header><nav aria-label="Notebooks"><a href="index.html">All notebooks</a> {links}</nav></header>
<main id="content">
{body}
</main>
<footer><nav aria-label="Neighbouring notebooks">{links}</nav>
mmlab · balanced multimodal learning</footer>
</body>
</html>
"""


def _index(records: list[dict[str, Any]]) -> str:
    """The table of notebooks: what each is, and how its run went."""
    heads = (
        "No.",
        "Notebook",
        "Minutes (teach)",
        "Profile",
        "Ran in",
        "Device",
        "Versions",
        "Status",
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "\n".join(map(_row, records))
    return f"""<h1>Balanced multimodal learning</h1>
<p>Executed notebooks, in reading order. Minutes are what a reader should allow on a CPU in the
profile <code>teach</code>; <code>smoke</code> is a quick look, with fewer seeds and wider
intervals.</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>"""


def _minute(moment: str) -> str:
    """An ISO time in UTC, to the minute."""
    return moment[:16].replace("T", " ") + " UTC"


def _row(record: dict[str, Any]) -> str:
    """One notebook of the index."""
    name, title = record["notebook"], html.escape(record["title"])
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    when = html.escape(_minute(record["finished"]))
    status = f'<span class="ok">✓ ok</span><small>{when}</small>'
    if not record["ok"]:
        where = f"cell {record['cell']}, {record['line']}: " if record["cell"] else ""
        status = f'<span class="failed">✗ failed</span><br>{html.escape(where + record["cause"])}'
    status += "".join(f"<small>{html.escape(note)}</small>" for note in record.get("notes", []))
    cells = [
        f'<a href="{_address(name)}">{title}</a>' if record["ok"] else title,
        html.escape(record["minutes"] or "–"),
        html.escape(str(record["parameters"].get("profile", "–"))),
        f"{record['seconds']:.0f} s",
        html.escape(record["device"]),
        f"<small>{html.escape(versions)}</small>",
        status,
    ]
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{_number(name)}</th>{data}</tr>'
