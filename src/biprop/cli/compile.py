"""biprop compile: a ticket becomes a program for C."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import UserError
from .common import engine_of, warn
from .parser import DEBUG, PROGRAM_ENDING, add_command


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands, "compile", run, help="write a ticket as a program for C", usage=f"biprop compile NAME.mpt -o NAME{PROGRAM_ENDING}",
        description="Write what the C interface loads (include/biprop.h, biprop_load_file): the network with all its\n"
        "numbers folded and its masks decoded, so larger than the ticket. For programs in other languages: in Python,\n"
        "biprop.Engine takes the ticket itself.")  # fmt: skip
    parser.add_argument("file", metavar="NAME.mpt")
    parser.add_argument(
        "-o", "--output", required=True, metavar=f"NAME{PROGRAM_ENDING}", help="the program"
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    from ..console import Console

    if not arguments.output.endswith(PROGRAM_ENDING):
        raise UserError(
            f"--output {arguments.output}: the name of a program ends with {PROGRAM_ENDING}"
        )
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
    Console(lasting=True).table(f"{arguments.output} written", rows)
    return 0
