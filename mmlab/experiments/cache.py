"""Results on disk, by what they depend on: a sweep that was killed goes on where it stopped.

One file per run. Runs that were trained as one program count together or not at all, because in
another company they would differ by rounding: so a sweep that goes on equals one that was never
stopped. A run that diverged is a result; one that failed otherwise is not kept and trains again.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmlab.checks import kind_of
from mmlab.experiments.arguments import rate_of
from mmlab.experiments.jobs import Job, Outcome, Row, failed_outcome
from mmlab.experiments.tables import ERROR
from mmlab.files import output_folder, write_atomically
from mmlab.identity import code_version, digest, patches
from mmlab.training import find_device

PLAIN = (type(None), bool, int, float, str)
"""What JSON gives back as it was, floats to the last bit."""


TRAINED = output_folder("build/trained")
"""Where the notebooks keep the rows that they train, each for itself and for the others.

:meta hide-value:
"""


class Cache:
    """The results of some runs, in a folder.

    Args:
        folder: is made where it is missing.
        methods: name of a method -> digest of all that its runs depend on but data, rate and seed.
        data: seed -> digest of its data set.

    Raises:
        NotADirectoryError, PermissionError: no folder to write into.
        UnknownIdentityError: mmlab was changed by something that has no identity.
    """

    def __init__(self, folder: Path, methods: Mapping[str, str], data: Mapping[int, str]) -> None:
        self._folder, self._methods, self._data = folder, methods, data
        changes = digest(patches(), "mmlab as it was changed")
        self._code = f"{code_version()} {changes} {torch.get_default_dtype()}"

    def find(self, job: Job) -> dict[int, Outcome]:
        """Seed -> what its run left, of the seeds that are known."""
        known: dict[str, dict[str, Any] | None] = {}

        def there(key: str) -> dict[str, Any] | None:
            if key not in known:
                known[key] = self._read(key)
            return known[key]

        found = {}
        for seed in job.seeds:
            entry = there(self.key(job, seed))
            if entry and all(map(there, entry["with"])):
                found[seed] = _outcome(entry)
        return found

    def keep(self, job: Job, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Write what may be kept; return the outcomes as `find` will give them."""
        plain = [_plain(outcome) for outcome in outcomes]
        pairs = list(zip(job.seeds, plain, strict=True))
        together = [self.key(job, seed) for seed, one in pairs if one.together > 1]
        complete = all(_is_result(one) for one in plain if one.together > 1)
        for seed, one in pairs:
            if _is_result(one) and (complete or one.together <= 1):
                self._write(job, seed, one, together if one.together > 1 else [])
        return plain

    def key(self, job: Job, seed: int) -> str:
        """The name of a run's file."""
        rate = rate_of(job.options, job.seeds.index(seed))
        words = (self._code, self._methods[job.name], self._data[seed], repr(rate), repr(seed))
        return hashlib.sha256(" ".join(words).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _write(self, job: Job, seed: int, outcome: Outcome, others: Sequence[str]) -> None:
        entry = {
            "method": job.name,
            "seed": seed,
            "row": outcome.row,
            "together": outcome.together,
            "with": [*others],
        }
        content = json.dumps({"run": entry, "sha256": _checksum(entry)})
        write_atomically(self._path(self.key(job, seed)), content)

    def _read(self, key: str) -> dict[str, Any] | None:
        path = self._path(key)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["sha256"] != _checksum(content["run"]):
                raise ValueError("its checksum is another one")
            return content["run"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            warnings.warn(
                f"the result in {path} is damaged ({type(error).__name__}: {error}); this run, and "
                "those that were trained in one program with it, train again",
                stacklevel=2,
            )
            return None


def make_folder(cache: object) -> Path:
    """The folder of a cache, made where it is missing.

    Raises TypeError for what is no path; NotADirectoryError, PermissionError for no folder.
    """
    if not isinstance(cache, str | Path) or not str(cache):
        raise TypeError(f"cache is {cache!r}; give the path of a folder, such as 'build/sweep'")
    folder = Path(cache).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"cache is {str(cache)!r}, which is or lies in a file; give a folder, there or new"
        ) from None
    except PermissionError:
        raise _unwritable(cache) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(cache)
    return folder


def method_digest(job: Job) -> str:
    """A digest of everything that the runs of a method depend on, beside data, rate and seed.

    Raises UnknownIdentityError for what cannot be told apart.
    """
    found = [digest(job.make(), f"method {job.name!r}"), digest(job.measure, "measure")]
    found += [str(find_device(job.options.get("device", "auto")))]  # "auto" is not one everywhere
    for name, value in sorted(job.options.items()):
        if name not in ("lr", "device"):
            found.append(f"{name} {digest(value, f'{name} of method {job.name!r}')}")
    return hashlib.sha256(" ".join(found).encode()).hexdigest()


def _unwritable(cache: object) -> PermissionError:
    return PermissionError(
        f"cache is {str(cache)!r}, where you may not write; choose another folder"
    )


def _checksum(entry: object) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()


def _outcome(entry: Mapping[str, Any]) -> Outcome:
    row = dict(entry["row"])
    said = row.get(ERROR)
    error = None if said is None else FloatingPointError(said.partition(": ")[2])
    return Outcome(row, entry["together"], error)


def _is_result(outcome: Outcome) -> bool:
    return outcome.error is None or type(outcome.error) is FloatingPointError


def _plain(outcome: Outcome) -> Outcome:
    """The same as it comes out of a file; an error where it could not go into one."""
    row: Row = {}
    for name, value in outcome.row.items():
        try:
            row[name] = _value(name, value)
        except TypeError as error:
            kept = {key: one for key, one in outcome.row.items() if type(one) in PLAIN}
            return failed_outcome(outcome.error or error, kept, outcome.together)
    return Outcome(row, outcome.together, outcome.error)


def _value(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_value(name, one) for one in value]
    if type(value) not in PLAIN:
        raise TypeError(
            f"measure gives {kind_of(value)} in {name!r}, which a cache cannot hold; give "
            "numbers or texts"
        )
    return value
