"""biprop list: names of the networks and of the packaged configurations."""

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
        help="list the networks or the packaged configurations",
        description="Print the names that --arch (networks) or --config (configs) takes.",
    )
    parser.add_argument("what", choices=("networks", "configs"))


def run(arguments: argparse.Namespace) -> int:
    """Print the names, one per line; returns the exit code."""
    if arguments.what == "configs":
        root = Path(str(options.packaged()))
        names = [f"configs/{path.relative_to(root)}" for path in options.packaged_files()]
    else:
        from ..models.plans import NETWORKS

        names = list(NETWORKS)
    screen.print_text("\n".join(names) + "\n")
    return 0
