"""biprop completion: a script with which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from .. import config as options
from .. import screen
from ..errors import UserError
from .list import configuration_names
from .parser import add_command

SHELLS = ("bash", "zsh", "fish")

_DESCRIPTION = """\
Print a script with which a shell completes commands, options, choices, names of networks and
configurations, and files. It is of this version of biprop. To use it:

  bash   in ~/.bashrc: eval "$(biprop completion bash)"
  zsh    biprop completion zsh > FOLDER/_biprop, for a FOLDER of $fpath
  fish   biprop completion fish > ~/.config/fish/completions/biprop.fish

This needs the package shtab: pip install 'biprop[completion]'."""

_PATTERNS = {
    "NAME.mpt": ("*.mpt",),
    "NAME.deck": ("*.deck",),
    "NAME.bprog": ("*.bprog",),
    "NAME.onnx": ("*.onnx",),
    "FILE.json": ("*.json",),
}
"""Metavariables of files with certain suffixes."""
_FILES = ("FILE", "IMAGE", "RUN")
_FOLDERS = ("DIR", "FOLDER")
_FOLDER_OPTIONS = ("data", "log_dir")
_VALUES = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "instruction_set": (
        *("amx", "avx512vnni", "avx512", "avxvnni", "avx2"),
        *("i8mm", "dotprod", "neon"),
        "scalar",
    ),
}
"""Usual values of options that take others, too."""


def add(commands: Any) -> None:
    """Add the command to the command line's `commands`."""
    parser = add_command(
        commands,
        "completion",
        run,
        help="print a script for completion in bash, zsh or fish",
        usage=f"biprop completion {{{','.join(SHELLS)}}}",
        description=_DESCRIPTION,
        epilog="examples:\n  biprop completion bash",
    )
    parser.add_argument("shell", choices=SHELLS)


def run(arguments: argparse.Namespace) -> int:
    """Print the script; returns the exit code.

    Raises:
        UserError: the package shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError(
            "biprop completion needs the package shtab: pip install 'biprop[completion]'"
        ) from None
    for parser in _parsers(arguments.parser):
        _prepare(parser, shtab)
    screen.print_text(shtab.complete(arguments.parser, arguments.shell) + "\n")
    return 0


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of all commands below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _parsers(command)


def _prepare(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Tell shtab what it cannot read from a parser, which cannot parse afterwards."""
    parser.description = None  # the line of the list of commands is shown instead
    for action in parser._actions:
        # One spelling of each option, as in --help.
        action.option_strings = [flag for flag in action.option_strings if "_" not in flag]
        takes_value = action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)
        if takes_value and action.choices is None:
            action.choices = _values(action)
            completion = None if action.choices else _completion(action, shtab)
            if completion:
                action.complete = completion  # type: ignore[attr-defined]


def _values(action: argparse.Action) -> Sequence[str] | None:
    """The values that an option takes, if they can be listed."""
    if action.dest == "arch":
        from ..models.plans import NETWORKS

        return NETWORKS
    if action.dest == "recipe":
        return [file.stem for file in options.recipe_files()]
    if action.dest == "corruptions":
        from ..robustness.severities import EXTRA, GROUPS, NAMES

        return (*GROUPS, "extra", *NAMES, *EXTRA)
    if action.dest in options.FIELDS:
        return options.rule(action.dest).choices or _VALUES.get(action.dest)
    return _VALUES.get(action.dest)


def _completion(action: argparse.Action, shtab: Any) -> Any:
    """How shtab completes an argument that is a file; None if it is no file."""
    if action.dest == "config":
        return _configurations()
    if action.metavar in _PATTERNS:
        return shtab.glob(*_PATTERNS[action.metavar])
    if action.dest in _FOLDER_OPTIONS or action.metavar in _FOLDERS:
        return shtab.DIRECTORY
    if action.dest == "results" or action.metavar in _FILES:
        return shtab.FILE
    return None


def _configurations() -> dict[str, Any]:
    """Completion of --config: names of packaged configurations, and YAML files."""
    names = " ".join(configuration_names().values())
    function = "_biprop_config_file"  # shtab takes what a function called *_file prints for paths
    scripts = {shell: text.replace("NAMES", names) for shell, text in _CONFIGURATIONS.items()}
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": scripts,
    }


_CONFIGURATIONS = {
    "bash": """\
_biprop_config_file() {
  compgen -W "NAMES" -- "$1"
  compgen -f -X '!*.y*ml' -- "$1"
  compgen -d -- "$1"
}""",
    "zsh": """\
_biprop_config_file() {
  compadd -- NAMES
  _files -g '*.y*ml'
}""",
    "fish": """\
function _biprop_config_file
  printf '%s\\n' NAMES
  __fish_complete_suffix .yml
end""",
}
"""Shell functions that print the candidates for --config."""
