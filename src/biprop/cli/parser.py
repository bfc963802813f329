"""Flags of the command line: one an option of the schema; parsers whose mistakes are one line; help
without twins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import config as options
from .. import screen
from ..errors import UserError

TICKET_ENDING, DECK_ENDING, PROGRAM_ENDING = ".mpt", ".deck", ".bprog"
"""Of the names of files: they tell what a command is given."""
DEBUG: dict[str, Any] = {
    "action": "store_true",
    "help": "show where in the program a mistake was noticed",
}
"""Of the flag --debug."""
OF_A_FILE = (*options.DATA_PLACES, "device", *options.CHECKPOINT_FACTS)
"""Options of commands that measure what is in a file: where its data are, and what old files do not
say.
"""


class Parser(argparse.ArgumentParser):
    """Errors become a `UserError`, and so one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        screen.show(message)  # help and version; argparse itself would pass over a full disk


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows --prune-rate and not its twin --prune_rate."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = [s for s in action.option_strings if "_" not in s]
        if not shown:
            return super()._format_action_invocation(action)
        value = (
            ""
            if action.nargs == 0
            else " " + self._format_args(action, self._get_default_metavar_for_optional(action))
        )
        return ", ".join(shown) + value


def add_options(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """One flag per option of the schema (or per one of `names`), in both spellings, without a
    default: files come first.
    """
    defaults = options.Config()
    for group, members in options.groups():
        section = parser.add_argument_group(group)
        for name in members:
            if names is not None and name not in names:
                continue
            rule = options.rule(name)
            strings = [*rule.short, f"--{name.replace('_', '-')}"]
            if "_" in name:
                strings.append(f"--{name}")
            for other in (alias for alias, of in options.ALIASES.items() if of == name):
                strings += [f"--{other.replace('_', '-')}", f"--{other}"]
            default = getattr(defaults, name)
            choices = f": {', '.join(rule.choices)}" if rule.choices else ""
            shown = "" if default is None or default is False or names else f" [{default}]"
            keywords: dict[str, Any] = {
                "dest": name,
                "default": argparse.SUPPRESS,
                "help": (rule.help + choices + shown).replace("%", "%%"),
            }
            if name.startswith("no_"):
                keywords["action"] = "store_true"
            elif options.is_flag(name):
                keywords["action"] = argparse.BooleanOptionalAction
            elif name == "layer_prune_rates":
                keywords |= {"nargs": "+", "metavar": "PATTERN=RATE"}
            else:
                keywords["metavar"] = options.metavar(name)
            section.add_argument(*strings, **keywords)


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the schema that the command line gives."""
    given = {name: value for name, value in vars(arguments).items() if name in options.FIELDS}
    if "layer_prune_rates" in given:
        pairs = {}
        for item in given["layer_prune_rates"]:
            pattern, separator, rate = item.partition("=")
            if not separator:
                raise UserError(
                    f"--layer-prune-rates {item}: must be PATTERN=RATE, e.g. fc=0.5 or conv1=dense"
                )
            pairs[pattern] = rate
        given["layer_prune_rates"] = pairs
    return given


def check_folder(output: str | Path) -> None:
    """Noticed before the work, not after it.

    Raises:
        UserError: the folder of --output does not exist.
    """
    if not Path(output).absolute().parent.is_dir():
        raise UserError(f"--output {output}: cannot be written: no such folder")


def coerced(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: options.coerce(name, value, f"--{name.replace('_', '-')}")
        for name, value in given.items()
    }


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], **texts: Any
) -> Parser:
    """A command's parser.

    Args:
        commands: what `add_subparsers` returned.
        name: of the command.
        run: takes the parsed arguments and returns the exit code.
        texts: help, usage, description and epilog, as of `add_parser`.
    """
    parser: Parser = commands.add_parser(name, formatter_class=Help, allow_abbrev=False, **texts)
    parser.set_defaults(run=run)
    return parser
