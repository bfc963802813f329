"""The command line: parse, build, call.

Torch is loaded by the commands that need it, not by --help.

Exit codes: 0 done, 1 the search diverged, 2 a mistake in the command or its input, 75 stopped by
SIGTERM or SIGHUP, or because another process died (the same command with --resume auto goes on),
130 interrupted, 141 what reads the output has gone (`| head`).
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from .. import __version__, interrupts, screen
from .. import config as options
from ..errors import UserError, did_you_mean
from . import bench, deck, evaluate, find, inspect, pack, predict, robustness, status, sweep
from . import compile as compile_command
from . import list as list_command
from .common import INTERRUPTED, MISTAKE, PIPE
from .parser import Help, Parser

_DESCRIPTION = """\
Find Multi-Prize Tickets: subnetworks of networks with random, never-trained weights that are binary, and as accurate as
trained ones. Start with:

  biprop find                                        a ticket in the embedded digits, in less than a minute
  biprop find --config conv4_kn_unsigned --set CIFAR10 --data DIR --prune-rate 0.2
  biprop find --resume runs/digits/prune-rate=0.2/find
  biprop status runs/digits/prune-rate=0.2/find      how a run is doing, or how it ended
  biprop pack runs/digits/prune-rate=0.2/find -o digits.mpt
  biprop inspect digits.mpt
  biprop evaluate digits.mpt
  biprop predict digits.mpt pictures/                which classes they show, without PyTorch
  biprop bench digits.mpt
  biprop robustness digits.mpt                       accuracy under corruptions
  biprop deck build A.mpt B.mpt -o AB.deck --data DIR   several tickets that answer together
  biprop sweep --grid config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 seed=0,1 --set CIFAR10 --data DIR
  biprop list networks
"""


COMMANDS = (
    find,
    evaluate,
    pack,
    inspect,
    predict,
    bench,
    compile_command,
    robustness,
    deck,
    sweep,
    status,
    list_command,
)
"""In the order of --help: modules with add(commands) and run(arguments)."""


def _parser() -> Parser:
    parser = Parser(
        prog="biprop", description=_DESCRIPTION, formatter_class=Help, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"biprop {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True, parser_class=Parser
    )

    for command in COMMANDS:
        command.add(commands)
    return parser


def _reject_extras(command: str, extras: Sequence[str], parser: Parser) -> None:
    if not extras:
        return
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [s for s in subparsers.choices[command]._option_string_actions if s.startswith("--")]
    flag = extras[0].partition("=")[0]
    if flag.strip("-").replace("-", "_") in options.LEFT_OUT_KEYS:
        raise UserError(
            f"{flag} is left out: {options.LEFT_OUT_KEYS[flag.strip('-').replace('-', '_')]}"
        )
    raise UserError(
        f"unknown argument {flag}{did_you_mean(flag, known) or f'; see biprop {command} --help'}"
    )


def _run(argv: Sequence[str] | None) -> int:
    try:
        parser = _parser()
        arguments, extras = parser.parse_known_args(argv)
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        _reject_extras(arguments.command, extras, parser)
        return arguments.run(arguments)  # type: ignore[no-any-return]
    finally:
        screen.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see the module's docstring)."""
    # GNU OpenMP's threads wait actively after an operation, for milliseconds: two programs on one
    # machine hold each other up (64 seconds instead of 17 for two searches on two cores). With a
    # thirtieth of that wait they do not, and one alone is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    screen.prepare()
    code = _guarded(argv)
    if argv is None:
        interrupts.settle()
    return code


def _guarded(argv: Sequence[str] | None) -> int:
    """The exit code, whatever happens."""
    try:
        with interrupts.raised():
            return _run(argv)
    except BrokenPipeError:  # what reads our output has gone: `| head`
        return PIPE
    except UserError as e:
        if "--debug" in (sys.argv if argv is None else argv):
            for line in traceback.format_exc().splitlines():
                screen.tell(line)
        if not e.told:
            screen.tell(str(e))
        return MISTAKE
    except KeyboardInterrupt:
        screen.tell("interrupted", start="\n")
        return INTERRUPTED
    except interrupts.Terminated as e:
        screen.tell(f"stopped: {e}; run the same command again")
        return interrupts.STOPPED
