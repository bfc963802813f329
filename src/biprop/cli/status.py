"""biprop status: where a run is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .parser import add_command


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands, "status", run, help="how a run is doing, or how it ended", usage="biprop status RUN",
        description="Where a run is, how fast, how long it still takes and whether it lives, from the files in its folder.",)  # fmt: skip
    parser.add_argument("folder", metavar="RUN", help="run folder")


def run(arguments: argparse.Namespace) -> int:
    from ..console import Console
    from ..runs import status

    Console().table(arguments.folder, status.status(Path(arguments.folder)))
    return 0
