"""biprop compile: write a ticket as a program for the C interface."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import hub
from .common import load_engine, warn
from .parser import DEBUG, PROGRAM_SUFFIX, add_command, check_suffix

if TYPE_CHECKING:
    from ..engine import Engine

_DESCRIPTION = """\
Write the program of a ticket: a file with the operations of the network, batch norm folded and
masks decoded, which is larger than the ticket. Applications in C and other languages load it with
biprop_load_file (include/biprop.h). It is not needed in Python, where biprop.Engine loads the
ticket itself."""
_EPILOG = f"""\
examples:
  biprop compile digits.mpt -o digits{PROGRAM_SUFFIX}"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "compile",
        run,
        help="write a ticket in the form that the C interface loads",
        usage=f"biprop compile NAME.mpt -o NAME{PROGRAM_SUFFIX}",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("file", metavar="NAME.mpt", help="ticket")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar=f"NAME{PROGRAM_SUFFIX}",
        help="program to write",
    )
    parser.add_argument("--debug", **DEBUG)


def run(arguments: argparse.Namespace) -> int:
    """Write the program and report; returns the exit code."""
    from ..console import Console

    check_suffix(arguments.output, PROGRAM_SUFFIX, "program")
    engine, warnings = load_engine(arguments.file, 1)
    size = engine.save_program(arguments.output)
    what = "images" if len(engine.shape) == 3 else "inputs"
    takes = f"{' x '.join(map(str, engine.shape))} {what}"
    rows = [
        ("bytes", f"{size:,}  (the ticket: {hub.local(arguments.file).stat().st_size:,})"),
        ("takes", f"{takes}: {_values(engine)}"),
        ("gives", _result(engine)),
        ("checked", "not run" if warnings else "the engine loads it"),
    ]
    warn([f"{text.partition(':')[0]}: the program was not tried" for text in warnings])
    Console(tolerant=True).table(f"{arguments.output} written", rows)
    return 0


def _result(engine: Engine) -> str:
    """What a program gives for one sample."""
    shape = engine.ticket.output_shape or (engine.outputs,)
    what = "logits" if len(shape) == 1 else "numbers"
    return f"{' x '.join(map(str, shape))} {what}"


def _values(engine: Engine) -> str:
    """The numbers that a program takes, in words."""
    if engine.ticket.mean and not engine.ticket.takes_pixels:
        return "floats as they are, which it normalises; bytes 0 .. 255 count as 0 .. 1"
    return "bytes 0 .. 255, or floats 0 .. 1"
