"""biprop predict: classes of images."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import screen
from ..errors import UserError
from ..screen import as_displayed, padded, width
from .common import (
    MAX_CALIBRATION_IMAGES,
    check_count,
    engines_without_warnings,
    fallbacks,
    load_engine,
    memory_error_names_batch,
    warn,
)
from .parser import DEBUG, DECK_SUFFIX, TICKET_SUFFIX, add_command

if TYPE_CHECKING:
    from ..console import Bar, Console
    from ..deck.gate import Gating
    from ..engine import Engine
    from ..ticket import Ticket

Predict = Callable[[Any], Any]
"""Pixels [B, C, H, W] uint8 to probabilities [B, classes] float64."""
BAR_DELAY = 2.0
"""Seconds before a progress bar appears."""
MAX_THREADS = 8
"""Default limit of threads."""

_DESCRIPTION = """\
Print the most probable classes of images, computed by a ticket or a deck, without PyTorch.
Images are resized to the input size of the network as its training images were. An image that
cannot be read is reported on standard error, and with --json also as an object with the key
"error"; the other images are still classified, and the exit code is 2. Of a .npz file, the rows of
its array X_test, or else X, are classified; in the results, FILE.npz[0] is the first."""
_EPILOG = """\
examples:
  biprop predict digits.mpt photo.png images/
  biprop predict digits.mpt images/ --json > predictions.jsonl
  biprop predict table.mpt rows.npz"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "predict",
        run,
        help="classify images, without PyTorch",
        usage="biprop predict FILE IMAGE-OR-FOLDER ... [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "file", metavar="FILE", help=f"ticket ({TICKET_SUFFIX}) or deck ({DECK_SUFFIX})"
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files, or folders whose images are taken in sorted order; or .npz files",
    )
    parser.add_argument(
        "--top", type=int, default=3, metavar="K", help="classes to print per image [3]"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per image and line, with the probabilities of all classes",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=f"number of threads [one per core, at most {MAX_THREADS}, at most one per image]",
    )
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="quantise float activations to 8 bits, which is faster and slightly less accurate;"
        " their ranges are determined on the images in FOLDER, some dozens of"
        " typical ones, or on the rows of a .npz file",
    )
    parser.add_argument(
        "--gating",
        choices=("image", "batch", "none"),
        help="how a deck weights the predictions of its tickets: by the spectrum of each image, by"
        " the mean spectrum of each batch, or equally [image]",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=64,
        metavar="N",
        help="images that are read and classified at a time [64]",
    )
    parser.add_argument("--debug", **DEBUG)


@dataclass
class _Model:
    """What classifies the images.

    Attributes:
        engine: of the ticket, or of the first card of a deck; all take the same input.
        predict: pixels to probabilities.
    """

    engine: Engine
    predict: Predict


def run(arguments: argparse.Namespace) -> int:
    """Classify and print; returns the exit code.

    Raises:
        UserError: images could not be classified; the others have been printed.
    """
    from ..console import Console
    from ..engine import cores

    batch = check_count(arguments.batch, "--batch")
    top = check_count(arguments.top, "--top")
    paths = _items(arguments.images)
    threads = arguments.threads
    if threads is None:
        threads = min(cores(), len(paths), MAX_THREADS)
    is_deck = arguments.file.endswith(DECK_SUFFIX)
    if arguments.gating and not is_deck:
        raise UserError(f"--gating {arguments.gating}: {arguments.file} is no deck; leave it out")
    if is_deck and not isinstance(paths[0], Path):
        raise UserError(f"{arguments.file}: a deck takes image files, not rows of arrays")
    model = (_of_deck if is_deck else _of_ticket)(arguments, threads)
    if isinstance(paths[0], Path):
        check_input(arguments.file, model.engine)
    _check_rows(paths, model.engine)
    names = class_names(model.engine.ticket, model.engine.outputs)
    console = Console()
    if arguments.json:
        output: _Table | _Json = _Json(names)
    else:
        top = min(top, model.engine.outputs)
        output = _Table(names, paths, top, console.columns_of_terminal)
    with memory_error_names_batch():
        failures = _print_predictions(model, paths, batch, output, console)
    if failures:
        noun = "images" if isinstance(paths[0], Path) else "rows"
        others = "; the others were classified" if failures < len(paths) else ""
        raise UserError(f"{failures:,} of {len(paths):,} {noun} failed (see above){others}")
    return 0


@dataclass(frozen=True)
class _Row:
    """A row of a .npz file; as a text "FILE.npz[3]".

    Attributes:
        values: a sample as the network takes it, uint8 or float32.
    """

    file: str
    number: int
    values: Any

    def __str__(self) -> str:
        return f"{self.file}[{self.number}]"


Item = Path | _Row


def _items(names: Sequence[str]) -> Sequence[Item]:
    """What the arguments name: images, or rows of .npz files.

    Raises:
        UserError: there is nothing of that name, it cannot be read, or both kinds are named.
    """
    from .. import images, npz

    are_arrays = [name.lower().endswith(npz.SUFFIX) and not Path(name).is_dir() for name in names]
    if not any(are_arrays):
        return images.find(names)
    if not all(are_arrays):
        raise UserError(f"images and {npz.SUFFIX} files: pass one kind at a time")
    return [
        _Row(name, number, values)
        for name in names
        for number, values in enumerate(npz.inputs_of(Path(name)))
    ]


def check_input(file: str, engine: Engine) -> None:
    """Raise UserError unless the network classifies images."""
    if len(engine.shape) != 3:
        reason = f"takes inputs of shape {list(engine.shape)}, not images"
        raise UserError(f"{file}: {reason}: pass FILE.npz with an array X, [rows, ...]")
    results = engine.ticket.output_shape
    if results is not None and len(results) != 1:
        raise UserError(f"{file}: gives results of shape {list(results)}, not classes")
    if (channels := engine.shape[0]) not in (1, 3):
        reason = f"takes {channels} channels: images have one (grey) or three (RGB)"
        raise UserError(f"{file}: {reason}")


def _image_shape(engine: Engine) -> tuple[int, int, int]:
    channels, height, width = engine.shape
    return channels, height, width


def _check_rows(items: Sequence[Item], engine: Engine) -> None:
    """Raise UserError unless rows of .npz files are samples that the network takes."""
    for item in items:
        if isinstance(item, _Row) and item.values.shape != engine.shape:
            here, there = list(item.values.shape), list(engine.shape)
            raise UserError(
                f"{item.file}: its rows have the shape {here}: the network takes {there}"
            )


def _as_floats(row: _Row) -> Any:
    """The values of a row as floats."""
    import numpy as np

    is_pixels = row.values.dtype == np.uint8
    return row.values / np.float32(255) if is_pixels else row.values


def _print_predictions(
    model: _Model, paths: Sequence[Item], batch: int, output: _Table | _Json, console: Console
) -> int:
    """Classify and print the images batch by batch; returns the number of failures."""
    from ..console import Console

    failures = 0
    with ExitStack() as stack:
        # On a terminal the bar belongs to the same console, so that lines appear above it.
        progress = _Progress(console if console.is_terminal else Console(sys.stderr), stack, paths)
        lines = output.head()
        for chosen in _batches(paths, batch):
            for path, result in zip(chosen, _results(model, chosen), strict=True):
                if isinstance(result, UserError):
                    lines += _report_failure(output, path, result, is_only=len(paths) == 1)
                    failures += 1
                else:
                    lines += output.rows(path, result)
            if lines:
                console.line(*lines)
            lines = []
            progress.advance(len(chosen))
    return failures


def _report_failure(
    output: _Table | _Json, path: Item, error: UserError, is_only: bool
) -> list[str]:
    """Report an error on standard error; returns the lines for standard output.

    Raises:
        UserError: `error`, if it concerns the only image and standard output stays empty.
    """
    lines = output.failure(path, error)
    if is_only and not lines:
        raise error
    screen.report(str(error))
    return lines


def _batches(paths: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(paths), size):
        yield paths[first : first + size]


class _Progress:
    """A progress bar that appears when images remain after `BAR_DELAY` seconds."""

    def __init__(self, console: Console, stack: ExitStack, paths: Sequence[Item]) -> None:
        self._console, self._stack = console, stack
        self._total, self._done = len(paths), 0
        self._start = time.monotonic()
        self._bar: Bar | None = None

    def advance(self, images: int) -> None:
        is_slow = time.monotonic() - self._start > BAR_DELAY
        if self._bar is None and is_slow and self._done + images < self._total:
            self._bar = self._stack.enter_context(self._console.bar("images", self._total))
            self._bar.advance(self._done)
        if self._bar:
            self._bar.advance(images)
        self._done += images


def _results(model: _Model, paths: Sequence[Item]) -> list[Any]:
    """For each image its probabilities [classes], or the UserError that prevented them."""
    import numpy as np

    images = [_pixels(model, path) for path in paths]
    results: list[Any] = list(images)
    readable = [i for i, image in enumerate(images) if not isinstance(image, UserError)]
    if not readable:
        return results
    with np.errstate(invalid="ignore"):
        probabilities = model.predict(np.stack([images[i] for i in readable]))
    for i, row in zip(readable, probabilities, strict=True):
        if np.isfinite(row).all():
            results[i] = row
        else:
            results[i] = UserError(f"{paths[i]}: the network's results are not finite")
    return results


def _pixels(model: _Model, path: Item) -> Any:
    """The image [C, H, W] uint8, or the row as floats; or the UserError that says why it cannot be
    read.
    """
    try:
        return _sample(model.engine, path)
    except UserError as e:
        return e


def _sample(engine: Engine, item: Item) -> Any:
    """An image [C, H, W] uint8, or a row as floats.

    Raises:
        UserError: it cannot be read, or is none that the network takes.
    """
    from .. import images

    if isinstance(item, _Row):
        return _as_floats(item)
    return images.read(item, _image_shape(engine), is_cropped(engine.ticket))


def _of_ticket(arguments: argparse.Namespace, threads: int) -> _Model:
    import numpy as np

    from ..deck import softmax

    engine, warnings = load_engine(arguments.file, threads)
    warn(warnings)
    if arguments.calibration is not None:
        items = _items([arguments.calibration])[:MAX_CALIBRATION_IMAGES]
        _check_rows(items, engine)
        samples = np.stack([_sample(engine, item) for item in items])
        engine, _ = load_engine(engine.ticket, threads, calibration=samples)
    return _Model(engine, lambda pixels: softmax(engine.run(pixels).astype(np.float64)))


def _of_deck(arguments: argparse.Namespace, threads: int) -> _Model:
    from ..deck import Deck

    if arguments.calibration is not None:
        raise UserError(f"--calibration: is for tickets, and {arguments.file} is a deck")
    deck = Deck.load(arguments.file)
    gating: Gating = arguments.gating or "image"
    with engines_without_warnings():
        engines = deck.engines(threads)
    warn(fallbacks(engines))
    return _Model(engines[0], lambda pixels: deck.predict(pixels, gating, threads=threads))


def class_names(ticket: Ticket, outputs: int) -> list[str]:
    """A unique name for each output of the network.

    Names of the ticket that several classes share get the number of the class; outputs without a
    name are called by their number.
    """
    names = [*ticket.classes[:outputs], *map(str, range(len(ticket.classes), outputs))]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def is_cropped(ticket: Ticket) -> bool:
    """Whether test images of the search were centre-cropped (streamed images), or resized whole."""
    options = ticket.found.get("options")
    if not isinstance(options, dict):
        return False
    return options.get("set") == "ImageNet" or options.get("stream") is True


class _Table:
    """A row per image with its `top` classes; on a narrow terminal, a line for the file and lines
    of classes.

    `Console.columns` would need all rows before it prints the first; there may be many.

    Args:
        names: of the classes.
        paths: of all images.
        top: classes to show.
        columns: of the terminal; None for a file.
    """

    def __init__(
        self, names: Sequence[str], paths: Sequence[Item], top: int, columns: int | None
    ) -> None:
        self.names = [as_displayed(name) for name in names]
        self.top = top
        self.width = max(4, *(width(as_displayed(str(path))) for path in paths))
        self.name_width = max(5, *map(width, self.names))
        cell = self.name_width + 11
        self.is_narrow, self.cells_in_line = False, top
        if columns is not None and self.width + top * cell > columns:
            self.is_narrow, self.cells_in_line = True, max(1, columns // cell)

    def head(self) -> list[str]:
        if self.is_narrow:
            return []
        titles = ["class"] + ["next"] * (self.top - 1)
        cells = [padded(title, self.name_width + 9) for title in titles]
        return ["  ".join([padded("file", self.width), *cells]).rstrip()]

    def rows(self, path: Item, probabilities: Any) -> list[str]:
        best = (-probabilities).argsort(kind="stable")[: self.top]
        cells = [
            f"{padded(self.names[i], self.name_width)}  {100 * probabilities[i]:5.1f} %"
            for i in best
        ]
        file = as_displayed(str(path))
        if not self.is_narrow:
            return ["  ".join([padded(file, self.width), *cells])]
        starts = range(0, len(cells), self.cells_in_line)
        return [file, *("  " + "  ".join(cells[i : i + self.cells_in_line]) for i in starts)]

    def failure(self, path: Item, error: UserError) -> list[str]:
        return []  # failures are on standard error only


class _Json:
    """A JSON object per image and line."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def head(self) -> list[str]:
        return []

    def rows(self, path: Item, probabilities: Any) -> list[str]:
        best = int(probabilities.argmax())
        content = {
            "file": str(path),
            "class": self.names[best],
            "index": best,
            "probability": float(probabilities[best]),
            "probabilities": dict(zip(self.names, probabilities.tolist(), strict=True)),
        }
        return [json.dumps(content, allow_nan=False)]

    def failure(self, path: Item, error: UserError) -> list[str]:
        return [json.dumps({"file": str(path), "error": str(error)})]
