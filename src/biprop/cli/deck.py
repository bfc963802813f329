"""biprop deck: several tickets as one classifier."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import DATA_PLACES
from ..errors import UserError
from .parser import (
    DEBUG,
    DECK_ENDING,
    Help,
    Parser,
    add_command,
    add_options,
    check_folder,
    coerced,
    overrides,
)


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    deck = commands.add_parser(
        "deck",
        help="several tickets in one file, that answer together",
        formatter_class=Help,
        allow_abbrev=False,
    )
    actions = deck.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=Parser
    )
    parser = add_command(
        actions, "build", run, help="make one", usage="biprop deck build A.mpt B.mpt ... -o NAME.deck [options]",
        description="Put tickets into one file, a deck. Its gate weights them by the spectrum of the images that it sees: it is\n"
        "fitted on held-out training images, plain and augmented as each ticket's were. Where they are, --data says.\n"
        "In Python: biprop.Deck.load(NAME).predict(images).")  # fmt: skip
    parser.add_argument("tickets", nargs="+", metavar="NAME.mpt")
    parser.add_argument("-o", "--output", required=True, metavar="NAME.deck", help="the deck")
    parser.add_argument(
        "--no-gate",
        action="store_true",
        help="the mean of the tickets' answers, always; needs no data",
    )
    add_options(parser, DATA_PLACES)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    flags = coerced(overrides(arguments))
    if not arguments.output.endswith(DECK_ENDING):
        raise UserError(f"--output {arguments.output}: the name of a deck ends with {DECK_ENDING}")
    check_folder(arguments.output)
    from ..console import Console
    from ..deck import Deck, report
    from ..engine import cores
    from ..ticket import Ticket

    cards, names = [Ticket.load(path) for path in arguments.tickets], _names(arguments.tickets)
    console = Console(lasting=True)
    if arguments.no_gate:
        deck = Deck(cards, names)
    else:
        from ..deck import build

        deck = build.build(cards, names, flags, console, cores())
    size = deck.save(arguments.output)
    content = report.deck_report(deck, size)
    console.columns(f"{arguments.output} written", content.heads, content.layers)
    console.table("the deck", content.totals)
    return 0


def _names(paths: Sequence[str]) -> list[str]:
    """The files' names without ending; their paths where two are the same."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)
