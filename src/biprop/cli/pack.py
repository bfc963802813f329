"""biprop pack: a run becomes a ticket."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..errors import UserError
from .common import warn
from .parser import (
    DEBUG,
    OF_A_FILE,
    TICKET_ENDING,
    add_command,
    add_options,
    check_folder,
    coerced,
    overrides,
)


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "pack",
        run,
        help="write the ticket file of a search: under one bit per weight",
        usage="biprop pack RUN -o NAME.mpt [options]",
        description=(
            "Write what a search found as a ticket: a seed, coded masks, one gain a layer, and"
            " batch norm. Before it is\nwritten, every weight is rebuilt from it and compared."
        ),
    )
    parser.add_argument(
        "source",
        metavar="RUN",
        help="run folder, or checkpoint of this program or of the original research code",
    )
    parser.add_argument("-o", "--output", required=True, metavar="NAME.mpt", help="the ticket")
    parser.add_argument(
        "--compact", action="store_true",
        help="batch norm and dense layers in 16 bits a number instead of 32; measures what that changes on the test set",
    )  # fmt: skip
    add_options(parser, OF_A_FILE)
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    flags = coerced(overrides(arguments))
    from ..console import Console
    from ..evaluation.subject import load_data, measure, of_ticket
    from ..search import pack
    from ..ticket import Ticket

    if not arguments.output.endswith(TICKET_ENDING):
        raise UserError(
            f"--output {arguments.output}: the name of a ticket ends with {TICKET_ENDING}"
        )
    check_folder(arguments.output)
    console = Console(lasting=True)
    ticket = pack.pack(arguments.source, flags, arguments.compact, warn)
    if arguments.compact:
        # What 16 bits cost is told, always: a user who gives up precision wants to know what for.
        exact = dataclasses.replace(ticket, compact=False)
        subjects = [
            of_ticket(arguments.output, flags, one)
            for one in (exact, Ticket.from_bytes(ticket.to_bytes()))
        ]
        images = load_data(subjects[0], console)
        before, after = (
            measure(
                subject, images, images.test, flags.get("device", "auto"), console, "test accuracy"
            )
            for subject in subjects
        )
        ticket.found["test"] = dataclasses.asdict(after)
    size = ticket.save(arguments.output)
    rows = [
        (
            "weights kept",
            f"{ticket.kept:,} of {ticket.weights:,}  ({100 * ticket.kept / ticket.weights:.2f} %)",
        ),
        (
            "bytes",
            (
                f"{size:,}  ({8 * size / ticket.weights:.3f} bits per weight, all told; biprop"
                " inspect shows where they go)"
            ),
        ),
        ("checked", "every weight, rebuilt from the file, equals the network's"),
    ]
    if arguments.compact:
        rows.append(("in float32", f"{len(exact.to_bytes()):,} bytes"))
        rows.append(
            (
                "test accuracy",
                (
                    f"{after.top1:.2f} %  (in float32 {before.top1:.2f} %:"
                    f" {after.top1 - before.top1:+.2f})"
                ),
            )
        )
    console.table(f"{arguments.output} written", rows)
    return 0
