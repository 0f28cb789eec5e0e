"""Which of several processes this is, where they meet, and whether they agree.

torchrun starts them; alone, a process is the first of one. What they tell each other in a step is
in `exchange`, what cannot be shared out in `sharing`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from torch import distributed


def count() -> int:
    """How many processes train together: those of torch.distributed, or that `torchrun` started."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def is_first() -> bool:
    """Whether this is the process that writes files, logs and progress; alone it is."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0" or count() == 1


def local_rank() -> int:
    """The number of this process on its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join() -> None:
    """Meet the other processes, unless there is none or they have met."""
    if count() > 1 and not distributed.is_initialized():
        with told_of_others("while they were to meet"):
            distributed.init_process_group()
        atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


_alike: ContextVar[bool] = ContextVar("alike", default=False)


@contextlib.contextmanager
def alike() -> Iterator[None]:
    """In this block all processes do the same, so a whole batch is one that all of them have."""
    before = _alike.set(True)
    try:
        yield
    finally:
        _alike.reset(before)


def check_whole_batch() -> None:
    """Refuse to train a part of a batch as if it were the whole.

    A method decides by its losses and gradients, and those of one process alone are others.
    """
    if not _alike.get() and count() > 1:
        raise RuntimeError(
            f"this is one of {count()} processes, each with a batch of its own: a method would "
            "decide in each for itself, and the networks would drift apart; train with fit, which "
            "shares the samples of a batch out, or train in one process"
        )


def check_one_process(what: str, instead: str) -> None:
    """Refuse what cannot be shared out; what: who cannot, instead: what can.

    Raises RuntimeError.
    """
    if count() > 1:
        raise RuntimeError(
            f"this is one of {count()} processes, and {what} works in one: each would do all of "
            f"it; {instead}"
        )


# --- agreement ------------------------------------------------------------------------------------


def first_says(value: Any) -> Any:
    """What the first process was given."""
    if count() == 1:
        return value
    said = [value]
    with told_of_others():
        distributed.broadcast_object_list(said)
    return said[0]


def check_same(when: str, values: Mapping[str, object]) -> None:
    """Refuse to go on where the processes are not in one state.

    when: at what moment this is asked, for the message.
    values: name -> what must be the same in all processes.

    Raises RuntimeError.
    """
    found: list[Any] = [None] * count()
    with told_of_others(when):
        distributed.all_gather_object(found, dict(values))
    for rank, theirs in enumerate(found):
        names = [name for name in values if theirs.get(name) != found[0].get(name)]
        if names:
            raise RuntimeError(
                f"process {rank} of {count()} disagrees with process 0 {when}, on "
                f"{', '.join(names)}: each must run the same script on the same data, with the "
                "same seeds; look for what differs, such as modules made without a seed (put "
                "torch.manual_seed(0) before them) or an observer that changes the network"
            )


@contextlib.contextmanager
def told_of_others(when: str = "in a step") -> Iterator[None]:
    """Say what it means where torch finds another process gone, or doing something else."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        atexit.unregister(_leave)  # it would wait for the one that is gone
        raise RuntimeError(
            f"process {os.environ.get('RANK', '?')} of {count()} cannot go on {when}: another one "
            "has ended, or does something else; its own error, or that it was killed, is in the "
            f"log. torch says: {error}"
        ) from error
