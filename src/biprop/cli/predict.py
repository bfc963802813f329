"""biprop predict: classes of images."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import screen
from ..errors import UserError
from ..screen import printable
from .common import MOST_CALIBRATION, engine_of, memory_for_batches, positive, warn, with_warnings
from .parser import DEBUG, DECK_ENDING, TICKET_ENDING, add_command

if TYPE_CHECKING:
    from ..engine import Engine
    from ..ticket import Ticket


_Made = TypeVar("_Made")
Answer = Callable[[Any], Any]
PATIENCE = 2.0
"""Seconds before there is a progress bar."""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands, "predict", run, help="which classes pictures show", usage="biprop predict FILE PICTURE-OR-FOLDER ... [options]",
        description="The likeliest classes of pictures, by a ticket or a deck and without PyTorch. Pictures of another size\n"
        "than the network's are scaled as its data were. A picture that cannot be read is reported on standard error\n"
        "(with --json also as an object with \"error\"); the others are classified, and the exit code is 2.")  # fmt: skip
    parser.add_argument(
        "file", metavar="FILE", help=f"ticket ({TICKET_ENDING}) or deck ({DECK_ENDING})"
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="files, or folders, whose pictures are taken in order",
    )
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes to show [3]")
    parser.add_argument(
        "--json",
        action="store_true",
        help="a JSON object a picture, with all probabilities, a line each",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="processors to use [all, at most one a picture and 8]",
    )
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="pictures of the kind to come, some dozens: activations become 8-bit numbers, faster",
    )
    parser.add_argument(
        "--gating", choices=("image", "batch", "none"), default="image",
        help="cards of a deck count by the spectrum of each picture, of all in a batch together, or all alike [image]",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, default=64, metavar="N", help="pictures in memory at a time [64]"
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    from .. import images
    from ..console import Console
    from ..engine import cores

    batch, top = positive(arguments.batch, "--batch"), positive(arguments.top, "--top")
    paths = images.find(arguments.pictures)
    threads = arguments.threads if arguments.threads is not None else min(cores(), len(paths), 8)
    engine, answer = (
        _of_deck(arguments, threads)
        if arguments.file.endswith(DECK_ENDING)
        else _of_ticket(arguments, threads)
    )
    if engine.shape[0] not in (1, 3):
        raise UserError(
            f"{arguments.file}: takes {engine.shape[0]} channels: pictures have one (grey) or three"
            " (RGB)"
        )
    names, cut = _class_names(engine.ticket, engine.outputs), _is_cut(engine.ticket)
    show = _Json(names) if arguments.json else _Rows(names, paths, min(top, engine.outputs))
    console, display = Console(), Console(sys.stderr)
    if console.is_terminal:
        display = console  # one display: lines go above its bar
    started, failed = time.monotonic(), 0
    with ExitStack() as stack, memory_for_batches():
        bar = None
        for first in range(0, len(paths), batch):
            chosen = paths[first : first + batch]
            answers = _answers(chosen, lambda path: images.read(path, engine.shape, cut), answer)
            lines = show.head() if not first else []
            for path, found in zip(chosen, answers, strict=True):
                if isinstance(found, UserError):
                    if len(paths) == 1 and not arguments.json:
                        raise found
                    failed += 1
                    screen.tell(str(found))
                    lines += show.failed(path, found)
                else:
                    lines.append(show.row(path, found))
            if lines:
                console.line(*lines)
            if bar is None and time.monotonic() - started > PATIENCE and first + batch < len(paths):
                bar = stack.enter_context(display.bar("pictures", len(paths)))
                bar.advance(first)
            if bar:
                bar.advance(len(chosen))
    if failed:
        raise UserError(
            f"{failed:,} of {len(paths):,} pictures failed (see above); the others were classified"
        )
    return 0


def _answers(paths: Sequence[Path], read: Callable[[Path], Any], answer: Answer) -> list[Any]:
    """For each picture its probabilities [classes], or the mistake that it is: one damaged picture
    does not end all others.
    """
    import numpy as np

    found: list[Any] = []
    for path in paths:
        try:
            found.append(read(path))
        except UserError as e:
            found.append(e)
    places = [place for place, one in enumerate(found) if not isinstance(one, UserError)]
    if places:
        with np.errstate(invalid="ignore"):
            probabilities = answer(np.stack([found[place] for place in places]))
        for place, row in zip(places, probabilities, strict=True):
            is_number = bool(np.isfinite(row).all())
            found[place] = (
                row
                if is_number
                else UserError(f"{paths[place]}: the network's results are not finite")
            )
    return found


def _of_ticket(arguments: argparse.Namespace, threads: int) -> tuple[Engine, Answer]:
    """The engine, and what gives probabilities [B, classes] of pixels."""
    import numpy as np

    from .. import images
    from ..deck import softmax

    engine, said = engine_of(arguments.file, threads)
    warn(said)
    if arguments.calibration is not None:
        known = images.find([arguments.calibration])[:MOST_CALIBRATION]
        cut = _is_cut(engine.ticket)
        engine, _ = engine_of(
            engine.ticket,
            threads,
            calibration=np.stack([images.read(path, engine.shape, cut) for path in known]),
        )
    return engine, lambda pixels: softmax(engine.run(pixels).astype(np.float64))


def _of_deck(arguments: argparse.Namespace, threads: int) -> tuple[Engine, Answer]:
    """The engine of the first card, which takes what all take, and what gives the deck's
    probabilities.
    """
    from ..deck import Deck

    if arguments.calibration is not None:
        raise UserError(f"--calibration: is for tickets, and {arguments.file} is a deck")
    deck = Deck.load(arguments.file)
    (first, *_), said = with_warnings(lambda: deck.engines(threads))
    warn(said)
    return first, lambda pixels: deck.predict(pixels, arguments.gating, threads=threads)


def _class_names(ticket: Ticket, outputs: int) -> list[str]:
    """One for each output: the ticket's, with the number where two classes have one name, or else
    the number.
    """
    told = [*ticket.classes[:outputs], *map(str, range(len(ticket.classes), outputs))]
    count = Counter(told)
    return [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(told)]


def _is_cut(ticket: Ticket) -> bool:
    """Whether the pictures of its data were cut, as those are that are streamed, or scaled whole."""
    told = ticket.found.get("options")
    return isinstance(told, dict) and (told.get("set") == "ImageNet" or told.get("stream") is True)


class _Rows:
    """A line a picture, written at once: there may be many."""

    def __init__(self, names: Sequence[str], paths: Sequence[Path], top: int) -> None:
        self.names, self.top = [printable(name) for name in names], top
        self.width = max(4, *(len(printable(str(path))) for path in paths))
        self.name_width = max(5, *map(len, self.names))

    def head(self) -> list[str]:
        places = ["class", *("next" for _ in range(self.top - 1))]
        return [
            "  ".join(
                [
                    f"{'file':<{self.width}}",
                    *(f"{place:<{self.name_width}}         " for place in places),
                ]
            ).rstrip()
        ]

    def failed(self, path: Path, error: UserError) -> list[str]:
        """The lines of a picture without an answer: none, as standard error has it."""
        return []

    def row(self, path: Path, probabilities: Any) -> str:
        best = (-probabilities).argsort(kind="stable")[: self.top]
        cells = [
            f"{self.names[i]:<{self.name_width}}  {100 * probabilities[i]:5.1f} %" for i in best
        ]
        return "  ".join([f"{printable(str(path)):<{self.width}}", *cells])


class _Json:
    """An object a line."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def head(self) -> list[str]:
        return []

    def failed(self, path: Path, error: UserError) -> list[str]:
        """The lines of a picture without an answer: an object with the reason."""
        return [json.dumps({"file": str(path), "error": str(error)})]

    def row(self, path: Path, probabilities: Any) -> str:
        best = int(probabilities.argmax())
        values = dict(zip(self.names, probabilities.tolist(), strict=True))
        content = {
            "file": str(path),
            "class": self.names[best],
            "index": best,
            "probability": float(probabilities[best]),
        }
        return json.dumps({**content, "probabilities": values}, allow_nan=False)
