"""biprop export: write a ticket for another runtime."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import UserError
from .common import warn
from .parser import DEBUG, DECK_SUFFIX, add_command, check_folder, check_suffix

if TYPE_CHECKING:
    from ..export import Exported
    from ..ticket import Ticket

FORMATS = ("onnx", "pt2")
"""Names of --to; the suffix of the file is the same."""

_DESCRIPTION = """\
Write the network of a ticket for another runtime, after comparing the logits of both.

  onnx   an ONNX model (operators of version 17) that holds five masked weights a byte, and unpacks
         them when it is loaded; it needs the package onnx (pip install 'biprop[onnx]'), and
         onnxruntime for the comparison
  pt2    a program of torch.export, with weights in float32

The exported network takes a batch of any size, as float32 [batch, channels, height, width]. Where
the ticket has a normalisation, it takes pixels in 0 .. 1 and normalises them itself. A deck is
written as one ONNX model, from pixels to probabilities, with its cards and its gate."""
_EPILOG = """\
examples:
  biprop export digits.mpt --to onnx -o digits.onnx
  biprop export digits.mpt --to onnx --normalised -o digits.onnx
  biprop export digits.mpt --to pt2 -o digits.pt2
  biprop export two.deck --to onnx --gating image -o two.onnx"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "export",
        run,
        help="write a ticket as an ONNX model or a program of torch.export",
        usage="biprop export NAME.mpt --to onnx -o NAME.onnx",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="NAME.mpt", help="ticket, or NAME.deck")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of the file")
    parser.add_argument(
        "-o", "--output", required=True, metavar="NAME.onnx", help="file to write; of pt2, NAME.pt2"
    )
    parser.add_argument(
        "--normalised",
        action="store_true",
        help="leave the normalisation out: the exported network takes normalised images",
    )
    parser.add_argument(
        "--gating",
        choices=("batch", "image", "none"),
        help="of a deck: the images of a batch are of one kind, as from one camera on one day (the"
        " default); each image has its own; or all cards count alike",
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and report; returns the exit code."""
    from ..console import Console

    check_suffix(arguments.output, f".{arguments.to}", f"file of --to {arguments.to}")
    check_folder(arguments.output)
    kind, export = ("deck", _deck) if _is_deck(arguments.file) else ("ticket", _ticket)
    exported, tickets = export(arguments)
    if exported.difference is None:
        warn(["onnxruntime is not installed: the model was checked by onnx, and not run"])
    output = "probabilities" if kind == "deck" else "logits"
    numbers = sum(ticket.weights for ticket in tickets)
    numbers += sum(value.size for ticket in tickets for value in ticket.state.values())
    size = hub.local(arguments.file).stat().st_size
    beside = f"the {kind}: {size:,}; all numbers in float32: {4 * numbers:,}"
    rows = [
        ("bytes", f"{exported.size:,}  ({beside})"),
        ("takes", f"{_sizes(tickets[0].input_shape)}: {exported.input}"),
        ("gives", f"{_sizes(tickets[0].output_shape)}: {output}"),
        ("checked", _checked(exported.difference, output, kind)),
    ]
    Console(tolerant=True).table(f"{arguments.output} written", rows)
    return 0


def _is_deck(file: str) -> bool:
    return file.endswith(DECK_SUFFIX)


def _ticket(arguments: argparse.Namespace) -> tuple[Exported, list[Ticket]]:
    """Write a ticket, and return it too."""
    from ..export import save_onnx, save_pt2
    from ..ticket import Ticket, TicketError

    if arguments.gating:
        raise UserError(f"--gating {arguments.gating}: {arguments.file} is no deck; leave it out")
    ticket = Ticket.load(arguments.file)
    if arguments.normalised and not ticket.mean:
        raise UserError("--normalised: the ticket has no normalisation; leave the flag out")
    save = save_onnx if arguments.to == "onnx" else save_pt2
    try:
        exported = save(ticket, arguments.output, False if arguments.normalised else None)
    except TicketError as e:
        raise TicketError(f"{arguments.file}: {e}") from None
    return exported, [ticket]


def _deck(arguments: argparse.Namespace) -> tuple[Exported, list[Ticket]]:
    """Write a deck, and return its cards too."""
    from ..deck import Deck
    from ..deck.export import save_onnx

    if arguments.to != "onnx":
        raise UserError(f"--to {arguments.to}: a deck can be written as onnx only")
    if arguments.normalised:
        raise UserError("--normalised: the cards of a deck normalise images; leave the flag out")
    deck = Deck.load(arguments.file)
    exported = save_onnx(deck, arguments.output, arguments.gating or "batch")
    return exported, deck.cards


def _sizes(shape: tuple[int, ...] | None) -> str:
    return " x ".join(("batch", *map(str, shape or ())))


def _checked(difference: float | None, output: str, kind: str) -> str:
    if difference is None:
        return "by onnx, not run"
    same = f"its {output} of 3 random images are the {kind}'s"
    return f"{same}, to {difference:.1e} of their spread" if difference else same
