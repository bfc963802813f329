"""biprop deck: several tickets as one classifier."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DATA_SOURCE_OPTIONS
from . import next_step
from .common import warn
from .parser import (
    DEBUG,
    DECK_SUFFIX,
    Help,
    Parser,
    add_command,
    add_options,
    check_folder,
    check_suffix,
    coerced,
    overrides,
)

if TYPE_CHECKING:
    from ..console import Console
    from ..deck import Deck

_DESCRIPTION = """\
A deck is an ensemble of tickets, its cards, in one file: the predict and robustness commands read
it, and inspect shows it."""
_EPILOG = """\
examples:
  biprop deck build noise.mpt augmix.mpt -o hand.deck --data DIR"""
_BUILD_DESCRIPTION = """\
Put several tickets into one file, a deck, whose prediction is a weighted mean of the tickets'
predictions. The weights come from a gate that looks at the power spectrum of the images. The gate
is fitted on held-out training images, both without augmentation and with the augmentation that
each ticket was trained with: pass --data, the folder that contains them, except for the embedded
digits. In Python: biprop.Deck.load(NAME).predict(images)."""
_BUILD_EPILOG = """\
examples:
  biprop deck build noise.mpt augmix.mpt -o hand.deck --data DIR
  biprop deck build a.mpt b.mpt c.mpt -o mean.deck --no-gate"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    deck = commands.add_parser(
        "deck",
        help="combine several tickets into one classifier",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=Help,
        allow_abbrev=False,
    )
    actions = deck.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=Parser
    )
    parser = add_command(
        actions,
        "build",
        run,
        help="write several tickets as one deck",
        usage=f"biprop deck build A.mpt B.mpt ... -o NAME{DECK_SUFFIX} [options]",
        description=_BUILD_DESCRIPTION,
        epilog=_BUILD_EPILOG,
    )
    parser.add_argument("tickets", nargs="+", metavar="NAME.mpt", help="tickets")
    parser.add_argument(
        "-o", "--output", required=True, metavar=f"NAME{DECK_SUFFIX}", help="deck to write"
    )
    parser.add_argument(
        "--no-gate",
        action="store_true",
        help="always take the unweighted mean of the tickets' predictions; needs no data",
    )
    add_options(parser, DATA_SOURCE_OPTIONS)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Build the deck, write it and report; returns the exit code."""
    flags = coerced(overrides(arguments))
    check_suffix(arguments.output, DECK_SUFFIX, "deck")
    check_folder(arguments.output)
    from ..console import Console
    from ..deck import report

    console = Console(tolerant=True)
    deck = _deck(arguments.tickets, None if arguments.no_gate else flags, console)
    size = deck.save(arguments.output)
    content = report.deck_report(deck, size)
    console.columns(f"{arguments.output} written", content.heads, content.layers)
    console.table("the deck", content.totals)
    console.line("", *next_step.after_deck(arguments.output, deck.cards[0].found, flags))
    return 0


def _deck(paths: Sequence[str], flags: Mapping[str, Any] | None, console: Console) -> Deck:
    """The deck of the tickets at `paths`; `flags`: options of the gate's data, None: no gate."""
    from ..deck import Deck
    from ..engine import cores
    from ..ticket import Ticket

    cards = [Ticket.load(path) for path in paths]
    names = _names(paths)
    if flags is None:
        return Deck(cards, names)
    from ..deck import build

    warn(build.notes_on(cards, names))
    return build.build(cards, names, flags, console, cores())


def _names(paths: Sequence[str]) -> list[str]:
    """The file names without suffix; the paths if two of them are equal."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else list(paths)
