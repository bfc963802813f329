"""biprop inspect: the contents of a ticket or a deck."""

from __future__ import annotations

import argparse
from typing import Any

from .. import hub
from .parser import DEBUG, DECK_SUFFIX, TICKET_SUFFIX, add_command

_DESCRIPTION = """\
Show the layers of a ticket and the size of each part of the file, or the tickets and the gate of
a deck. Columns of the layers: weights kept; bits/weight, the size of the coded mask; H(k), the
binary entropy of the fraction kept, which no code can beat on average unless the kept weights form
a pattern; gain, the magnitude of the kept weights; signs: whether they follow from the seed, are
all positive, or are stored."""
_EPILOG = """\
examples:
  biprop inspect digits.mpt
  biprop inspect AB.deck"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "inspect",
        run,
        help="show the contents of a ticket or a deck",
        usage="biprop inspect FILE",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "file", metavar="FILE", help=f"ticket ({TICKET_SUFFIX}) or deck ({DECK_SUFFIX})"
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Print the contents; returns the exit code."""
    from ..console import Console
    from ..deck import Deck
    from ..deck.report import deck_report
    from ..ticket import Ticket
    from ..ticket.report import ticket_report

    file = arguments.file
    content = Deck.load(file) if file.endswith(DECK_SUFFIX) else Ticket.load(file)
    # A pipe, such as <(command), has no size.
    size = hub.local(file).stat().st_size or len(content.to_bytes())
    if isinstance(content, Deck):
        report = deck_report(content, size)
    else:
        report = ticket_report(content, size)
    console = Console()
    console.columns(file, report.heads, report.layers)
    console.table("the file", report.totals)
    return 0
