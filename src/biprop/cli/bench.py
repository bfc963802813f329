"""biprop bench: speed of the engine, compared with PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import hub, screen
from ..errors import UserError
from .common import (
    ACTIVATIONS_HELP,
    check_count,
    load_engine,
    memory_error_names_batch,
    plural,
    warn,
)
from .parser import DEBUG, add_command

if TYPE_CHECKING:
    from ..console import Console
    from ..engine import Engine
    from ..engine.timing import Row, Timing
    from ..ticket import Ticket

_DESCRIPTION = """\
Measure how long a ticket takes on this machine, from uint8 pixels to logits. If PyTorch is
installed, the same network is measured in it as well: eager mode, float32, the same number of
threads, normalised pixels as input. The two take turns, so that other load meets both. Columns:
the median time of a batch, its quartiles, the number n of batches that were measured, and ratio,
PyTorch's median divided by the engine's."""
_EPILOG = """\
examples:
  biprop bench digits.mpt
  biprop bench digits.mpt --batch 1 --threads 1,2,4 --explain"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "bench",
        run,
        help="measure the speed of a ticket, compared with PyTorch",
        usage="biprop bench NAME.mpt [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="NAME.mpt", help="ticket")
    parser.add_argument("--batch", default="1,64", metavar="N,N", help="batch sizes [1,64]")
    parser.add_argument(
        "--threads", metavar="N,N", help="numbers of threads [1 and the number of cores]"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds to measure the engine, and as many for PyTorch, in each row of the table [1]",
    )
    parser.add_argument(
        "--instruction-set",
        metavar="NAME",
        help="scalar, avx2, avxvnni, avx512, avx512vnni, amx, neon, dotprod or i8mm"
        " [the best that this machine supports]",
    )
    parser.add_argument(
        "--activations", choices=("float", "u8"), default="float", help=ACTIVATIONS_HELP
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show which kernel the engine chose for each layer, and its time",
    )
    parser.add_argument("--no-torch", action="store_true", help="do not measure PyTorch")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object instead of tables; times in milliseconds",
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    from ..console import Console
    from ..engine import cores

    batches = _counts(arguments.batch, "--batch")
    if arguments.threads is None:
        threads = list(dict.fromkeys([1, cores()]))
    else:
        threads = _counts(arguments.threads, "--threads")
    _check_seconds(arguments.seconds)

    engines, warnings = _engines(arguments, threads)
    model = None if arguments.no_torch else _torch_model(arguments.file, engines[0], warnings)
    if arguments.explain and not engines[0].compiled:
        warnings.append("--explain: there are no kernels to explain")
    warn(warnings)

    console = Console(sys.stderr if arguments.json else None)
    rows = _measure(console, engines, batches, arguments.seconds, model)
    last = engines[-1]
    sizes = _sizes(arguments.file, last)
    steps = _steps(last, batches) if arguments.explain and last.compiled else []
    if arguments.json:
        _show_json(arguments, sizes, rows, steps)
    else:
        _show_tables(console, arguments.file, rows, sizes, last.threads)
        for step in steps:
            _show_steps(console, step)
    return 0


def _counts(text: str, flag: str) -> list[int]:
    """The distinct numbers in "1,64", in the order given.

    Raises:
        UserError: they are not positive integers.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UserError(f"{flag} {text}: must be whole numbers, e.g. 1,64")
    return list(dict.fromkeys(check_count(int(part), flag) for part in parts))


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and 0 < seconds <= 3600):
        raise UserError(f"--seconds {seconds:g}: must be above 0 and at most 3600")


def _engines(
    arguments: argparse.Namespace, threads: Sequence[int]
) -> tuple[list[Engine], list[str]]:
    """An engine for each number of threads, and the warnings of the first."""
    import numpy as np

    instruction_set = arguments.instruction_set
    first, warnings = load_engine(arguments.file, threads[0], instruction_set)
    ticket: Ticket = first.ticket
    calibration = None
    if arguments.activations == "u8":
        # Random pixels will do: the calibrated ranges change the logits, not the time.
        rng = np.random.default_rng(0)
        calibration = rng.integers(0, 256, (16, *first.shape), dtype=np.uint8)
    engines = [load_engine(ticket, count, instruction_set, calibration)[0] for count in threads]
    return engines, warnings


def _torch_model(file: str, engine: Engine, warnings: list[str]) -> Any:
    """The network in PyTorch; None, with a line in `warnings`, if PyTorch is not installed."""
    from ..engine import timing
    from ..ticket import TicketError

    if not timing.has_torch():
        warnings.append("PyTorch is not installed: no comparison")
        return None
    try:
        return engine.ticket.to_model()
    except TicketError as e:
        raise TicketError(f"{file}: {e}") from None


def _measure(
    console: Console,
    engines: Sequence[Engine],
    batches: Sequence[int],
    seconds: float,
    model: Any,
) -> list[Row]:
    """A row for each engine and batch size."""
    from ..engine import timing

    rows: list[Row] = []
    total = len(engines) * len(batches)
    with memory_error_names_batch(), console.bar("measuring", total) as bar:
        for engine in engines:
            for row in timing.measure(engine, batches, seconds, model):
                rows.append(row)
                bar.advance(1)
    return rows


def _sizes(file: str, engine: Engine) -> dict[str, Any]:
    """Instruction set and bytes, as --json prints them."""
    from ..engine.timing import float32_bytes

    compiled = engine.compiled
    return {
        "instruction_set": engine.explain()[0] if compiled else None,
        "ticket_bytes": hub.local(file).stat().st_size,
        "memory_bytes": engine.memory[0] if compiled else None,
        "activations_bytes": engine.memory[1] if compiled else None,
        "float32_bytes": float32_bytes(engine.ticket),
    }


@dataclasses.dataclass(frozen=True)
class _Steps:
    """How the engine computes a batch.

    Attributes:
        batch: number of images.
        instruction_set: of the kernels.
        group: how many images pass through the network together.
        steps: one per layer, see `Engine.explain`.
    """

    batch: int
    instruction_set: str
    group: int
    steps: Sequence[Any]


def _steps(engine: Engine, batches: Sequence[int]) -> list[_Steps]:
    return [_Steps(batch, *engine.explain(batch)) for batch in batches]


def _show_json(
    arguments: argparse.Namespace,
    sizes: dict[str, Any],
    rows: Sequence[Row],
    explained: Sequence[_Steps],
) -> None:
    content = {"file": arguments.file, **sizes, "rows": [row.as_dict() for row in rows]}
    if arguments.explain:
        content["explained"] = [
            {
                "batch": of_batch.batch,
                "group": of_batch.group,
                "steps": [dataclasses.asdict(step) for step in of_batch.steps],
            }
            for of_batch in explained
        ]
    screen.print_text(json.dumps(content, allow_nan=False) + "\n")


def _show_tables(
    console: Console, file: str, rows: Sequence[Row], sizes: dict[str, Any], threads: int
) -> None:
    heads = ["batch", "threads", "ms a batch", "quartiles", "n", "images/s"]
    if rows[0].torch:
        heads += ["PyTorch: ms", "quartiles", "n", "ratio"]
    computed_by = sizes["instruction_set"] or "numpy, with threads of its own"
    console.columns(f"{file} ({computed_by})", heads, [_time_cells(row) for row in rows])
    for row in rows:
        if row.ratio is not None and row.ratio <= 1:
            slowdown = f"the engine takes {1 / row.ratio:.2f} times as long as PyTorch"
            setting = f"batch {row.batch} with {plural(row.threads, 'thread')}"
            console.line(f"  no gain at {setting}: {slowdown}")
    if rows[0].torch:
        same = sum(row.same or 0 for row in rows)
        images = sum(row.batch for row in rows)
        console.line(
            f"  both give the same class to {same:,} of {images:,} images of random pixels"
        )
    console.table("bytes", _size_rows(sizes, threads))


def _time_cells(row: Row) -> list[str]:
    cells = [str(row.batch), str(row.threads), *_timing_cells(row.engine)]
    cells.append(f"{row.images_per_second:,.0f}")
    if row.torch and row.ratio:
        cells += [*_timing_cells(row.torch), f"{row.ratio:.2f}"]
    return cells


def _timing_cells(timing: Timing) -> list[str]:
    quartiles = f"{timing.lower:.3f} - {timing.upper:.3f}"
    return [f"{timing.median:.3f}", quartiles, f"{timing.n:,}"]


def _size_rows(sizes: dict[str, Any], threads: int) -> list[tuple[str, str]]:
    ticket, weights = sizes["ticket_bytes"], sizes["float32_bytes"]
    rows = [
        ("ticket", f"{ticket:,} bytes"),
        ("weights in float32", f"{weights:,} bytes, {weights / ticket:.1f} times as much"),
    ]
    if sizes["memory_bytes"]:
        activations = f"of those {sizes['activations_bytes']:,} for activations"
        memory = f"{sizes['memory_bytes']:,} bytes, {activations}, with {plural(threads, 'thread')}"
        rows.append(("in memory", memory))
    return rows


def _show_steps(console: Console, explained: _Steps) -> None:
    steps = explained.steps
    cycles = sum(step.cycles for step in steps)
    microseconds = sum(step.microseconds for step in steps) or 1.0
    rows = [_step_cells(step, microseconds) for step in steps]
    rows.append(["all", "", "", "", f"{cycles:,.0f}", f"{microseconds:.2f}", "100.0 %"])
    heads = ("operation", "input", "output", "kernel", "estimated cycles", "microseconds", "share")
    together = "one image" if explained.group == 1 else f"{explained.group} images"
    how = f"{explained.instruction_set}, {together} at a time, one thread; time per image"
    console.columns(f"batch {explained.batch} ({how})", heads, rows)


def _step_cells(step: Any, total: float) -> list[str]:
    return [
        *(step.operation, step.input, step.output, step.kernel),
        f"{step.cycles:,.0f}",
        f"{step.microseconds:.2f}",
        f"{100 * step.microseconds / total:.1f} %",
    ]
