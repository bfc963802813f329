"""The commands that run tickets: predict, bench and compile. PyTorch is loaded by bench alone, and not with --no-torch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import screen
from .errors import UserError
from .flags import DEBUG, DECK_ENDING, PROGRAM_ENDING, TICKET_ENDING, Help
from .screen import printable

if TYPE_CHECKING:
    from .engine import Engine
    from .log import Console
    from .speed import Row, Timing
    from .ticket import Ticket

MOST_IMAGES = 1 << 16  # of a batch
ACTIVATIONS_HELP = "u8: activations that are not bits are 8-bit numbers: faster, a little less exact [float]"
MOST_CALIBRATION = 256
"""Pictures that a calibration looks at."""
_Made = TypeVar("_Made")
Answer = Callable[[Any], Any]
PATIENCE = 2.0
"""Seconds before there is a progress bar."""


def add_commands(commands: Any) -> None:
    """Put the commands into the parser of the command line: `commands` is what `add_subparsers` returned."""
    common: dict[str, Any] = {"formatter_class": Help, "allow_abbrev": False}

    predict = commands.add_parser(
        "predict", help="which classes pictures show", usage="biprop predict FILE PICTURE-OR-FOLDER ... [options]",
        description="The likeliest classes of pictures, by a ticket or a deck and without PyTorch. Pictures of another size\n"
        "than the network's are scaled as its data were. A picture that cannot be read is reported on standard error\n"
        "(with --json also as an object with \"error\"); the others are classified, and the exit code is 2.", **common,
    )  # fmt: skip
    predict.add_argument("file", metavar="FILE", help=f"ticket ({TICKET_ENDING}) or deck ({DECK_ENDING})")
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, or folders, whose pictures are taken in order")
    predict.add_argument("--top", type=int, default=3, metavar="K", help="classes to show [3]")
    predict.add_argument("--json", action="store_true", help="a JSON object a picture, with all probabilities, a line each")
    predict.add_argument("--threads", type=int, metavar="N", help="processors to use [all, at most one a picture and 8]")
    predict.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="pictures of the kind to come, some dozens: activations become 8-bit numbers, faster",
    )
    predict.add_argument(
        "--gating", choices=("image", "batch", "none"), default="image",
        help="cards of a deck count by the spectrum of each picture, of all in a batch together, or all alike [image]",
    )  # fmt: skip
    predict.add_argument("--batch", type=int, default=64, metavar="N", help="pictures in memory at a time [64]")
    predict.add_argument("--debug", **DEBUG)
    predict.set_defaults(run=_predict)

    bench = commands.add_parser(
        "bench", help="how fast a ticket runs, and beside PyTorch", usage="biprop bench NAME.mpt [options]",
        description="Time that a ticket takes on this machine, from uint8 pixels to logits; and where PyTorch is installed,\n"
        "that of the same network there: eager, in float32, with as many threads, and given normalised pixels. They take\n"
        "turns in one run.", **common,
    )  # fmt: skip
    bench.add_argument("file", metavar="NAME.mpt")
    bench.add_argument("--batch", default="1,64", metavar="N,N", help="images in a call [1,64]")
    bench.add_argument("--threads", metavar="N,N", help="processors to use [one, and all]")
    bench.add_argument("--seconds", type=float, default=1.0, metavar="S", help="to measure each of the two, for each row [1]")
    bench.add_argument("--instruction-set", metavar="NAME", help="kernels to use [the best that this machine has]")
    bench.add_argument("--activations", choices=("float", "u8"), default="float", help=ACTIVATIONS_HELP)
    bench.add_argument("--explain", action="store_true", help="show each step: its kernel, and the time it takes")
    bench.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    bench.add_argument("--json", action="store_true", help="one JSON object instead of tables; times in milliseconds")
    bench.add_argument("--debug", **DEBUG)
    bench.set_defaults(run=_bench)

    compile_ = commands.add_parser(
        "compile", help="write a ticket as a program for C", usage=f"biprop compile NAME.mpt -o NAME{PROGRAM_ENDING}",
        description="Write what the C interface loads (include/biprop.h, biprop_load_file): the network with all its\n"
        "numbers folded and its masks decoded, so larger than the ticket. For programs in other languages: in Python,\n"
        "biprop.Engine takes the ticket itself.", **common,
    )  # fmt: skip
    compile_.add_argument("file", metavar="NAME.mpt")
    compile_.add_argument("-o", "--output", required=True, metavar=f"NAME{PROGRAM_ENDING}", help="the program")
    compile_.add_argument("--debug", **DEBUG)
    compile_.set_defaults(run=_compile)


def warn(lines: Sequence[str]) -> None:
    """Say what does not stop a command."""
    for line in lines:
        screen.tell(f"warning: {line}")


def engine_of(
    ticket: Ticket | str, threads: int, instruction_set: str | None = None, calibration: Any = None
) -> tuple[Engine, list[str]]:
    """An engine, and what is to be said of it: where numpy computes instead, why. Arguments as for `Engine`.

    Raises:
        UserError: see `Engine`.
    """
    from .engine import Engine

    return _and_what_is_said(lambda: Engine(ticket, threads, instruction_set, calibration))


def _and_what_is_said(make: Callable[[], _Made]) -> tuple[_Made, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, [str(warning.message) for warning in caught if warning.category is RuntimeWarning]


def _positive(value: int, flag: str) -> int:
    if not 1 <= value <= MOST_IMAGES:
        raise UserError(f"{flag} {value}: must be 1 .. {MOST_IMAGES:,}")
    return value


@contextmanager
def _memory_for_batches() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise UserError("not enough memory: pass a smaller --batch") from None


def _numbers(text: str, flag: str) -> list[int]:
    """ "1,64", each once and in the order given."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UserError(f"{flag} {text}: must be whole numbers, e.g. 1,64")
    return list(dict.fromkeys(_positive(int(part), flag) for part in parts))


def _predict(arguments: argparse.Namespace) -> int:
    from . import log, pictures
    from .engine import cores

    batch, top = _positive(arguments.batch, "--batch"), _positive(arguments.top, "--top")
    paths = pictures.find(arguments.pictures)
    threads = arguments.threads if arguments.threads is not None else min(cores(), len(paths), 8)
    engine, answer = _of_deck(arguments, threads) if arguments.file.endswith(DECK_ENDING) else _of_ticket(arguments, threads)
    if engine.shape[0] not in (1, 3):
        raise UserError(f"{arguments.file}: takes {engine.shape[0]} channels: pictures have one (grey) or three (RGB)")
    names, cut = _class_names(engine.ticket, engine.outputs), _is_cut(engine.ticket)
    show = _Json(names) if arguments.json else _Rows(names, paths, min(top, engine.outputs))
    console, display = log.Console(), log.Console(sys.stderr)
    if console.is_terminal:
        display = console  # one display: lines go above its bar
    started, failed = time.monotonic(), 0
    with ExitStack() as stack, _memory_for_batches():
        bar = None
        for first in range(0, len(paths), batch):
            chosen = paths[first : first + batch]
            answers = _answers(chosen, lambda path: pictures.read(path, engine.shape, cut), answer)
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
        raise UserError(f"{failed:,} of {len(paths):,} pictures failed (see above); the others were classified")
    return 0


def _answers(paths: Sequence[Path], read: Callable[[Path], Any], answer: Answer) -> list[Any]:
    """For each picture its probabilities [classes], or the mistake that it is: one damaged picture does not end all others."""
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
            found[place] = row if is_number else UserError(f"{paths[place]}: the network's results are not finite")
    return found


def _of_ticket(arguments: argparse.Namespace, threads: int) -> tuple[Engine, Answer]:
    """The engine, and what gives probabilities [B, classes] of pixels."""
    import numpy as np

    from . import pictures
    from .deck import softmax

    engine, said = engine_of(arguments.file, threads)
    warn(said)
    if arguments.calibration is not None:
        known = pictures.find([arguments.calibration])[:MOST_CALIBRATION]
        cut = _is_cut(engine.ticket)
        engine, _ = engine_of(
            engine.ticket, threads, calibration=np.stack([pictures.read(path, engine.shape, cut) for path in known])
        )
    return engine, lambda pixels: softmax(engine.run(pixels).astype(np.float64))


def _of_deck(arguments: argparse.Namespace, threads: int) -> tuple[Engine, Answer]:
    """The engine of the first card, which takes what all take, and what gives the deck's probabilities."""
    from .deck import Deck

    if arguments.calibration is not None:
        raise UserError(f"--calibration: is for tickets, and {arguments.file} is a deck")
    deck = Deck.load(arguments.file)
    (first, *_), said = _and_what_is_said(lambda: deck.engines(threads))
    warn(said)
    return first, lambda pixels: deck.predict(pixels, arguments.gating, threads=threads)


def _class_names(ticket: Ticket, outputs: int) -> list[str]:
    """One for each output: the ticket's, with the number where two classes have one name, or else the number."""
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
        return ["  ".join([f"{'file':<{self.width}}", *(f"{place:<{self.name_width}}         " for place in places)]).rstrip()]

    def failed(self, path: Path, error: UserError) -> list[str]:
        """The lines of a picture without an answer: none, as standard error has it."""
        return []

    def row(self, path: Path, probabilities: Any) -> str:
        best = (-probabilities).argsort(kind="stable")[: self.top]
        cells = [f"{self.names[i]:<{self.name_width}}  {100 * probabilities[i]:5.1f} %" for i in best]
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
        content = {"file": str(path), "class": self.names[best], "index": best, "probability": float(probabilities[best])}
        return json.dumps({**content, "probabilities": values}, allow_nan=False)


def _bench(arguments: argparse.Namespace) -> int:
    import numpy as np

    from . import log, speed
    from .engine import cores
    from .ticket import TicketError

    batches = _numbers(arguments.batch, "--batch")
    threads = list(dict.fromkeys([1, cores()])) if arguments.threads is None else _numbers(arguments.threads, "--threads")
    seconds = arguments.seconds
    if not (math.isfinite(seconds) and 0 < seconds <= 3600):
        raise UserError(f"--seconds {seconds:g}: must be above 0 and at most 3600")
    first, said = engine_of(arguments.file, threads[0], arguments.instruction_set)
    ticket, calibration = first.ticket, None
    if arguments.activations == "u8":  # the ranges matter for the results, not for the time
        calibration = np.random.default_rng(0).integers(0, 256, (16, *first.shape), dtype=np.uint8)
    engines = [engine_of(ticket, count, arguments.instruction_set, calibration)[0] for count in threads]
    model = None
    if not arguments.no_torch and not speed.has_torch():
        said.append("PyTorch is not installed: no comparison")
    elif not arguments.no_torch:
        try:
            model = ticket.to_model()
        except TicketError as e:
            raise TicketError(f"{arguments.file}: {e}") from None
    if arguments.explain and not first.compiled:
        said.append("--explain: there are no kernels to explain")
    warn(said)
    console = log.Console(sys.stderr if arguments.json else None)
    rows: list[Row] = []
    with _memory_for_batches(), console.bar("measuring", len(engines) * len(batches)) as bar:
        for engine in engines:
            for row in speed.measure(engine, batches, seconds, model):
                rows.append(row)
                bar.advance(1)
    last = engines[-1]
    facts = {
        "instruction_set": last.explain()[0] if last.compiled else None,
        "ticket_bytes": Path(arguments.file).stat().st_size,
        "memory_bytes": last.memory[0] if last.compiled else None,
        "activations_bytes": last.memory[1] if last.compiled else None,
        "float32_bytes": speed.float32_bytes(ticket),
    }
    steps = [(batch, *last.explain(batch)) for batch in batches] if arguments.explain and last.compiled else []
    if arguments.json:
        explained = [
            {"batch": batch, "group": group, "steps": [dataclasses.asdict(step) for step in of_batch]}
            for batch, _, group, of_batch in steps
        ]
        found = {"file": arguments.file, **facts, "rows": [row.as_dict() for row in rows]}
        screen.show(json.dumps({**found, "explained": explained} if arguments.explain else found, allow_nan=False) + "\n")
        return 0
    _show_bench(console, arguments.file, rows, facts, last.threads)
    for batch, kernels, group, of_batch in steps:
        at_a_time = "one image" if group == 1 else f"{group} images"
        _show_steps(console, f"batch {batch} ({kernels}, {at_a_time} at a time, one thread; an image takes)", of_batch)
    return 0


def _show_bench(console: Console, name: str, rows: Sequence[Row], facts: dict[str, Any], threads: int) -> None:
    heads = ["batch", "threads", "ms a batch", "quartiles", "n", "images/s"]
    if rows[0].torch:
        heads += ["PyTorch: ms", "quartiles", "n", "ratio"]
    table = []
    for row in rows:
        table.append([str(row.batch), str(row.threads), *_cells(row.engine), f"{row.images_per_second:,.0f}"])
        if row.torch and row.ratio:
            table[-1] += [*_cells(row.torch), f"{row.ratio:.2f}"]
    by = facts["instruction_set"] or "numpy, with threads of its own"
    console.columns(f"{name} ({by})", heads, table)
    for row in rows:
        if row.ratio is not None and row.ratio <= 1:
            times = f"the engine takes {1 / row.ratio:.2f} times as long as PyTorch"
            console.line(f"  no gain at batch {row.batch} with {_threads(row.threads)}: {times}")
    if rows[0].torch:
        same, images = sum(row.same or 0 for row in rows), sum(row.batch for row in rows)
        console.line(f"  both give the same class to {same:,} of {images:,} images of random pixels")
    weights, memory, activations = (facts[name] for name in ("float32_bytes", "memory_bytes", "activations_bytes"))
    held = f"{memory:,} bytes, of those {activations:,} for activations, with {_threads(threads)}" if memory else ""
    console.table(
        "bytes",
        [
            ("ticket", f"{facts['ticket_bytes']:,} bytes"),
            ("weights in float32", f"{weights:,} bytes, {weights / facts['ticket_bytes']:.1f} times as much"),
            *([("in memory", held)] if held else []),
        ],
    )


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def _cells(timing: Timing) -> list[str]:
    return [f"{timing.median:.3f}", f"{timing.lower:.3f} - {timing.upper:.3f}", f"{timing.n:,}"]


def _show_steps(console: Console, title: str, steps: Sequence[Any]) -> None:
    total = sum(step.microseconds for step in steps) or 1.0
    rows = [
        (s.operation, s.input, s.output, s.kernel, f"{s.cycles:,.0f}", f"{s.microseconds:.2f}",
         f"{100 * s.microseconds / total:.1f} %")
        for s in steps
    ]  # fmt: skip
    rows.append(("all", "", "", "", f"{sum(s.cycles for s in steps):,.0f}", f"{total:.2f}", "100.0 %"))
    console.columns(title, ("operation", "input", "output", "kernel", "estimated cycles", "microseconds", "share"), rows)


def _compile(arguments: argparse.Namespace) -> int:
    from . import log

    if not arguments.output.endswith(PROGRAM_ENDING):
        raise UserError(f"--output {arguments.output}: the name of a program ends with {PROGRAM_ENDING}")
    engine, said = engine_of(arguments.file, 1)
    size = engine.save_program(arguments.output)
    channels, height, width = engine.shape
    rows = [
        ("bytes", f"{size:,}  (the ticket: {Path(arguments.file).stat().st_size:,})"),
        ("takes", f"{channels} x {height} x {width} images: bytes 0 .. 255, or floats 0 .. 1"),
        ("gives", f"{engine.outputs} logits"),
        ("checked", "not run" if said else "the engine loads it"),
    ]
    warn([f"{line.partition(':')[0]}: the program was not tried" for line in said])
    log.Console(lasting=True).table(f"{arguments.output} written", rows)
    return 0
