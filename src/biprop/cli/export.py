"""biprop export: write a ticket for another runtime."""

from __future__ import annotations

import argparse
from typing import Any

from .. import hub
from ..errors import UserError
from .common import warn
from .parser import DEBUG, add_command, check_folder, check_suffix

FORMATS = ("onnx", "pt2")
"""Names of --to; the suffix of the file is the same."""

_DESCRIPTION = """\
Write the network of a ticket for another runtime, after comparing the logits of both.

  onnx   an ONNX model (operators of version 17) that holds five masked weights a byte, and unpacks
         them when it is loaded; it needs the package onnx (pip install 'biprop[onnx]'), and
         onnxruntime for the comparison
  pt2    a program of torch.export, with weights in float32

The exported network takes a batch of any size, as float32 [batch, channels, height, width]. Where
the ticket has a normalisation, it takes pixels in 0 .. 1 and normalises them itself."""
_EPILOG = """\
examples:
  biprop export digits.mpt --to onnx -o digits.onnx
  biprop export digits.mpt --to onnx --normalised -o digits.onnx
  biprop export digits.mpt --to pt2 -o digits.pt2"""


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
    parser.add_argument("file", metavar="NAME.mpt", help="ticket")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of the file")
    parser.add_argument(
        "-o", "--output", required=True, metavar="NAME.onnx", help="file to write; of pt2, NAME.pt2"
    )
    parser.add_argument(
        "--normalised",
        action="store_true",
        help="leave the normalisation out: the exported network takes normalised images",
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and report; returns the exit code."""
    from ..console import Console
    from ..export import save_onnx, save_pt2
    from ..ticket import Ticket, TicketError

    check_suffix(arguments.output, f".{arguments.to}", f"file of --to {arguments.to}")
    check_folder(arguments.output)
    ticket = Ticket.load(arguments.file)
    if arguments.normalised and not ticket.mean:
        raise UserError("--normalised: the ticket has no normalisation; leave the flag out")
    save = save_onnx if arguments.to == "onnx" else save_pt2
    on_pixels = False if arguments.normalised else None
    try:
        exported = save(ticket, arguments.output, on_pixels)
    except TicketError as e:
        raise TicketError(f"{arguments.file}: {e}") from None
    if exported.difference is None:
        warn(["onnxruntime is not installed: the model was checked by onnx, and not run"])
    numbers = ticket.weights + sum(value.size for value in ticket.state.values())
    rows = [
        ("bytes", _bytes(exported.size, hub.local(arguments.file).stat().st_size, 4 * numbers)),
        ("takes", f"{_sizes(ticket.input_shape)}: {exported.input}"),
        ("gives", f"{_sizes(ticket.output_shape)}: logits"),
        ("checked", _checked(exported.difference)),
    ]
    Console(tolerant=True).table(f"{arguments.output} written", rows)
    return 0


def _bytes(size: int, ticket: int, dense: int) -> str:
    return f"{size:,}  (the ticket: {ticket:,}; all numbers in float32: {dense:,})"


def _sizes(shape: tuple[int, ...] | None) -> str:
    return " x ".join(("batch", *map(str, shape or ())))


def _checked(difference: float | None) -> str:
    if difference is None:
        return "by onnx, not run"
    return (
        f"its logits of 3 random images are the ticket's, to {difference:.1e} of their spread"
        if difference
        else "its logits of 3 random images are the ticket's"
    )
