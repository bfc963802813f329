"""Parsers and flags of the command line: one flag per option of the schema."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import config as options
from .. import screen
from ..errors import UserError
from ..names import DECK_SUFFIX as DECK_SUFFIX
from ..names import TICKET_SUFFIX as TICKET_SUFFIX

PROGRAM_SUFFIX = ".bprog"

MOST_COLUMNS = 110
"""Width of help on wide terminals and in files."""
DEBUG: dict[str, Any] = {"action": "store_true", "help": "print the traceback of an error"}
"""Keywords of `add_argument` for the flag --debug."""
DATA_AND_NETWORK = (*options.DATA_SOURCE_OPTIONS, "device", *options.NETWORK_OPTIONS)
"""Options of the commands that evaluate a file: where its data are, and what older files do not
record.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`, and so one line on standard error."""

    def error(self, message: str) -> NoReturn:
        """Raise a mistake in the arguments as a `UserError` that points to --help.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Help and version. argparse would ignore that standard output cannot be written.
        screen.print_text(message)


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that lists --prune-rate and leaves out its other spelling, --prune_rate.

    It is as wide as the terminal, at most 110 columns. Descriptions keep their lines where these
    fit.
    """

    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size((MOST_COLUMNS, 24)).columns
        super().__init__(prog, max_help_position=32, width=min(MOST_COLUMNS, max(columns, 20)))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if all(len(indent + line) <= width for line in text.splitlines()):
            return super()._fill_text(text, width, indent)
        # Runs of lines at the margin are prose; an indented line stays a line.
        lines = re.sub(r"(?<=\S)\n(?=\S)", " ", text).splitlines()
        return "\n".join(self._wrapped(line, width, indent) for line in lines)

    def _wrapped(self, line: str, width: int, indent: str) -> str:
        # A remark far to the right of an example moves left, so that words are left to break at.
        spaces = min(len(line) - len(line.lstrip()), width // 4)
        margin = indent + " " * spaces
        hanging = margin + ("    " if margin else "")
        return "\n".join(
            textwrap.wrap(
                line.strip(),
                width,
                initial_indent=margin,
                subsequent_indent=hanging,
                break_on_hyphens=False,
            )
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # flags stay whole

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [flag for flag in action.option_strings if "_" not in flag]
        if not flags:
            return super()._format_action_invocation(action)
        if action.nargs == 0:
            return ", ".join(flags)
        metavar = self._get_default_metavar_for_optional(action)
        return f"{', '.join(flags)} {self._format_args(action, metavar)}"


def flag_of(name: str) -> str:
    """The flag of option `name`: "--prune-rate" for "prune_rate"."""
    return f"--{name.replace('_', '-')}"


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], **texts: Any
) -> Parser:
    """Add a command to the command line; returns its parser.

    Args:
        commands: what `add_subparsers` returned.
        name: of the command.
        run: takes the parsed arguments and returns the exit code.
        texts: help, usage, description and epilog, as for `add_parser`.
    """
    parser: Parser = commands.add_parser(name, formatter_class=Help, allow_abbrev=False, **texts)
    parser.set_defaults(run=run)
    return parser


def add_options(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add one flag per option of the schema, or per option in `names`.

    A flag that is not given leaves no attribute in the parsed arguments: configuration files and
    checkpoints come before the schema's defaults.
    """
    for heading, members in options.groups():
        section = parser.add_argument_group(heading)
        for name in members:
            if names is None:
                section.add_argument(*_flags(name), **_keywords(name, shows_default=True))
            elif name in names:
                section.add_argument(*_flags(name), **_keywords(name, shows_default=False))


def _flags(name: str) -> list[str]:
    """All spellings of the option `name`: short flags, with - and with _, and aliases."""
    flags = [*options.rule(name).short, flag_of(name)]
    if "_" in name:
        flags.append(f"--{name}")
    for alias, target in options.ALIASES.items():
        if target == name:
            flags += [flag_of(alias), f"--{alias}"]
    return flags


def _keywords(name: str, shows_default: bool) -> dict[str, Any]:
    """Keywords of `add_argument` for the option `name`."""
    keywords: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": _help(name, shows_default).replace("%", "%%"),
    }
    if name.startswith("no_"):
        keywords["action"] = "store_true"
    elif options.is_flag(name):
        keywords["action"] = argparse.BooleanOptionalAction
    elif name == "layer_prune_rates":
        keywords |= {"nargs": "+", "metavar": "PATTERN=RATE"}
    elif name == "arch_args":
        keywords |= {"nargs": "+", "metavar": "NAME=VALUE"}
    else:
        keywords["metavar"] = options.metavar(name)
    return keywords


def _help(name: str, shows_default: bool) -> str:
    """The help of the option `name`, with its choices where the text does not name them all."""
    rule = options.rule(name)
    text = rule.help
    choices = rule.choices or ()
    if not all(choice in text for choice in choices):
        text += f"; choices: {', '.join(choices)}"
    default = getattr(options.Config(), name)
    if not shows_default or default is None or default is False:
        return text
    return f"{text} [{'on' if default is True else default}]"


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the schema that the command line gives: name -> value as text or bool.

    Raises:
        UserError: an item of --layer-prune-rates is not PATTERN=RATE, or one of --arch-args not
            NAME=VALUE.
    """
    given = {name: value for name, value in vars(arguments).items() if name in options.FIELDS}
    if "layer_prune_rates" in given:
        given["layer_prune_rates"] = dict(map(_pattern_and_rate, given["layer_prune_rates"]))
    if "arch_args" in given:
        given["arch_args"] = dict(map(_name_and_value, given["arch_args"]))
    return given


def _pattern_and_rate(item: str) -> tuple[str, str]:
    pattern, separator, rate = item.partition("=")
    if not separator:
        raise UserError(
            f"--layer-prune-rates {item}: must be PATTERN=RATE, e.g. fc=0.5 or conv1=dense"
        )
    return pattern, rate


def _name_and_value(item: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator or not name.isidentifier():
        raise UserError(f"--arch-args {item}: must be NAME=VALUE, e.g. depth=3")
    return name, value


def coerced(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `overrides`, converted to the types of their options.

    Raises:
        UserError: see `config.coerce`.
    """
    values = {name: options.coerce(name, value, flag_of(name)) for name, value in given.items()}
    return options.as_given(values)


def check_folder(output: str | Path) -> None:
    """Check before the work begins that its result can be written.

    Raises:
        UserError: the folder of --output does not exist.
    """
    if not Path(output).absolute().parent.is_dir():
        raise UserError(f"--output {output}: cannot be written: no such folder")


def check_suffix(output: str, suffix: str, kind: str) -> None:
    """Check the suffix of --output.

    Raises:
        UserError: it is not `suffix`; `kind` names the file in the message.
    """
    if not output.endswith(suffix):
        raise UserError(f"--output {output}: the name of a {kind} ends with {suffix}")
