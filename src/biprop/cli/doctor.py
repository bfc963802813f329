"""biprop doctor: what is installed here, what is wrong with it, and what to do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import config as options
from .common import EXIT_NEEDS_ATTENTION, plural
from .parser import add_command

_DESCRIPTION = """\
Show what biprop finds on this machine: versions, the compiled core and its instruction sets,
processors, GPUs, and where files are. What needs attention comes last, with what to do. The output
belongs in every report of an error."""
_EPILOG = """\
Exit codes: 0 nothing needs attention, 1 something does.

examples:
  biprop doctor
  biprop doctor --log-dir /scratch/runs"""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "doctor",
        run,
        help="check the installation and this machine",
        usage="biprop doctor [--log-dir DIR]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    default = options.Config().log_dir
    parser.add_argument(
        "--log-dir",
        metavar="DIR",
        default=default,
        help=f"folder that runs will be written to: is there space? [{default}]",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; returns the exit code."""
    from ..console import Console
    from .doctor_checks import report

    console = Console()
    sections = report(Path(arguments.log_dir))
    for section in sections:
        console.table(section.title, section.facts)
    problems = [problem for section in sections for problem in section.problems]
    if not problems:
        console.line("", "nothing needs attention")
        return 0
    console.line("", f"{plural(len(problems), 'problem')}")
    for number, problem in enumerate(problems, start=1):
        console.item(f"  {number}.", problem.what)
        console.item("    ", f"To do: {problem.remedy}.")
    return EXIT_NEEDS_ATTENTION
