"""biprop report: runs, sweeps, tickets and decks as one HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DATA_SOURCE_OPTIONS
from ..errors import UserError
from ..files import write_text_atomically
from .common import warn
from .parser import (
    DEBUG,
    DECK_SUFFIX,
    TICKET_SUFFIX,
    add_command,
    add_options,
    check_folder,
    check_suffix,
    coerced,
    overrides,
)

if TYPE_CHECKING:
    from ..report.entries import Entry
    from ..ticket import Ticket

PAGE_SUFFIX = ".html"

_DESCRIPTION = """\
Write a page with curves, layers, bytes, filters, mistakes and configurations of runs, sweeps,
tickets and decks. It is one file: it loads nothing from the network and runs no script. Several
runs are drawn into the same charts; of those that differ only in the seed, mean and spread are
shown. A measurement of biprop robustness that lies beside a ticket, a deck or in a run folder is
shown as a heat map. Mistakes need the images: the digits are built in, for others pass --data."""

_EPILOG = """\
examples:
  biprop report runs/digits/prune-rate=0.2/find -o report.html
  biprop report runs/sweeps/sweep -o sweep.html
  biprop report digits.mpt cifar10-small.mpt --data DIR -o tickets.html"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "report",
        run,
        help="write a page with the results of runs, sweeps, tickets and decks",
        usage=f"biprop report PATH ... -o NAME{PAGE_SUFFIX} [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help=f"run folder, folder of a sweep (LOG_DIR/sweeps/NAME), ticket ({TICKET_SUFFIX}) or"
        f" deck ({DECK_SUFFIX})",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar=f"NAME{PAGE_SUFFIX}", help="page to write"
    )
    parser.add_argument("--title", help="title of the page")
    parser.add_argument(
        "--robustness",
        nargs="+",
        default=[],
        metavar="FILE.json",
        help="measurements of biprop robustness that lie elsewhere",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="test images to classify, the same share per class [all]",
    )
    add_options(parser, (*DATA_SOURCE_OPTIONS, "device", "arch", "arch_args"))
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Read everything, write the page and report; returns the exit code."""
    flags = coerced(overrides(arguments))
    output = Path(arguments.output)
    check_suffix(arguments.output, PAGE_SUFFIX, "page")
    check_folder(output)
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images {arguments.images}: must be 1 or more")
    from ..console import Console
    from ..report import entries, measurements, page
    from ..report.predictions import Predictor, add_predictions

    console = Console(tolerant=True)
    measured = [measurements.read(Path(path)) for path in arguments.robustness]
    network: dict[str, Any] = {name: flags[name] for name in ("arch", "arch_args") if name in flags}
    read = entries.read(arguments.paths, partial(_pack, network), console.track)
    shown = page.detailed(read)
    predictions = add_predictions(shown, Predictor(flags, arguments.images, console))
    title = arguments.title or _title(read)
    _write(output, page.page(title, read, shown, predictions, measured))
    console.line(f"{output} written  ({output.stat().st_size:,} bytes)")
    return 0


def _pack(network: Mapping[str, Any], checkpoint: Path) -> Ticket:
    from ..search.pack import pack

    return pack(checkpoint, network, warn=warn)


def _title(entries: Sequence[Entry]) -> str:
    first = entries[0].name
    return first if len(entries) == 1 else f"{first} and {len(entries) - 1} more"


def _write(output: Path, text: str) -> None:
    try:
        write_text_atomically(output, text)
    except OSError as e:
        raise UserError(f"--output {output}: cannot be written: {e.strerror}") from None
