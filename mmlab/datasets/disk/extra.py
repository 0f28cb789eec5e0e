"""The packages of the extra `media`, which only those who read such files need."""

from __future__ import annotations

import importlib
from typing import Any


def media(package: str, purpose: str) -> Any:
    """A package of the extra. Raises ImportError, which says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {package!r}, which is not here ({error}); install the "
            "extra: pip install 'mmlab[media]', in a checkout pip install -e '.[media]'"
        ) from error
