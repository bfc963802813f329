"""biprop pull: download a ticket from the Hugging Face Hub."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import TicketError, UserError
from ..files import atomic_write
from . import next_step
from .parser import DEBUG, TICKET_SUFFIX, add_command, check_folder, check_suffix

if TYPE_CHECKING:
    from ..ticket import Ticket

_DESCRIPTION = """\
Download a ticket from the Hugging Face Hub, check that it is one and that no byte has changed, and
write it. The revision and the checksum that are printed pin it: with them, the same command gives
the same bytes for ever, or an error. Needs huggingface_hub: pip install 'biprop[hub]'."""
_EPILOG = """\
examples:
  biprop pull USER/digits                     writes digits.mpt
  biprop pull USER/tickets/cifar10.mpt -o cifar10.mpt
  biprop pull USER/digits --revision COMMIT --sha256 CHECKSUM"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "pull",
        run,
        help="download a ticket from the Hugging Face Hub",
        usage="biprop pull USER/REPO[/FILE.mpt] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "repo",
        metavar="USER/REPO",
        help="repository on the Hub; where it has several tickets, with the file:"
        " USER/REPO/FILE.mpt",
    )
    parser.add_argument(
        "-o", "--output", metavar="NAME.mpt", help="ticket to write [REPO.mpt in this folder]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace NAME.mpt if it exists")
    parser.add_argument(
        "--revision", metavar="NAME", help="commit, tag or branch [the newest commit]"
    )
    parser.add_argument("--sha256", metavar="S", help="checksum that the file must have")
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Download, check, write and report; returns the exit code."""
    address = hub.parse_address(arguments.repo)
    if arguments.revision:
        if address.revision:
            raise UserError(f"--revision {arguments.revision}: {arguments.repo} names one already")
        address = dataclasses.replace(address, revision=arguments.revision)
    if arguments.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", arguments.sha256):
        raise UserError(f"--sha256 {arguments.sha256}: must be 64 hexadecimal digits")
    output = arguments.output or f"{address.repo.partition('/')[2]}{TICKET_SUFFIX}"
    check_suffix(output, TICKET_SUFFIX, "ticket")
    check_folder(output)
    if Path(output).exists() and not arguments.overwrite:
        raise UserError(f"{output}: exists: pass --overwrite to replace it, or another -o NAME.mpt")
    location = hub.find(address)
    content = hub.download(location, arguments.sha256)
    ticket = _checked(content, location)
    _write(Path(output), content)
    _report(output, ticket, location, content)
    return 0


def _checked(content: bytes, location: hub.Location) -> Ticket:
    """The ticket of a file's content.

    Raises:
        TicketError: it is none.
    """
    from ..ticket import Ticket

    try:
        return Ticket.from_bytes(content)
    except TicketError as e:
        raise TicketError(f"{location.repo}: {location.file}: {e}; nothing is written") from None


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None


def _report(output: str, ticket: Ticket, location: hub.Location, content: bytes) -> None:
    from ..console import Console

    digest = hashlib.sha256(content).hexdigest()
    console = Console(tolerant=True)
    rows = [
        ("weights kept", f"{ticket.kept:,} of {ticket.weights:,}"),
        ("bytes", f"{len(content):,}"),
        ("revision", location.commit),
        ("SHA-256", digest),
        ("checked", "it is a ticket, and its checksums are right"),
        ("same bytes again", next_step.pinned_pull(location.address, digest)),
    ]
    console.table(f"{output} written", rows)
    console.line("", *next_step.after_pull(output))
