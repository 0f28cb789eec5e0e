"""Data that we may not or cannot ship: fetched once, kept whole or not at all, and pinned."""

from __future__ import annotations

from pathlib import Path

from mmlab.datasets.archives import inside
from mmlab.files import write_atomically

PARTS = "complete.txt"
PIN = "content.sha256"


def cache(name: str) -> Path:
    """Where the files of a data set are kept: a folder in the user's cache."""
    import pooch  # only a download needs it

    return Path(pooch.os_cache("mmlab")) / name


def fetch_archive(doi: str, folder: Path) -> Path:
    """The zip archive of a Zenodo record, from `folder` or else from the network.

    The record's own checksums (MD5) tell a whole file from a damaged one. pooch writes to a
    temporary name and renames what is whole, so a download that stops leaves nothing that counts:
    the next call keeps the files that are whole and fetches the one that was cut short anew.

    Raises ConnectionError where it cannot be fetched (it says what to do instead), ValueError where
    the record does not hold one archive.
    """
    names = _complete(folder) or _fetch(doi, folder)
    archives = [name for name in names if name.endswith(".zip")]
    if len(archives) != 1:
        raise ValueError(
            f"the record {doi} holds {len(archives)} zip archives ({', '.join(names)}), and one "
            "was expected: it has changed. Take its files by hand and give root='FOLDER'"
        )
    return folder / archives[0]


def check_pin(folder: Path, what: str, found: str) -> None:
    """Trust on first use: note the first content hash that was found, and hold others to it.

    The first one is printed, so that it can be compared with that of other people.
    Raises ValueError where another hash was noted before.
    """
    pin = folder / PIN
    if not pin.is_file():
        write_atomically(pin, found + "\n")
        print(f"{what}: content SHA-256 {found}, noted in {pin}")
        return
    noted = pin.read_text(encoding="utf-8").strip()
    if found != noted:
        raise ValueError(
            f"{what} has the content SHA-256 {found}, and the first download had {noted}; find out "
            f"what has changed. If you trust the new content, delete {pin} and load it again"
        )


def _complete(folder: Path) -> list[str]:
    """The names of a download that was finished, if all its files are still there."""
    done = folder / PARTS
    names = done.read_text(encoding="utf-8").splitlines() if done.is_file() else []
    return names if all((folder / name).is_file() for name in names) else []


def _fetch(doi: str, folder: Path) -> list[str]:
    import pooch

    try:
        record = pooch.create(path=folder, base_url=f"doi:{doi}/", retry_if_failed=2)
        record.load_registry_from_doi()
        names = sorted(record.registry)
        if outside := [name for name in names if not inside(name)]:
            raise ValueError(f"it names the file {outside[0]!r}, which lies outside of the folder")
        for name in names:
            record.fetch(name, progressbar=True)
    except (OSError, ValueError, KeyError) as error:  # the last: an answer that is no record
        raise ConnectionError(
            f"could not fetch the record {doi} ({type(error).__name__}: {error}). Run it again "
            f"where the network reaches https://doi.org/{doi}, or download the zip from there with "
            "a browser and give its path: root='FILE.zip'"
        ) from error
    write_atomically(folder / PARTS, "\n".join(names))
    return names
