"""The entry point of the command line: parse the arguments and run one command.

Torch is loaded by the commands that need it, not by --help.

Exit codes: 0 success, 1 the search diverged or doctor found a problem, 2 invalid command or input,
75 stopped by SIGTERM or SIGHUP, or because another process of the search failed (the same command
with --resume auto continues), 130 interrupted, 141 broken pipe (`| head`).
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
from . import (
    bench,
    completion,
    deck,
    doctor,
    evaluate,
    export,
    find,
    inspect,
    pack,
    plot,
    predict,
    pull,
    push,
    report,
    robustness,
    status,
    sweep,
    web,
)
from . import compile as compile_command
from . import list as list_command
from .common import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USER_ERROR
from .parser import Help, Parser

_DESCRIPTION = """\
Find Multi-Prize Tickets: accurate binary subnetworks of networks with random, never-trained
weights. A search (find) writes a run folder; pack writes its result to a ticket, a small file
(.mpt), which the other commands read."""
_EPILOG = """\
examples:
  biprop find                              search on the embedded digits, in less than a minute
  biprop find --config conv4_kn_unsigned --set CIFAR10 --data DIR --prune-rate 0.2
  biprop find --resume runs/digits/prune-rate=0.2/find
  biprop status runs/digits/prune-rate=0.2/find
  biprop pack runs/digits/prune-rate=0.2/find -o digits.mpt
  biprop inspect digits.mpt                size of the ticket, layer by layer
  biprop evaluate digits.mpt               accuracy
  biprop predict digits.mpt images/        classes of images, without PyTorch
  biprop bench digits.mpt                  speed, compared with PyTorch
  biprop export digits.mpt --to onnx -o digits.onnx
  biprop web digits.mpt -o digits.html     a page that runs the ticket in a browser
  biprop robustness digits.mpt             accuracy under corruptions
  biprop deck build A.mpt B.mpt -o AB.deck --data DIR
  biprop sweep --grid config=conv2_kn_unsigned,conv4_kn_unsigned prune_rate=0.5,0.2 \\
      --set CIFAR10 --data DIR             several searches
  biprop report runs/digits/prune-rate=0.2/find -o report.html    curves, layers, mistakes: one page
  biprop plot runs/results.csv --x prune_rate --y "Test Top 1" --by config -o figure.pdf
  biprop push digits.mpt USER/REPO         publish a ticket on the Hugging Face Hub
  biprop pull USER/REPO -o digits.mpt
  biprop list networks

biprop COMMAND --help explains the options of a command."""

COMMANDS = (
    find,
    evaluate,
    pack,
    inspect,
    predict,
    bench,
    compile_command,
    export,
    web,
    robustness,
    deck,
    sweep,
    status,
    report,
    plot,
    push,
    pull,
    list_command,
    doctor,
    completion,
)
"""In the order of --help: modules with add(commands) and run(arguments)."""


_PACKAGES = {
    "torch": "torch",
    "PIL": "pillow",
    "yaml": "PyYAML",
    "filelock": "filelock",
    "pyarrow": "pyarrow",
    "rich": "rich",
    "tensorboard": "tensorboard",
}
"""Dependencies that an installation for tickets alone may lack (docs/guides/small-devices.md): the
names by which they are imported and installed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the name of the program; None: those of the process, which is then
            about to end.

    Returns:
        The exit code; see the module's docstring.
    """
    # Threads of GNU OpenMP spin for milliseconds after each parallel region, so that two programs
    # on one machine slow each other down (64 seconds instead of 17 for two searches on two cores).
    # With a thirtieth of the default they do not, and one program alone is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    screen.prepare()
    code = _exit_code(argv)
    if argv is None:
        interrupts.ignore_signals()
    return code


def _exit_code(argv: Sequence[str] | None) -> int:
    """Run the command, and turn every way in which it can end into an exit code and a message."""
    try:
        with interrupts.raising():
            return _run(argv)
    except BrokenPipeError:  # the reader of our output has ended: `| head`
        return EXIT_BROKEN_PIPE
    except UserError as e:
        if "--debug" in (sys.argv if argv is None else argv):
            for line in traceback.format_exc().splitlines():
                screen.report(line)
        if not e.is_reported:
            screen.report(str(e))
        return EXIT_USER_ERROR
    except ModuleNotFoundError as e:
        package = _PACKAGES.get((e.name or "").partition(".")[0])
        if package is None:
            raise
        screen.report(f"{package} is not installed, and this needs it: pip install {package}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        screen.report("interrupted", start="\n")
        return EXIT_INTERRUPTED
    except interrupts.Terminated as e:
        screen.report(f"stopped: {e}; run the same command again")
        return interrupts.EXIT_STOPPED


def _run(argv: Sequence[str] | None) -> int:
    try:
        parser = _parser()
        _check_command(sys.argv[1:] if argv is None else argv)
        arguments, unknown = parser.parse_known_args(argv)
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        arguments.parser = parser
        if unknown:
            raise _unknown_argument(unknown[0], arguments.command, parser)
        return arguments.run(arguments)  # type: ignore[no-any-return]
    finally:
        screen.finish()


def _check_command(argv: Sequence[str]) -> None:
    """Raise UserError if the first word is no command."""
    word = argv[0] if argv else ""
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    if not word or word.startswith("-") or word in names:
        return
    meant = _SYNONYMS.get(word.lower())
    hint = f"; did you mean {meant!r}?" if meant else did_you_mean(word, names)
    raise UserError(f"{word!r}: no such command{hint}; see biprop --help")


_SYNONYMS = {
    **dict.fromkeys(("train", "search", "fit"), "find"),
    **dict.fromkeys(("test", "eval", "score"), "evaluate"),
    **dict.fromkeys(("save", "convert"), "pack"),
    **dict.fromkeys(("info", "show", "summary"), "inspect"),
    **dict.fromkeys(("infer", "classify", "run"), "predict"),
    **dict.fromkeys(("benchmark", "time"), "bench"),
    **dict.fromkeys(("grid", "tune"), "sweep"),
    **dict.fromkeys(("upload", "publish"), "push"),
    "ensemble": "deck",
    "download": "pull",
}
"""What other programs call it -> the command."""


def _parser() -> Parser:
    parser = Parser(
        prog="biprop",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"biprop {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True, parser_class=Parser
    )
    for command in COMMANDS:
        command.add(commands)
    return parser


def _unknown_argument(argument: str, command: str, parser: Parser) -> UserError:
    """The error for an argument that `command` does not take."""
    flag = argument.partition("=")[0]
    name = flag.strip("-").replace("-", "_")
    if name in options.UNSUPPORTED_OPTIONS:
        return UserError(f"{flag} is left out: {options.UNSUPPORTED_OPTIONS[name]}")
    actions = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    flags = next(actions).choices[command]._option_string_actions
    known = [known for known in flags if known.startswith("--") and "_" not in known]
    hint = did_you_mean(flag, known) or f"; see biprop {command} --help"
    return UserError(f"unknown argument {flag}{hint}")
