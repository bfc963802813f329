"""biprop export: write a ticket for another runtime."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    export = _deck if arguments.file.endswith(DECK_SUFFIX) else _ticket
    exported, rows = export(arguments)
    if exported.difference is None:
        warn(["onnxruntime is not installed: the model was checked by onnx, and not run"])
    checked = _checked(exported.difference, rows["gives"].rpartition(" ")[2], arguments.file)
    Console(tolerant=True).table(
        f"{arguments.output} written", [*rows.items(), ("checked", checked)]
    )
    return 0


def _ticket(arguments: argparse.Namespace) -> tuple[Exported, dict[str, str]]:
    """Write a ticket; returns what is reported."""
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
    return exported, _rows(arguments, exported, [ticket], "logits")


def _deck(arguments: argparse.Namespace) -> tuple[Exported, dict[str, str]]:
    """Write a deck; returns what is reported."""
    from ..deck import Deck
    from ..deck.export import save_onnx

    if arguments.to != "onnx":
        raise UserError(f"--to {arguments.to}: a deck can be written as onnx only")
    if arguments.normalised:
        raise UserError("--normalised: the cards of a deck normalise images; leave the flag out")
    deck = Deck.load(arguments.file)
    exported = save_onnx(deck, arguments.output, arguments.gating or "batch")
    return exported, _rows(arguments, exported, deck.cards, "probabilities")


def _rows(
    arguments: argparse.Namespace, exported: Exported, tickets: Sequence[Ticket], output: str
) -> dict[str, str]:
    """Sizes, input and output."""
    numbers = sum(
        ticket.weights + sum(value.size for value in ticket.state.values()) for ticket in tickets
    )
    size = Path(arguments.file).stat().st_size
    beside = f"{arguments.file}: {size:,}; all numbers in float32: {4 * numbers:,}"
    first = tickets[0]
    return {
        "bytes": f"{exported.size:,}  ({beside})",
        "takes": f"{_sizes(first.input_shape)}: {exported.input}",
        "gives": f"{_sizes(first.output_shape)}: {output}",
    }


def _sizes(shape: tuple[int, ...] | None) -> str:
    return " x ".join(("batch", *map(str, shape or ())))


def _checked(difference: float | None, output: str, file: str) -> str:
    if difference is None:
        return "by onnx, not run"
    same = f"its {output} of 3 random images are those of {file}"
    return f"{same}, to {difference:.1e} of their spread" if difference else same
