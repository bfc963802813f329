"""biprop bench: speed of the engine beside PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import screen
from ..errors import UserError
from .common import ACTIVATIONS_HELP, engine_of, memory_for_batches, positive, warn
from .parser import DEBUG, add_command

if TYPE_CHECKING:
    from ..console import Console
    from ..engine.timing import Row, Timing


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands, "bench", run, help="how fast a ticket runs, and beside PyTorch", usage="biprop bench NAME.mpt [options]",
        description="Time that a ticket takes on this machine, from uint8 pixels to logits; and where PyTorch is installed,\n"
        "that of the same network there: eager, in float32, with as many threads, and given normalised pixels. They take\n"
        "turns in one run.")  # fmt: skip
    parser.add_argument("file", metavar="NAME.mpt")
    parser.add_argument("--batch", default="1,64", metavar="N,N", help="images in a call [1,64]")
    parser.add_argument("--threads", metavar="N,N", help="processors to use [one, and all]")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="to measure each of the two, for each row [1]",
    )
    parser.add_argument(
        "--instruction-set", metavar="NAME", help="kernels to use [the best that this machine has]"
    )
    parser.add_argument(
        "--activations", choices=("float", "u8"), default="float", help=ACTIVATIONS_HELP
    )
    parser.add_argument(
        "--explain", action="store_true", help="show each step: its kernel, and the time it takes"
    )
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object instead of tables; times in milliseconds",
    )
    parser.add_argument("--debug", **DEBUG)


def _numbers(text: str, flag: str) -> list[int]:
    """ "1,64", each once and in the order given."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UserError(f"{flag} {text}: must be whole numbers, e.g. 1,64")
    return list(dict.fromkeys(positive(int(part), flag) for part in parts))


def run(arguments: argparse.Namespace) -> int:
    import numpy as np

    from ..console import Console
    from ..engine import cores
    from ..engine.timing import float32_bytes, has_torch, measure
    from ..ticket import TicketError

    batches = _numbers(arguments.batch, "--batch")
    threads = (
        list(dict.fromkeys([1, cores()]))
        if arguments.threads is None
        else _numbers(arguments.threads, "--threads")
    )
    seconds = arguments.seconds
    if not (math.isfinite(seconds) and 0 < seconds <= 3600):
        raise UserError(f"--seconds {seconds:g}: must be above 0 and at most 3600")
    first, said = engine_of(arguments.file, threads[0], arguments.instruction_set)
    ticket, calibration = first.ticket, None
    if arguments.activations == "u8":  # the ranges matter for the results, not for the time
        calibration = np.random.default_rng(0).integers(0, 256, (16, *first.shape), dtype=np.uint8)
    engines = [
        engine_of(ticket, count, arguments.instruction_set, calibration)[0] for count in threads
    ]
    model = None
    if not arguments.no_torch and not has_torch():
        said.append("PyTorch is not installed: no comparison")
    elif not arguments.no_torch:
        try:
            model = ticket.to_model()
        except TicketError as e:
            raise TicketError(f"{arguments.file}: {e}") from None
    if arguments.explain and not first.compiled:
        said.append("--explain: there are no kernels to explain")
    warn(said)
    console = Console(sys.stderr if arguments.json else None)
    rows: list[Row] = []
    with memory_for_batches(), console.bar("measuring", len(engines) * len(batches)) as bar:
        for engine in engines:
            for row in measure(engine, batches, seconds, model):
                rows.append(row)
                bar.advance(1)
    last = engines[-1]
    facts = {
        "instruction_set": last.explain()[0] if last.compiled else None,
        "ticket_bytes": Path(arguments.file).stat().st_size,
        "memory_bytes": last.memory[0] if last.compiled else None,
        "activations_bytes": last.memory[1] if last.compiled else None,
        "float32_bytes": float32_bytes(ticket),
    }
    steps = (
        [(batch, *last.explain(batch)) for batch in batches]
        if arguments.explain and last.compiled
        else []
    )
    if arguments.json:
        explained = [
            {
                "batch": batch,
                "group": group,
                "steps": [dataclasses.asdict(step) for step in of_batch],
            }
            for batch, _, group, of_batch in steps
        ]
        found = {"file": arguments.file, **facts, "rows": [row.as_dict() for row in rows]}
        screen.show(
            json.dumps(
                {**found, "explained": explained} if arguments.explain else found, allow_nan=False
            )
            + "\n"
        )
        return 0
    _show_bench(console, arguments.file, rows, facts, last.threads)
    for batch, kernels, group, of_batch in steps:
        at_a_time = "one image" if group == 1 else f"{group} images"
        _show_steps(
            console,
            f"batch {batch} ({kernels}, {at_a_time} at a time, one thread; an image takes)",
            of_batch,
        )
    return 0


def _show_bench(
    console: Console, name: str, rows: Sequence[Row], facts: dict[str, Any], threads: int
) -> None:
    heads = ["batch", "threads", "ms a batch", "quartiles", "n", "images/s"]
    if rows[0].torch:
        heads += ["PyTorch: ms", "quartiles", "n", "ratio"]
    table = []
    for row in rows:
        table.append(
            [str(row.batch), str(row.threads), *_cells(row.engine), f"{row.images_per_second:,.0f}"]
        )
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
        console.line(
            f"  both give the same class to {same:,} of {images:,} images of random pixels"
        )
    weights, memory, activations = (
        facts[name] for name in ("float32_bytes", "memory_bytes", "activations_bytes")
    )
    held = (
        f"{memory:,} bytes, of those {activations:,} for activations, with {_threads(threads)}"
        if memory
        else ""
    )
    console.table(
        "bytes",
        [
            ("ticket", f"{facts['ticket_bytes']:,} bytes"),
            (
                "weights in float32",
                f"{weights:,} bytes, {weights / facts['ticket_bytes']:.1f} times as much",
            ),
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
    rows.append(
        ("all", "", "", "", f"{sum(s.cycles for s in steps):,.0f}", f"{total:.2f}", "100.0 %")
    )
    console.columns(
        title,
        ("operation", "input", "output", "kernel", "estimated cycles", "microseconds", "share"),
        rows,
    )
