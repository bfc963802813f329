"""The command line that repeats a search."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from .. import config as options
from ..config import Config
from ..errors import UserError

_LEFT_OUT = options.with_roles(
    options.Role.DATA_WORKERS, options.Role.OUTPUT_PATH, options.Role.COMPATIBILITY
)
"""Options that differ from machine to machine and change nothing of the result."""


def command(config_name: str, settings: Mapping[str, Any]) -> str | None:
    """The command line of a search, quoted for a POSIX shell.

    It names a packaged configuration, and each option that differs from it.

    Args:
        config_name: the run's; where no packaged configuration has this name, the default one is
            named instead, and more options differ.
        settings: all options of the run.

    Returns:
        None where flags cannot express the settings: a value of None, or a flag that only switches
        on, over a configuration that sets the option.
    """
    name, base = _base(config_name)
    parts = ["biprop", "find", "--config", name]
    for option, value in settings.items():
        if option in _LEFT_OUT or not _is_said(option, settings, base):
            continue
        flag = _flag(option, value)
        if flag is None:
            return None
        parts += flag
    return shlex.join(parts)


def _is_said(option: str, settings: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether the command gives an option: where it differs from the configuration's.

    Of the number of epochs and the budget of time, which takes its place, only one can be given;
    --epochs switches the configuration's budget off, even with the same number.
    """
    has_budget_of_time = settings.get("minutes") is not None
    if option == ("epochs" if has_budget_of_time else "minutes"):
        return False
    if option == "epochs" and base["minutes"] is not None:
        return True
    return bool(settings[option] != base[option])


def _base(config_name: str) -> tuple[str, dict[str, Any]]:
    """A packaged configuration and its options: `config_name` if it is one, else the default."""
    packaged = {file.stem: file for file in options.packaged_files()}
    name = config_name if config_name in packaged else options.DEFAULT_CONFIG
    try:
        values = options.read_file(options.find_file(name))
    except UserError:  # two packaged files have this name
        return _base(options.DEFAULT_CONFIG)
    return name, {**options.as_dict(Config()), **values}


def _flag(option: str, value: Any) -> list[str] | None:
    """The flag that gives an option this value; None if there is none."""
    dashed = option.replace("_", "-")
    if value is None or value == {}:
        return None
    if isinstance(value, Mapping):
        return [f"--{dashed}", *(f"{pattern}={rate}" for pattern, rate in value.items())]
    if not options.is_flag(option):
        return (
            [f"--{dashed}={value}"] if str(value).startswith("-") else [f"--{dashed}", str(value)]
        )
    if option.startswith("no_"):
        return [f"--{dashed}"] if value else None
    return [f"--{dashed}" if value else f"--no-{dashed}"]
