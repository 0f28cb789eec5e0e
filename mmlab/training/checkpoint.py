"""A training that goes on where it was cut off, bit for bit.

Random numbers need no saving: each epoch draws them anew from the seed (`mmlab.seeds`). So a file
holds what the training has changed, at the end of an epoch, and what tells this training from any
other.
"""

from __future__ import annotations

import glob
import io
import pickle
import string
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn

from mmlab.checks import check_whole
from mmlab.files import write_atomically
from mmlab.identity import PLAIN, code_version, digest
from mmlab.training.processes import first_says, is_first
from mmlab.training.run import Run
from mmlab.training.state import State, keeps_something, put_back, snapshot, state_of

FIELDS = ("method", "seed", "run")

FORMAT = "mmlab checkpoint 1"


class Checkpoint:
    """Observer: save the training after epochs; the same call of `fit` goes on from the file.

    It goes on with network, optimiser, schedule, history, method and observers as they were, and on
    a CPU it ends where it would have ended without the break, bit for bit. A process that is killed
    loses the epochs since the last save, and leaves the file whole.

    Args:
        path: the file. "{seed}", "{method}" and "{run}" in it are replaced; {run} is a short text
            that only this training has, as its settings and data go into it. Several trainings
            (`fit_seeds`, `compare`) need files of their own: "{method}-{seed}-{run}.pt".
        every: epochs between two saves; the last epoch is always saved.

    The same call means the same arguments, a network built anew, and the same code of mmlab, torch
    and NumPy. `epochs` counts too: a longer training is another one. With {run} in the path it
    starts anew, with a file of its own; without it, its call is refused. A `Stream` needs a
    `checksum`.

    It must be the last of the observers, since it saves what the others keep:
    `observers=[EarlyStopping(patience=5), Checkpoint("{method}-{seed}-{run}.pt")]`.

    Raises:
        ValueError: an argument out of range; it is not the last observer; the file is damaged, or
            of another training: the message says what differs.
        TypeError: the method or an observer keeps what no file can hold. Numbers, texts, tensors,
            and lists, tuples, dicts and sets of these can be saved, and what has state_dict and
            load_state_dict.
        UnknownIdentityError (a TypeError): something is given of which cannot be told whether it is
            the same the next time, such as an open file.
        UnwritableError: the file cannot be written.
    """

    only_looks = False

    def __init__(self, path: str | Path, every: int = 1) -> None:
        check_whole("every", every, least=1)
        self.path, self.every = str(path), every
        self.path_fields = path_fields(self.path)

    def on_start(self, run: Run) -> None:
        if run.observers[-1] is not self:
            raise ValueError(
                f"Checkpoint comes before {type(run.observers[-1]).__name__}; make it the last of "
                "the observers, so that it saves what the others have seen"
            )
        _check_schedule(run)
        self._before = {name: snapshot(one) for name, one in _parts(run).items()}
        self._settings = settings_of(run)
        self._file = path_of(self.path, run, self._settings)
        if is_first():  # another one might come when the first is already saving
            for left in self._file.parent.glob(f".{glob.escape(self._file.name)}.*.partial"):
                left.unlink(missing_ok=True)  # by a process that was killed while it saved
        if first_says(self._file.exists()):
            self._go_on(run)
        else:
            self._save(run)  # what cannot be saved shows now, and not after an epoch

    def __call__(self, run: Run) -> None:
        if run.epoch and (run.epoch % self.every == 0 or run.over):
            self._save(run)

    def _save(self, run: Run) -> None:
        content = io.BytesIO()
        parts = {name: state_of(one, self._before[name], name) for name, one in _parts(run).items()}
        if not is_first():
            return
        progress = {"epoch": run.epoch, "stopped": run.stopped, "rows": run.rows}
        torch.save({"format": FORMAT, "run": self._settings, **progress, "parts": parts}, content)
        write_atomically(self._file, content.getbuffer())

    def _go_on(self, run: Run) -> None:
        saved = _loaded(self._file, run.device)
        _check_same(saved["run"], self._settings, self._file)
        for name, one in _parts(run).items():
            put_back(one, saved["parts"][name])
        run.epoch, run.stopped = saved["epoch"], saved["stopped"]
        run.rows[:] = saved["rows"]


# --- where it is saved ----------------------------------------------------------------------------


def check_own_paths(observers: Sequence[object], count: int) -> None:
    """Refuse one path for several trainings, of an observer that has one."""
    for observer in observers:
        names = getattr(observer, "path_fields", None)
        if count > 1 and names is not None and names.isdisjoint({"seed", "run"}):
            raise ValueError(
                f"{type(observer).__name__}({getattr(observer, 'path', '')!r}) is one path for "
                f"{count} trainings; put {{seed}} or {{run}} into it, such as "
                "'{method}-{seed}-{run}'"
            )


def path_of(pattern: str, run: Run, settings: Mapping[str, str]) -> Path:
    """A path with its {method}, {seed} and {run} filled in; settings: of this run, for {run}."""
    values = (run.balancer.name, run.seed, digest(settings, "run")[:12])
    return Path(pattern.format_map(dict(zip(FIELDS, values, strict=True))))


def path_fields(path: str) -> set[str]:
    """The names between braces in a path.

    Raises ValueError for an unknown one.
    """
    try:
        found = {name for _, name, *_ in string.Formatter().parse(path) if name is not None}
    except ValueError:
        found = {""}
    if unknown := found - {*FIELDS}:
        raise ValueError(
            f"path is {path!r}; between braces {{{min(unknown)}}} is unknown: allowed are "
            f"{', '.join(f'{{{name}}}' for name in FIELDS)}"
        )
    return found


# --- what is saved --------------------------------------------------------------------------------


def _parts(run: Run) -> dict[str, Any]:
    """Name -> object, of all that a training changes."""
    parts = {"network": run.model, "optimizer": run.optimizer, "method": run.balancer}
    parts |= {"modules": run.modules} if run.modules is not None else {}
    parts |= {"schedule": run.schedule} if run.schedule is not None else {}
    parts |= {"loss": run.loss} if isinstance(run.loss, nn.Module) else {}
    return parts | _watching(run)


def _watching(run: Run) -> dict[str, Any]:
    """The other observers that keep something; a function keeps nothing."""
    others = [one for one in run.observers if not isinstance(one, Checkpoint)]
    owners = [one.__self__ if isinstance(one, MethodType) else one for one in others]
    keeping = [one for one in owners if keeps_something(one)]
    return {f"observer {i}": one for i, one in enumerate(keeping)}


def _check_schedule(run: Run) -> None:
    driven = any("initial_lr" in group for group in run.optimizer.param_groups)
    if driven and run.schedule is None:
        raise ValueError(
            "a schedule sets the optimiser's rate, and a checkpoint cannot see it, so its state "
            "would be lost; give it to fit: schedule=lambda optimizer: ..."
        )


# --- which training it is -------------------------------------------------------------------------


def settings_of(run: Run) -> dict[str, str]:
    """Name -> value, or a digest of it, of all that tells this training from others."""
    found = {"code of mmlab, torch and NumPy": code_version()}
    for name, one in {"method": run.balancer, "optimizer": run.optimizer, **_watching(run)}.items():
        found |= {name: repr(type(one).__name__), f"{name}'s code": digest(type(one), name)}
        if one is not run.optimizer:
            found |= _described(name, vars(one))
    for i, group in enumerate(run.optimizer.param_groups):
        found |= _described(f"optimizer's group {i}", {**group, "params": len(group["params"])})
    found["optimizer's state"] = digest(run.optimizer.state_dict()["state"], "optimizer")
    options = {one.name: getattr(run, one.name) for one in fields_of(run)}
    found |= {
        name: repr(value)
        for name, value in options.items()
        if type(value) in PLAIN and name not in ("epoch", "stopped")
    }
    found |= {"device": run.device.type, "loss": digest(run.loss, "loss")}
    found["schedule"] = digest(run.schedule and run.schedule.make, "schedule")
    found["network as it was at the start"] = digest(run.model, "network")
    for name in ("augment", "sampler"):
        found[f"data.{name}"] = digest(getattr(run.data, name), name)
    return found | {f"data.{name}": digest(one, name) for name, one in run.data.splits.items()}


def _described(what: str, values: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{what}.{name}": repr(value) if type(value) in PLAIN else digest(value, f"{what}.{name}")
        for name, value in values.items()
    }


def _loaded(path: Path, device: torch.device) -> State:
    """What a file holds, with its tensors where they were: in this device, or on the CPU."""

    def here(storage: Any, place: str) -> Any:
        return storage if place == "cpu" else storage.to(device=device)

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        saved = torch.load(path, map_location=here, weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged, or no checkpoint ({error}); put a copy in its place, or delete it "
            "to train from the beginning"
        ) from error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no checkpoint of this version ({FORMAT}); give another path, or delete the "
            "file to train from the beginning"
        )
    return saved


def _check_same(saved: Mapping[str, str], here: Mapping[str, str], path: Path) -> None:
    """Refuse a file of another training."""
    names = [name for name in {**saved, **here} if saved.get(name) != here.get(name)]
    if names:
        some = ", ".join(_difference(name, saved.get(name), here.get(name)) for name in names[:3])
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"{path} is of another training: {some}{more}. Train as it was trained, from a network "
            "built anew; or give another path, which {run} makes of itself, or delete the file"
        )


def _difference(name: str, there: str | None, here: str | None) -> str:
    if there is None or here is None:
        return f"{name} is {'not given there' if there is None else 'given there alone'}"
    digests = len(there) == len(here) == 64
    return f"{name} differs" if digests else f"{name} is {there} there and {here} here"
