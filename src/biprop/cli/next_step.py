"""The next commands to type, which a command prints at its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import config as options
from ..config import Config
from ..hub import Address
from .parser import TICKET_SUFFIX

_START = "next: "
_ARRAYS = "FILE.npz"


def lines(*commands: Sequence[str]) -> list[str]:
    """Commands below each other, after "next:", quoted for a POSIX shell.

    Words in capitals, such as IMAGES, stand for what only the user knows.
    """
    texts = [shlex.join(["biprop", *command]) for command in commands]
    return [(_START if number == 0 else " " * len(_START)) + t for number, t in enumerate(texts)]


def argument(path: str | Path) -> str:
    """A path as an argument: one that begins with - would be taken for a flag."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def after_find(config: Config, folder: Path, is_ticket: bool) -> list[str]:
    """What to do with a run: pack it, or evaluate a dense network, which no ticket can store."""
    run = [argument(folder), *_network(config)]
    if is_ticket:
        return lines(["pack", run[0], "-o", ticket_name(config), *run[1:]])
    return lines(["evaluate", *run, *_data(config.set, config.data)])


def _network(config: Config) -> list[str]:
    """The flags that name a network of the user's own, which no file does."""
    if not options.is_own(config.arch):
        return []
    given = [f"{name}={value}" for name, value in (config.arch_args or {}).items()]
    return ["--arch", config.arch, *(["--arch-args", *given] if given else [])]


def after_pack(ticket: str, found: Mapping[str, Any], flags: Mapping[str, Any]) -> list[str]:
    """What to do with a ticket.

    Args:
        ticket: its file.
        found: its record of its search.
        flags: the options that were given, which may name the data.
    """
    file = argument(ticket)
    page = _unused(Path(f"{_file_name(Path(ticket).stem)}.html"))
    samples = _ARRAYS if _recorded_set(found, flags) == "arrays" else "IMAGES"
    return lines(
        ["evaluate", file, *_recorded_data(found, flags)],
        ["predict", file, samples],
        ["bench", file],
        ["report", file, "-o", str(page)],
        ["push", file, "USER/REPO"],
    )


def after_deck(deck: str, found: Mapping[str, Any], flags: Mapping[str, Any]) -> list[str]:
    """What to do with a deck; `found` is the record of its first card."""
    file = argument(deck)
    return lines(["robustness", file, *_recorded_data(found, flags)], ["predict", file, "IMAGES"])


def after_sweep(folder: Path) -> list[str]:
    """What to do with a finished sweep."""
    name = f"{_file_name(folder.name)}.html"
    return lines(["report", argument(folder), "-o", str(_unused(Path(name)))])


def pinned_pull(address: Address, sha256: str) -> str:
    """The command that gets the same bytes of a ticket for ever."""
    place = f"{address.repo}/{address.file}"
    words = ["pull", place, "--revision", str(address.revision), "--sha256", sha256]
    return shlex.join(["biprop", *words])


def after_push(address: Address, sha256: str) -> list[str]:
    """How others get the ticket that was published."""
    return [_START + pinned_pull(address, sha256)]


def after_pull(ticket: str) -> list[str]:
    """What to do with a ticket that was downloaded."""
    file = argument(ticket)
    return lines(["inspect", file], ["predict", file, "IMAGES"], ["bench", file])


def _recorded_data(found: Mapping[str, Any], flags: Mapping[str, Any]) -> list[str]:
    """The flags that say where the data of a ticket are: DIR or FILE.npz where only the user
    knows.
    """
    data_set = _recorded_set(found, flags)
    unknown = _ARRAYS if data_set == "arrays" else "DIR"
    return _data(data_set, str(flags.get("data", unknown)))


def _recorded_set(found: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    """The data set of a ticket."""
    recorded = found.get("options")
    known = recorded if isinstance(recorded, Mapping) else {}
    return str(flags.get("set", known.get("set", Config().set)))


def _data(data_set: str, data: str) -> list[str]:
    """The flags that say where the data are, for a file that does not record it."""
    return [] if data_set == "digits" else ["--data", argument(data)]


def ticket_name(config: Config) -> str:
    """A name for a ticket, after its data, of no file that exists."""
    is_named_by_data = config.set in ("folder", "hub", "ImageNet")
    name = Path(config.data).name if is_named_by_data else config.set.lower()
    return str(_unused(Path(f"{_file_name(name)}{TICKET_SUFFIX}")))


def _file_name(text: str) -> str:
    """A text as a plain file name: no spaces, no leading dot or hyphen."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-") or "ticket"


def _unused(path: Path) -> Path:
    """The path itself, or the first of name-2, name-3, ... that does not exist."""
    number = 1
    unused = path
    while unused.exists():
        number += 1
        unused = path.with_stem(f"{path.stem}-{number}")
    return unused
