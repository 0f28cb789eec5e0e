"""Where a training takes place."""

from __future__ import annotations

import torch

from mmlab.training import processes


def find_device(device: str | torch.device = "auto") -> torch.device:
    """The device to train on; "auto" takes cuda, then mps, then cpu.

    Each of several processes takes a GPU of its own, the one of its LOCAL_RANK.

    Raises ValueError for a device that this machine or this build of torch does not have.
    """
    available = ["cpu"]
    several = processes.count() > 1
    if torch.backends.mps.is_available() and not several:
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        device = available[0]
    if several and str(device) == "cuda":
        device = f"cuda:{processes.local_rank()}"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    there = found is not None and found.type in available
    if found is not None and found.type == "cuda" and found.index is not None:
        there = there and found.index < torch.cuda.device_count()
    if found is None or not there:
        raise ValueError(
            f"device {str(device)!r} is not available; this machine has {', '.join(available)}. "
            "Use device='auto' to take the first of these"
        )
    return found
