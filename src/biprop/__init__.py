"""biprop finds Multi-Prize Tickets: accurate binary subnetworks of networks with random,
never-trained weights.

The public names are imported when they are first used, so that `import biprop` and `biprop --help`
do not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import robustness as robustness
    from .deck import Deck as Deck
    from .engine import Engine as Engine
    from .errors import UserError as UserError
    from .native import cmake_dir as cmake_dir
    from .native import include_dir as include_dir
    from .subnetwork import BinaryActivation as BinaryActivation
    from .subnetwork import LayerReport as LayerReport
    from .subnetwork import Subnetwork as Subnetwork
    from .subnetwork import convert as convert
    from .ticket import Ticket as Ticket
    from .ticket import TicketError as TicketError

__version__ = "0.1.0"

_MODULE_OF = {
    "BinaryActivation": "subnetwork",
    "Deck": "deck",
    "Engine": "engine",
    "LayerReport": "subnetwork",
    "Subnetwork": "subnetwork",
    "Ticket": "ticket",
    "TicketError": "ticket",
    "UserError": "errors",
    "cmake_dir": "native",
    "convert": "subnetwork",
    "include_dir": "native",
    "robustness": "robustness",
}
"""Public name -> the module that defines it, or which it is."""


__all__ = [
    "BinaryActivation",
    "Deck",
    "Engine",
    "LayerReport",
    "Subnetwork",
    "Ticket",
    "TicketError",
    "UserError",
    "__version__",
    "cmake_dir",
    "convert",
    "include_dir",
    "robustness",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'biprop' has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULE_OF[name]}", __name__)
    return module if _MODULE_OF[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
