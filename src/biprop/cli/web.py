"""biprop web: a ticket as a page that runs it in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TicketError, UserError
from ..files import write_text_atomically
from .common import load_engine
from .parser import (
    DEBUG,
    DECK_SUFFIX,
    TICKET_SUFFIX,
    add_command,
    check_folder,
    check_suffix,
)
from .predict import check_input, class_names, is_cropped
from .report import PAGE_SUFFIX

if TYPE_CHECKING:
    from ..engine import Engine
    from ..ticket import Ticket
    from ..web.page import Classifier

_DESCRIPTION = """\
Write a page that classifies images in a browser. It is one file, with the ticket's network and
the engine compiled to WebAssembly: it needs no server, and works offline. Drop an image on it,
choose a file, or draw, if the network takes grey images. Images are scaled and cropped as biprop
predict does it. A page runs one ticket; decks are refused."""
_EPILOG = f"""\
examples:
  biprop web digits.mpt -o digits{PAGE_SUFFIX}
  biprop web flowers.mpt -o flowers{PAGE_SUFFIX} --title "Which flower is it?\""""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "web",
        run,
        help="write a page that runs a ticket in a browser",
        usage=f"biprop web NAME.mpt -o NAME{PAGE_SUFFIX} [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="NAME.mpt", help="ticket")
    parser.add_argument(
        "-o", "--output", required=True, metavar=f"NAME{PAGE_SUFFIX}", help="page to write"
    )
    parser.add_argument("--title", help="title of the page [the name of the ticket]")
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and report; returns the exit code."""
    output = Path(arguments.output)
    check_suffix(arguments.output, PAGE_SUFFIX, "page")
    check_folder(output)
    if arguments.file.endswith(DECK_SUFFIX):
        raise UserError(
            f"{arguments.file}: is a deck, and a page runs one ticket ({TICKET_SUFFIX}): pass one"
            " of those that the deck was built from"
        )
    from ..console import Console
    from ..web.modules import modules
    from ..web.page import page

    engines = modules()
    classifier = _classifier(arguments.file, arguments.title)
    text = page(classifier, engines)
    try:
        write_text_atomically(output, text)
    except OSError as e:
        raise UserError(f"--output {output}: cannot be written: {e.strerror}") from None
    ways = "an image or a drawing" if classifier.channels == 1 else "an image"
    rows = [
        ("bytes", f"{len(text):,}"),
        ("takes", ways),
        ("runs in", "browsers of 2023 and later"),
    ]
    Console(tolerant=True).table(f"{output} written", rows)
    return 0


def _classifier(file: str, title: str | None) -> Classifier:
    from .. import images
    from ..web.packing import split
    from ..web.page import Classifier

    engine, _ = load_engine(file, 1)
    check_input(file, engine)
    ticket = engine.ticket
    channels, height, width = engine.shape
    crops = is_cropped(ticket) and height == width
    return Classifier(
        title=title or Path(file).stem,
        program=split(_program(file, engine), ticket),
        channels=channels,
        classes=class_names(ticket, engine.outputs),
        crop_side=images.side_before_crop(height) if crops else 0,
        drawing=_drawn_like(ticket),
        facts=_facts(file, ticket),
    )


def _program(file: str, engine: Engine) -> bytes:
    """The program of the engine's ticket.

    Raises:
        UserError: the compiled engine cannot run it; in the page there is no numpy to fall back to.
    """
    from .. import native
    from ..engine.lower import lower

    try:
        program = lower(engine.ticket)
    except TicketError as e:
        raise UserError(f"{file}: cannot run in a page: {e}") from None
    if native.library() and not engine.compiled:
        reason = engine.fallback.partition(": numpy")[0]
        raise UserError(f"{file}: cannot run in a page: {reason}")
    return program


def _drawn_like(ticket: Ticket) -> str:
    """The data set of the search, if drawings can be made like its images; else ""."""
    options = ticket.found.get("options")
    name = options.get("set") if isinstance(options, dict) else None
    sizes = {"digits": (1, 32, 32), "MNIST": (1, 28, 28)}
    return name if isinstance(name, str) and sizes.get(name) == ticket.input_shape else ""


def _facts(file: str, ticket: Ticket) -> list[tuple[str, str]]:
    from ..ticket.report import right_and_images

    size = " x ".join(map(str, ticket.input_shape or ()))
    name = f"{ticket.network['name']}, " if ticket.network else ""
    rows = [
        ("network", f"{name}{size} images"),
        ("weights kept", f"{ticket.kept:,} of {ticket.weights:,}"),
        ("ticket", f"{Path(file).stat().st_size:,} bytes"),
    ]
    if counts := right_and_images(ticket.found, "test"):
        right, images = counts
        rows.append(("test accuracy", f"{100 * right / images:.2f} %, as recorded"))
    return rows
