"""Runs that differ only in their seed, as one point: mean and spread."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import config as options
from .entries import Entry


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a quantity.

    Attributes:
        mean: of the values.
        deviation: sample standard deviation; 0 for one value.
        count: number of values.
    """

    mean: float
    deviation: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return Spread(statistics.fmean(values), deviation, len(values))

    def __str__(self) -> str:
        """ "91.00 ± 1.41"; of one value, "91.00"."""
        if self.count == 1:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class Group:
    """Entries that differ only in their seed; all have a test accuracy.

    Attributes:
        line: name of the line of a chart that it is on: what it shares with groups of another
            prune rate.
        entries: one or more.
    """

    line: str
    entries: list[Entry]

    @property
    def accuracy(self) -> Spread:
        """Test accuracy in percent."""
        return Spread.of([entry.accuracy for entry in self.entries if entry.accuracy is not None])

    @property
    def density(self) -> Spread | None:
        """Percentage of weights kept; None if unknown."""
        values = [entry.density for entry in self.entries if entry.density is not None]
        return Spread.of(values) if values else None

    @property
    def size(self) -> Spread | None:
        """Bytes of the tickets; None if unknown."""
        values = [float(entry.size) for entry in self.entries if entry.size is not None]
        return Spread.of(values) if values else None


_NOT_COMPARED = {"seed", *options.INCIDENTAL_OPTIONS}
"""Options in which the members of a group may differ."""


def groups(entries: Sequence[Entry]) -> list[Group]:
    """The entries with a test accuracy, grouped; in the order of the first of each group.

    An entry without settings is a group of its own. Of entries with the same seed as well, such as
    a run and its ticket, the first counts.
    """
    measured = [entry for entry in entries if entry.accuracy is not None]
    by_key: dict[str, list[Entry]] = {}
    for entry in measured:
        members = by_key.setdefault(_key(entry, _NOT_COMPARED), [])
        if not any(_is_repeated(entry, member) for member in members):
            members.append(entry)
    names = _line_names(measured)
    return [Group(names[_line_key(members[0])], members) for members in by_key.values()]


def _is_repeated(entry: Entry, member: Entry) -> bool:
    return bool(entry.settings) and entry.settings.get("seed") == member.settings.get("seed")


def _key(entry: Entry, left_out: set[str]) -> str:
    if not entry.settings:
        return entry.name
    compared = {name: value for name, value in entry.settings.items() if name not in left_out}
    return json.dumps([entry.config_name, compared], sort_keys=True, default=str)


def _line_key(entry: Entry) -> str:
    return _key(entry, {*_NOT_COMPARED, "prune_rate"})


def _line_names(entries: Sequence[Entry]) -> dict[str, str]:
    """A name for each line, by its key: configuration and network, and options that differ."""
    first = {_line_key(entry): entry for entry in reversed(entries)}
    members = [entry for entry in first.values() if entry.settings]
    by_config: dict[str, int] = {}
    for entry in members:
        by_config[_title(entry)] = by_config.get(_title(entry), 0) + 1
    names = {}
    for key, entry in first.items():
        title = _title(entry)
        alike = [e for e in members if _title(e) == title]
        names[key] = f"{title}{_differences(entry, alike)}" if entry.settings else entry.name
    return names


def _title(entry: Entry) -> str:
    return entry.config_name or entry.network


def _differences(entry: Entry, alike: Sequence[Entry]) -> str:
    """The options in which an entry differs from others of the same title: at most three."""
    differing = [name for name in entry.settings if _differs(name, alike)]
    texts = [f"{name}={_in_words(entry.settings[name])}" for name in differing]
    more = ["..."] if len(texts) > 3 else []
    return "".join(f", {text}" for text in texts[:3] + more)


def _differs(name: str, entries: Sequence[Entry]) -> bool:
    if name in _NOT_COMPARED or name == "prune_rate":
        return False
    values = [entry.settings.get(name) for entry in entries]
    return any(value != values[0] for value in values)


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
