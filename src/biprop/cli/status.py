"""biprop status: the progress or the result of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .parser import add_command


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "status",
        run,
        help="show the progress of a run, or its result",
        usage="biprop status RUN",
        description="Show the state of a run, its speed and the time left, from the files in its"
        " folder.",
    )
    parser.add_argument("folder", metavar="RUN", help="run folder")


def run(arguments: argparse.Namespace) -> int:
    """Print the status; returns the exit code."""
    from ..console import Console
    from ..runs import status

    Console().table(arguments.folder, status.status(Path(arguments.folder)))
    return 0
