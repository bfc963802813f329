"""The section with the configuration of a search, and the command line that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from .. import config as options
from ..config import Config
from ..runs.folder import SETTINGS
from .commands import command
from .entries import Entry
from .markup import Node, details, element, pairs


def section(entries: Sequence[Entry]) -> list[Node]:
    """Command and configuration of each entry that records its options."""
    parts = []
    for entry in entries:
        if entry.settings:
            parts += [element("h3", entry.name), *_recipe(entry)]
    return parts


def _recipe(entry: Entry) -> list[Node]:
    line = command(entry.config_name, entry.settings)
    if line is None:
        file = str(entry.path / SETTINGS)
        line = shlex.join(["biprop", "find", "--config", file]) if entry.kind == "run" else ""
    parts: list[Node] = []
    if line:
        parts.append(element("pre", element("code", line), tabindex="0"))
    if line and entry.settings["set"] != "digits" and "--data" not in line:
        text = f"Pass --data too: the folder of {entry.settings['set']}."
        parts.append(element("p", text, class_="note"))
    if entry.versions:
        parts.append(element("p", entry.versions, class_="note"))
    default = options.as_dict(Config())
    changed = {name: v for name, v in entry.settings.items() if v != default[name]}
    unchanged = {name: v for name, v in entry.settings.items() if v == default[name]}
    title = f"{len(changed)} options that differ from their defaults"
    return [
        *parts,
        details(title, pairs(_rows(changed), "options that differ from their defaults")),
        details("all other options", pairs(_rows(unchanged), "options at their defaults")),
    ]


def _rows(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _in_words(value)) for name, value in settings.items()]


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{pattern}: {rate}" for pattern, rate in value.items())
    return "not set" if value is None else str(value)
