"""How the notebooks ran: what their records say, and the table of it on the first page."""

import html
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat

PAGE = ".page"
"""How the name of a page's source ends, beside the record of its notebook."""

HEADS = ("No.", "Notebook", "Minutes (teach)", "Profile", "Ran in", "Device", "Versions", "Status")


def read_records(out: Path, faults: list[str]) -> list[dict[str, Any]]:
    """The records that can be read, in order, each with the source of its page.

    Args:
        out: the build folder.
        faults: gets a line for each of the others.
    """
    records = []
    for path in sorted(out.glob("notebooks/*.json")):
        try:
            record = _read(path)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            faults.append(f"{path} is damaged ({what}); delete it, or run that notebook again")
        else:
            # an earlier version's run may have left a record without a page: run again, it gets one
            if record["page"] or not record["ok"]:
                records.append(record)
    return records


def _read(path: Path) -> dict[str, Any]:
    """A record with its page. Raises many kinds of error if it does not hold what it should."""
    record = json.loads(path.read_text("utf-8"))
    _row(record)
    if record["notebook"] != path.stem:
        raise ValueError(f"it is the record of {record['notebook']}")
    page = path.with_name(path.stem + PAGE)
    record["page"] = page.read_text("utf-8") if record["ok"] and page.is_file() else ""
    if record["page"]:
        nbformat.reads(record["page"], as_version=4)
    return record


def table(records: list[dict[str, Any]]) -> str:
    """The table of notebooks as HTML: what each is, and how its run went."""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADS)
    rows = "\n".join(map(_row, records))
    return f"""<div class="runs"><table class="table"><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>
"""


def minute(moment: str) -> str:
    """An ISO time in UTC, to the minute."""
    return moment[:16].replace("T", " ") + " UTC"


def _row(record: dict[str, Any]) -> str:
    """One notebook of the table."""
    name, title = record["notebook"], html.escape(record["title"])
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    status = f'<span class="ok">✓ ok</span><small>{html.escape(minute(record["finished"]))}</small>'
    if not record["ok"]:
        where = f"cell {record['cell']}, {record['line']}: " if record["cell"] else ""
        status = f'<span class="failed">✗ failed</span><br>{html.escape(where + record["cause"])}'
    status += "".join(f"<small>{html.escape(note)}</small>" for note in record.get("notes", []))
    address = html.escape(quote(f"{name}.html"))
    cells = [
        f'<a href="{address}">{title}</a>' if record["ok"] else title,
        html.escape(record["minutes"] or "–"),
        html.escape(str(record["parameters"].get("profile", "–"))),
        f"{record['seconds']:.0f} s",
        html.escape(record["device"]),
        f"<small>{html.escape(versions)}</small>",
        status,
    ]
    data = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{html.escape(name[:2])}</th>{data}</tr>'
