"""biprop status: the progress or the result of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .parser import add_command

_DESCRIPTION = """\
Show from the files of a run whether it is complete, running or interrupted, its accuracy so far,
its speed, and the time left."""
_EPILOG = """\
examples:
  biprop status runs/digits/prune-rate=0.2/find"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "status",
        run,
        help="show the progress of a run, or its result",
        usage="biprop status RUN",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("folder", metavar="RUN", help="run folder, as biprop find printed it")


def run(arguments: argparse.Namespace) -> int:
    """Print the status; returns the exit code."""
    from ..console import Console
    from ..runs import status

    Console().table(arguments.folder, status.status(Path(arguments.folder)))
    return 0
