"""biprop list: names of the networks and of the packaged configurations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import config as options
from .. import screen
from .parser import add_command

_DESCRIPTION = """\
Print the names of the networks or the paths of the packaged configurations, one per line. Names
of networks with BinAct have binary activations (MPT-1/1), the others float activations
(MPT-1/32); cResNet and cWideResNet are the versions for small images, as in CIFAR-10. A
configuration can also be given by its name alone, such as conv4_kn_unsigned."""
_EPILOG = """\
examples:
  biprop list networks
  biprop list configs | grep conv4"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "list",
        run,
        help="list the networks or the packaged configurations",
        usage="biprop list {networks,configs}",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "what",
        choices=("networks", "configs"),
        help="networks: the names that --arch takes; configs: what --config takes",
    )


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
