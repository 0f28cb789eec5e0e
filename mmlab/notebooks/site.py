"""The executed notebooks as a site that reads without a network."""

from collections.abc import Sequence
from pathlib import Path

from mmlab.notebooks.pages.records import read_records
from mmlab.notebooks.result import Result


class SiteError(Exception):
    """Some of the site could not be made; the message says what, why, and the fix of each.

    All else is there. After a run, `results` says how the notebooks ran.
    """

    results: Sequence[Result] = ()


def build(out: Path, folder: Path, *, library: bool = False, whole: bool = True) -> Path:
    """Build ``out/site`` from the records and pages in ``out/notebooks``.

    Args:
        out: the build folder.
        folder: where the source notebooks lie, for the links to files beside them.
        library: whether the site also has the docs and a reference of the library.
        whole: whether their lists of notebooks are to be right already, for which each of them is
            written anew.

    Returns:
        The index page.

    Raises:
        SiteError: if a record is damaged or a page cannot be written. The rest is written first.
    """
    try:
        from mmlab.notebooks.pages.build import write_pages  # loads Sphinx
    except ImportError as error:
        raise SiteError(
            f"the pages need a package that is not installed ({error}); install the project with "
            "its extra docs, as `python3 -m mmlab run` does: pip install -e '.[docs]'"
        ) from error
    faults: list[str] = []
    records = read_records(out, faults)
    faults += write_pages(out, folder, records, library=library, whole=whole)
    if faults:
        raise SiteError("\n".join(faults))
    return out / "site/index.html"
