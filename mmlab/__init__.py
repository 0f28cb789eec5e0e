"""mmlab: balanced multimodal learning, one small library under a collection of notebooks.

The public names load on first use, so that ``import mmlab`` costs nothing and the bootstrap
(``python3 -m mmlab``) runs on a Python that has no package installed.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "mmlab.training": ("fit", "Run"),
    "mmlab.experiments": ("compare",),
    "mmlab.datasets": ("load", "Batch", "MultimodalData"),
    "mmlab.models": ("MultimodalNet", "Output"),
    "mmlab.balancers": (
        "Balancer",
        "Step",
        "Joint",
        "Uniform",
        "Unimodal",
        "GradientBlending",
        "ATF",
        "OGM",
        "MMPareto",
        "MLA",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    """Fetch a public name from its module, and keep it for the next time."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mmlab' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
