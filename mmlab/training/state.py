"""What an object keeps, as plain data that a file can hold, and back.

Numbers, texts and tensors are taken as they are, and so are lists, tuples, dicts and sets of them.
What has `state_dict` and `load_state_dict`, as torch's modules, optimisers and schedules have, says
itself what it keeps. Settings, functions and other objects that have not changed are not part of
it: who fills an object again has made it from the same ones.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlab.checks import kind_of
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.datasets.stream import Stream
from mmlab.identity import UnknownIdentityError, digest
from mmlab.training.run import Course

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size)

DICTS = (dict, OrderedDict, Counter)

CONSTANT = (
    *(*PLAIN, frozenset, range, Path, Enum, np.generic, torch.dtype, torch.device),
    *(type, FunctionType, BuiltinFunctionType, ModuleType, partial),
    *(Course, MultimodalData, Batch, Stream),  # of the call itself
)
"""Types that are not looked into: where the object is the same, it counts as unchanged."""

State = dict[str, Any]


@dataclass(frozen=True)
class _Other:
    """An object of another kind, and a digest of it, which tells whether it has changed."""

    value: object
    digest: str


def snapshot(owner: object) -> State:
    """What an object holds at the moment, to tell later what has changed.

    Raises TypeError for one without a __dict__, as with __slots__.
    """
    if _speaks(owner):
        return {}
    if not hasattr(owner, "__dict__"):
        raise TypeError(
            f"{type(owner).__name__} has no __dict__, so what it keeps cannot be seen; write "
            "state_dict and load_state_dict for it"
        )
    return {key: _frozen(value) for key, value in vars(owner).items()}


def state_of(owner: object, before: State, name: str) -> State:
    """What an object keeps beyond what it held before, such as when a training began.

    Args:
        before: its `snapshot` of then.
        name: the object's name in messages.

    Raises:
        TypeError: it keeps what no file can hold.
    """
    if _speaks(owner):
        return _saved(owner, owner, name)
    return {
        key: _saved(value, before.get(key), f"{name}.{key}")
        for key, value in vars(owner).items()
        if not _constant(value, before.get(key, ...))
    }


def put_back(owner: Any, state: State) -> None:
    """Fill an object with what `state_of` found in one that was made alike."""
    if _speaks(owner):
        _restored(state, owner)
        return
    for key, saved in state.items():
        vars(owner)[key] = _restored(saved, vars(owner).get(key))


def keeps_something(owner: object) -> bool:
    """Whether an object may have a state: no function has, nor what has keeps_nothing = True."""
    function = isinstance(owner, FunctionType | BuiltinFunctionType | partial)
    return not (function or getattr(owner, "keeps_nothing", False))


def _frozen(value: Any) -> Any:
    """The containers in a copy, what they hold itself; of what may change unseen, a digest too."""
    if type(value) in DICTS:
        return {key: _frozen(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_frozen, value))
    if type(value) is set:
        return set(value)
    if isinstance(value, (*CONSTANT, Tensor, torch.Generator)) or _speaks(value):
        return value
    try:
        return _Other(value, digest(value, type(value).__name__))
    except UnknownIdentityError:  # refused where it is to be saved
        return value


def _constant(value: Any, before: Any) -> bool:
    """Whether this is a setting, which nothing has changed."""
    if type(value) in DICTS:
        same = isinstance(before, dict) and value.keys() == before.keys()
        return same and all(_constant(part, before[key]) for key, part in value.items())
    if type(value) in (list, tuple):
        same = type(before) is type(value) and len(before) == len(value)
        return same and all(map(_constant, value, before))
    if type(value) is set:
        return type(before) is set and before == value
    if isinstance(before, _Other):
        same = value is before.value
        return same and digest(value, type(value).__name__) == before.digest
    return isinstance(value, CONSTANT) and value is before


def _speaks(value: object) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _saved(value: Any, before: Any, where: str) -> Any:
    """A value as plain data."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.generic):
        return _saved(value.item(), None, where)
    if isinstance(value, nn.Module) and value is before:
        return _saved(_of_module(value), None, where)
    if _speaks(value) and value is before:
        return _saved(value.state_dict(), None, where)
    if isinstance(value, torch.Generator) and value is before:
        return value.get_state()
    if isinstance(value, Tensor):
        part = value.untyped_storage().nbytes() > value.nbytes  # of which a file would hold all
        return value.detach().clone() if part else value.detach()
    if type(value) in DICTS:
        known = before if isinstance(before, dict) else {}
        found = copy.copy(value)  # with what torch notes on it
        for key, part in value.items():
            found[key] = _saved(part, known.get(key), f"{where}[{key!r}]")
        return found
    if type(value) in (list, tuple, set):
        fits = type(before) is type(value) and len(before) == len(value) and type(value) is not set
        olds = before if fits else [None] * len(value)
        pairs = enumerate(zip(value, olds, strict=True))
        return type(value)(_saved(part, old, f"{where}[{i}]") for i, (part, old) in pairs)
    raise TypeError(_unsaved(value, where))


def _unsaved(value: object, where: str) -> str:
    what = f"{where} is {kind_of(value)}"
    if isinstance(value, nn.Module | torch.Generator) or _speaks(value):
        return (
            f"{what} that was made during the training, so nothing could take its state when the "
            "training goes on; make it in __init__ or in `start`"
        )
    return (
        f"{what}, whose state cannot be saved; keep numbers, texts, tensors, and lists, tuples, "
        "dicts and sets of these, or write state_dict and load_state_dict for it"
    )


def _restored(saved: Any, current: Any) -> Any:
    """The value itself; what is there already and has a state takes it."""
    if isinstance(current, nn.Module):
        _into_module(current, saved)
        return current
    if _speaks(current):
        current.load_state_dict(saved)
        return current
    if isinstance(current, torch.Generator):
        current.set_state(saved.cpu())
        return current
    if isinstance(current, nn.Parameter):
        with torch.no_grad():
            current.copy_(saved)
        return current
    if type(saved) in DICTS:
        known = current if isinstance(current, Mapping) else {}
        found = copy.copy(saved)
        for key, part in saved.items():
            found[key] = _restored(part, known.get(key))
        return found
    if type(saved) in (list, tuple):
        fits = type(current) is type(saved) and len(current) == len(saved)
        return type(saved)(map(_restored, saved, current if fits else [None] * len(saved)))
    return saved


# --- modules --------------------------------------------------------------------------------------


def _of_module(module: nn.Module) -> State:
    """Values, also of buffers that torch leaves out, and which parts are frozen or evaluate."""
    values = module.state_dict()
    return {
        "values": values,
        "buffers": {name: b for name, b in module.named_buffers() if name not in values},
        "trained": [p.requires_grad for p in module.parameters()],
        "training": [part.training for part in module.modules()],
    }


def _into_module(module: nn.Module, state: State) -> None:
    module.load_state_dict(state["values"])
    for name, buffer in module.named_buffers():
        if name in state["buffers"]:
            buffer.copy_(state["buffers"][name])
    for p, trained in zip(module.parameters(), state["trained"], strict=True):
        p.requires_grad_(trained)
    for part, training in zip(module.modules(), state["training"], strict=True):
        part.training = training
