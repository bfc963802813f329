"""biprop inspect: what is in a ticket or deck."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .parser import DEBUG, DECK_ENDING, add_command


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands, "inspect", run, help="what is in a ticket or a deck", usage="biprop inspect NAME.mpt",
        description="A row per layer, and where the bytes of the file go; of a deck (.deck), a row per card.",)  # fmt: skip
    parser.add_argument("file", metavar="NAME.mpt")
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    from ..console import Console
    from ..deck import Deck
    from ..deck.report import deck_report
    from ..ticket import Ticket
    from ..ticket.report import ticket_report

    found = (
        Deck.load(arguments.file)
        if arguments.file.endswith(DECK_ENDING)
        else Ticket.load(arguments.file)
    )
    size = Path(arguments.file).stat().st_size or len(found.to_bytes())
    content = deck_report(found, size) if isinstance(found, Deck) else ticket_report(found, size)
    console = Console()
    console.columns(arguments.file, content.heads, content.layers)
    console.table("the file", content.totals)
    return 0
