"""Whether everything is there: versions, device, threads.

torch loads on first use, so that this can also say that torch is missing.
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata

SETUP = "set it up with `python3 -m mmlab lab` in the project's folder, or `pip install -e .`"


def environment() -> None:
    """Print the versions that decide the numbers, the device and the threads; hints if not well."""
    hints = []
    print(f"{'Python':<24}{platform.python_version()}")
    for name, least in _requirements():
        version = _version(name)
        print(f"{name:<24}{version or 'missing'}")
        if version is None:
            hints.append(f"{name} is missing: {SETUP}")
        elif _numbers(version) < _numbers(least):
            hints.append(f"{name} is {version}, too old: at least {least} is needed; {SETUP}")
    if _version("torch"):
        import torch

        from mmlab.training import find_device

        print(f"{'device':<24}{find_device()}")
        print(f"{'threads':<24}{torch.get_num_threads()} of {os.cpu_count()} cores")
    print("\n".join(hints) or "All is there.")


def _requirements() -> list[tuple[str, str]]:
    """Name and least version of each package that mmlab needs, as its own metadata say."""
    try:
        lines = metadata.requires("mmlab") or []
    except metadata.PackageNotFoundError:
        return [("mmlab", "0")]
    found = [re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", line) for line in lines if "extra" not in line]
    return [(match[1], match[2]) for match in found if match]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
