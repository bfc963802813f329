"""Accuracy under common corruptions: of tickets, decks, and any PyTorch model.

The public names are imported when they are first used: the names of the corruptions need no
PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import measure as measure
    from .scores import Scores as Scores
    from .scores import read_reference as read_reference
    from .weights import load_weights as load_weights

_MODULE_OF = {
    "Scores": "scores",
    "load_weights": "weights",
    "measure": "model",
    "read_reference": "scores",
}

__all__ = ["Scores", "load_weights", "measure", "read_reference"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'biprop.robustness' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
