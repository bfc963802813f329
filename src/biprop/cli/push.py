"""biprop push: publish a ticket on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub, screen
from . import next_step
from .common import warn
from .parser import DEBUG, TICKET_SUFFIX, add_command, check_suffix

if TYPE_CHECKING:
    from ..report.model_card import Publication
    from ..ticket import Ticket

_DESCRIPTION = """\
Publish a ticket on the Hugging Face Hub, with a model card (README.md) that is written from the
ticket: data, configuration, accuracy, bytes, how to run it with and without PyTorch, and the papers
to cite. A repository that does not exist is made. Log in before: hf auth login, or set HF_TOKEN.
Needs huggingface_hub: pip install 'biprop[hub]'."""
_EPILOG = """\
examples:
  biprop push digits.mpt USER/digits --dry-run
  biprop push digits.mpt USER/digits --license apache-2.0 --run runs/digits/prune-rate=0.2/find
  biprop push v2/digits.mpt USER/digits      a new version: the old one stays, by its commit"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "push",
        run,
        help="publish a ticket on the Hugging Face Hub, with a model card",
        usage="biprop push NAME.mpt USER/REPO [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="NAME.mpt", help="ticket to publish")
    parser.add_argument("repo", metavar="USER/REPO", help="repository on the Hub")
    parser.add_argument(
        "--dry-run",
        "--card-only",
        action="store_true",
        help="print the model card, and exit; nothing is sent",
    )
    parser.add_argument(
        "--run",
        dest="run_folder",
        metavar="RUN",
        help="folder of the ticket's search: its results are added to the model card",
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="licence of the ticket, as the Hub calls it: apache-2.0, mit, cc-by-4.0 [none stated]",
    )
    parser.add_argument(
        "--private", action="store_true", help="if the repository is made: only you can see it"
    )
    parser.add_argument(
        "--replace-card",
        action="store_true",
        help="replace the README.md there even if biprop push did not write it",
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Publish and report; returns the exit code."""
    from ..report import model_card
    from ..ticket import Ticket

    check_suffix(arguments.file, TICKET_SUFFIX, "ticket")
    path = Path(arguments.file)
    hub.check_file_name(path.name)
    address = hub.Address(hub.parse_repository(arguments.repo), file=path.name)
    model_card.check_licence(arguments.license)
    ticket = Ticket.load(path)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    publication = model_card.Publication(address, len(content), digest, arguments.license)
    card = _card(arguments, publication)
    if arguments.dry_run:
        screen.print_text(card)
        return 0
    commit = hub.upload(
        address.repo,
        {path.name: content, "README.md": card.encode()},
        f"{path.name}: {ticket.kept:,} of {ticket.weights:,} weights kept",
        arguments.private,
        lambda there: arguments.replace_card or model_card.is_ours(there),
    )
    _report(hub.Location(address.repo, commit, path.name, digest))
    return 0


def _card(arguments: argparse.Namespace, publication: Publication) -> str:
    from ..report import entries, model_card

    (entry,) = entries.read([arguments.file], _pack, lambda paths, what, count: paths)
    of_search = None
    if arguments.run_folder:
        assert entry.ticket
        of_search = model_card.read_run(Path(arguments.run_folder), entry.ticket, _pack)
    return model_card.model_card(entry, publication, of_search)


def _pack(checkpoint: Path) -> Ticket:
    from ..search.pack import pack

    return pack(checkpoint, {}, warn=warn)


def _report(location: hub.Location) -> None:
    from ..console import Console

    console = Console(tolerant=True)
    rows = [
        ("revision", location.commit),
        ("SHA-256", str(location.sha256)),
        ("in Python", f'biprop.Ticket.load("{location.address}")'),
    ]
    console.table(f"{location.file} published in {location.repo}", rows)
    console.line("", *next_step.after_push(location.address, str(location.sha256)))
