"""A CSV file with a row per run, such as results.csv, and its rows as curves: mean and spread."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, abbreviated, did_you_mean, one_line

MOST_BYTES = 1 << 26
"""Largest file that is read."""
_SHORT_NAMES = {"config": "Base Config", "lr": "Learning Rate", "test": "Test Top 1"}
_MEASURED = ("Top 1", "Top 5", "Date Finished", "Name", "Seed", "Run Directory", "Density")
"""Ends of the columns of results.csv in which runs with the same options may differ."""


@dataclass(frozen=True)
class Curve:
    """The points of one series.

    Attributes:
        name: the value of the column that separates the series; empty if there is none.
        x: numbers, or the places of texts on the axis.
        mean, spread: mean and sample standard deviation of the rows with this x; 0 for one row.
        counts: number of rows of each point.
    """

    name: str
    x: list[float]
    mean: list[float]
    spread: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file.

    Attributes:
        path: of the file, for messages.
        columns: names in the first line.
        rows: the cells of all other lines, by column.
    """

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]

    @staticmethod
    def read(path: Path) -> Table:
        """Read a file.

        Raises:
            UserError: it cannot be read, or has no rows.
        """
        try:
            if path.stat().st_size > MOST_BYTES:
                raise UserError(f"{path}: more than {MOST_BYTES:,} bytes")
            text = path.read_text(encoding="utf-8-sig")
            lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
        except OSError as e:
            raise UserError(f"{path}: cannot be read: {e.strerror}") from None
        except (UnicodeDecodeError, csv.Error) as e:
            raise UserError(f"{path}: not a CSV file: {one_line(e)}") from None
        if len(lines) < 2:
            raise UserError(f"{path}: has no rows")
        columns, *rows = lines
        return Table(path, columns, [dict(zip(columns, row, strict=False)) for row in rows])

    def column(self, name: str, flag: str) -> str:
        """The column that the user names: "prune_rate" is "Prune Rate".

        Raises:
            UserError: there is none; the message lists the columns.
        """
        by_plain = {_plain(column): column for column in self.columns}
        wanted = _plain(_SHORT_NAMES.get(name.lower(), name))
        if name in self.columns:
            return name
        if wanted in by_plain:
            return by_plain[wanted]
        hint = did_you_mean(name, self.columns)
        columns = abbreviated(", ".join(self.columns), 1000)
        raise UserError(f"{flag} {name}: no such column{hint}; {self.path} has {columns}")

    def where(self, conditions: Sequence[str]) -> Table:
        """The rows that meet all conditions.

        Args:
            conditions: texts COLUMN=VALUE; numbers are compared as numbers.

        Raises:
            UserError: a condition is malformed, or no row meets all.
        """
        rows = self.rows
        for condition in conditions:
            name, separator, value = condition.partition("=")
            if not separator:
                raise UserError(f"--where {condition}: must be COLUMN=VALUE, e.g. seed=0")
            column = self.column(name, "--where")
            rest = [row for row in rows if _is_equal(row.get(column, ""), value)]
            if not rest:
                cells = ", ".join(dict.fromkeys(row.get(column, "") for row in rows))
                values = abbreviated(cells, 300)
                raise UserError(f"--where {condition}: no row is left; the values are {values}")
            rows = rest
        return Table(self.path, self.columns, rows)

    def curves(self, x: str, y: str, by: str | None) -> tuple[list[Curve], list[str]]:
        """Mean and spread of `y` over the rows with the same `x`, for each value of `by`.

        Args:
            x, y, by: columns. Rows in which y is empty are left out.

        Returns:
            The curves, in the order of the file, and the labels of the places on the x axis: empty
            where x is a number in all rows.

        Raises:
            UserError: y is not a number, or there is nothing to plot.
        """
        rows = [row for row in self.rows if row.get(y, "").strip()]
        if not rows:
            raise UserError(f"{self.path}: {y} is empty in all of its {len(self.rows)} rows")
        places, labels = _places([row.get(x, "") for row in rows])
        series: dict[str, dict[float, list[float]]] = {}
        for row, place in zip(rows, places, strict=True):
            name = row.get(by, "") if by else ""
            series.setdefault(name, {}).setdefault(place, []).append(self._number(row[y], y))
        return [_curve(name, points) for name, points in series.items()], labels

    def _number(self, text: str, column: str) -> float:
        value = _as_number(text)
        if value is None:
            raise UserError(f"{self.path}: {column} = {abbreviated(text)}: not a finite number")
        return value

    def mixed_options(self, x: str, y: str, by: str | None) -> list[str]:
        """The options in which rows of one point differ: their mean is over more than seeds.

        Only for results.csv, which has a column Seed.
        """
        if "Seed" not in self.columns:
            return []
        plotted = {x, y, by}
        options = [c for c in self.columns if c not in plotted and not c.endswith(_MEASURED)]
        points: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in self.rows:
            points.setdefault((row.get(x, ""), row.get(by or "", "")), []).append(row)
        return [
            column
            for column in options
            if any(len({row.get(column) for row in rows}) > 1 for rows in points.values())
        ]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def _is_equal(cell: str, value: str) -> bool:
    number, wanted = _as_number(cell), _as_number(value)
    if number is not None and wanted is not None:
        return number == wanted
    return cell.strip() == value.strip()


def _as_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _places(texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Numbers as they are; texts as 0, 1, 2, ... in the order of the file, with their labels."""
    numbers = [_as_number(text) for text in texts]
    if None not in numbers:
        return [number for number in numbers if number is not None], []
    labels = list(dict.fromkeys(texts))
    return [float(labels.index(text)) for text in texts], labels


def _curve(name: str, points: dict[float, list[float]]) -> Curve:
    ordered = sorted(points.items())
    return Curve(
        name,
        x=[x for x, _ in ordered],
        mean=[statistics.fmean(values) for _, values in ordered],
        spread=[statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in ordered],
        counts=[len(values) for _, values in ordered],
    )
