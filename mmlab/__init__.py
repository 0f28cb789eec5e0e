"""mmlab: balanced multimodal learning, one small library under a collection of notebooks.

The public names load on first use, so that ``import mmlab`` costs nothing and the bootstrap
(``python3 -m mmlab``) runs on a Python that has no package installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlab.balancers.joint import Unimodal as Unimodal
    from mmlab.balancers.registry import *  # noqa: F403
    from mmlab.datasets import Batch as Batch
    from mmlab.datasets import MultimodalData as MultimodalData
    from mmlab.datasets import Stream as Stream
    from mmlab.datasets import load as load
    from mmlab.experiments.comparison import compare as compare
    from mmlab.experiments.diagnosis import diagnose as diagnose
    from mmlab.experiments.tuning import tune as tune
    from mmlab.models import MultimodalNet as MultimodalNet
    from mmlab.models import Output as Output
    from mmlab.training import Balancer as Balancer
    from mmlab.training import Checkpoint as Checkpoint
    from mmlab.training import EarlyStopping as EarlyStopping
    from mmlab.training import Progress as Progress
    from mmlab.training import Run as Run
    from mmlab.training import Step as Step
    from mmlab.training import TensorBoard as TensorBoard
    from mmlab.training import fit as fit
    from mmlab.training import fit_seeds as fit_seeds

__version__ = "0.1.0"

_HOME = {
    "mmlab.training": (
        "fit",
        "fit_seeds",
        "Run",
        "Step",
        "Balancer",
        "Checkpoint",
        "EarlyStopping",
        "Progress",
        "TensorBoard",
    ),
    "mmlab.experiments": ("compare", "tune", "diagnose"),
    "mmlab.datasets": ("load", "Batch", "MultimodalData", "Stream"),
    "mmlab.models": ("MultimodalNet", "Output"),
}


def _module_of():
    """Public name -> the module that holds it; the methods' from their registry."""
    homes = import_module("mmlab.balancers.registry").homes()
    own = {name: module for module, names in _HOME.items() for name in names}
    return {**own, **homes}


if not TYPE_CHECKING:  # a checker would take every name for known

    def __getattr__(name: str) -> object:
        """Fetch a public name from its module, and keep it for the next time."""
        if name == "__all__":
            return ["__version__", *_module_of()]
        module = None if name.startswith("__") else _module_of().get(name)
        if module is None:
            raise AttributeError(f"module 'mmlab' has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(module), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), "__all__", *_module_of()})
