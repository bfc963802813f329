"""biprop list: networks and configurations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import config as options
from .. import screen
from .parser import add_command


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "list",
        run,
        help="names of networks or configurations",
    )
    parser.add_argument("what", choices=("networks", "configs"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.what == "configs":
        root = Path(str(options.packaged()))
        names = [f"configs/{p.relative_to(root)}" for p in options.packaged_files()]
    else:
        from ..models.plans import NETWORKS

        names = list(NETWORKS)
    screen.show("\n".join(names) + "\n")
    return 0
