"""Methods that balance modalities: one paper, one file, all driven by the same loop.

The names load on first use; `mmlab.balancers.registry` knows them all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mmlab.balancers.registry import METHODS as METHODS
from mmlab.balancers.registry import homes

if TYPE_CHECKING:
    from mmlab.balancers.joint import Unimodal as Unimodal
    from mmlab.balancers.registry import *  # noqa: F403
    from mmlab.training.balancer import Balancer as Balancer

if not TYPE_CHECKING:  # a checker would take every name for known

    def __getattr__(name: str) -> object:
        """Fetch a class from its module, and keep it for the next time."""
        if name == "__all__":
            return ["METHODS", "Balancer", *homes()]
        found = {**homes(), "Balancer": "mmlab.training.balancer"}.get(name)
        if found is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(found), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), "__all__", *homes(), "Balancer"})
