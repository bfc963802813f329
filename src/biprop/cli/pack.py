"""biprop pack: write the ticket of a search."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import next_step
from .common import warn
from .parser import (
    DATA_AND_NETWORK,
    DEBUG,
    TICKET_SUFFIX,
    add_command,
    add_options,
    check_folder,
    check_suffix,
    coerced,
    overrides,
)

if TYPE_CHECKING:
    from ..console import Console
    from ..evaluation.counts import Counts
    from ..ticket import Ticket

_DESCRIPTION = """\
Write the result of a search as a ticket: a seed, coded masks, one gain per layer, and batch
norm. Before the file is written, every weight is rebuilt from it and compared with the
network's. Of a run folder, the best checkpoint is packed. The options of the network are for
checkpoints that do not record them, such as the oldest of the original research code; those of
the data are for --compact."""
_EPILOG = """\
examples:
  biprop pack runs/digits/prune-rate=0.2/find -o digits.mpt
  biprop pack runs/digits/prune-rate=0.2/find -o digits.mpt --compact
  biprop pack conv4/checkpoints/model_best.pth -o conv4.mpt"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "pack",
        run,
        help="write the result of a search to a ticket, in about one bit per weight or less",
        usage="biprop pack RUN -o NAME.mpt [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "source",
        metavar="RUN",
        help="run folder, or checkpoint of biprop or of the original research code",
    )
    parser.add_argument("-o", "--output", required=True, metavar="NAME.mpt", help="ticket to write")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="store batch norm and dense layers in 16 bits per number instead of 32, batch norm as"
        " scale and shift, and measure the accuracy on the test set before and after (pass --data)",
    )
    add_options(parser, DATA_AND_NETWORK)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Pack, write and report; returns the exit code."""
    flags = coerced(overrides(arguments))
    from ..console import Console
    from ..search import pack

    check_suffix(arguments.output, TICKET_SUFFIX, "ticket")
    check_folder(arguments.output)
    console = Console(tolerant=True)
    ticket = pack.pack(arguments.source, flags, arguments.compact, warn)
    compact_rows = []
    if arguments.compact:
        exact = dataclasses.replace(ticket, compact=False)
        before, after = _accuracies(arguments.output, exact, ticket, flags, console)
        ticket.found["test"] = dataclasses.asdict(after)
        compact_rows = _compact_rows(exact, before, after)
    size = ticket.save(arguments.output)
    console.table(f"{arguments.output} written", [*_rows(ticket, size), *compact_rows])
    console.line("", *next_step.after_pack(arguments.output, ticket.found, flags))
    return 0


def _accuracies(
    name: str, exact: Ticket, compact: Ticket, flags: Mapping[str, Any], console: Console
) -> tuple[Counts, Counts]:
    """Counts on the test set with 32 and with 16 bits per number.

    They are always measured: whoever gives up precision should see what it costs.
    """
    from ..evaluation.subject import load_data, measure, of_ticket
    from ..ticket import Ticket

    rounded = Ticket.from_bytes(compact.to_bytes())
    before, after = (of_ticket(name, flags, ticket) for ticket in (exact, rounded))
    images = load_data(before, console)
    device = flags.get("device", "auto")
    counts_before, counts_after = (
        measure(subject, images, images.test, device, console, "test accuracy")
        for subject in (before, after)
    )
    return counts_before, counts_after


def _rows(ticket: Ticket, size: int) -> list[tuple[str, str]]:
    share = f"{100 * ticket.kept / ticket.weights:.2f} %"
    bits = f"{8 * size / ticket.weights:.3f} bits per weight"
    return [
        ("weights kept", f"{ticket.kept:,} of {ticket.weights:,}  ({share})"),
        ("bytes", f"{size:,}  ({bits}, all told; biprop inspect shows where they go)"),
        ("checked", "every weight, rebuilt from the file, equals the network's"),
    ]


def _compact_rows(exact: Ticket, before: Counts, after: Counts) -> list[tuple[str, str]]:
    difference = f"in float32 {before.top1:.2f} %: {after.top1 - before.top1:+.2f}"
    return [
        ("in float32", f"{len(exact.to_bytes()):,} bytes"),
        ("test accuracy", f"{after.top1:.2f} %  ({difference})"),
    ]
