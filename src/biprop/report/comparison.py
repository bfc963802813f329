"""The section that compares networks: accuracy against bytes and against the fraction kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .charts import SLOTS, Point, Series, chart, legend
from .entries import Entry
from .groups import Group, Spread, groups
from .markup import Node, details, element, figure, table
from .scales import Axis, byte_count, plain


def section(entries: Sequence[Entry]) -> list[Node]:
    """Charts of all entries with a test accuracy; empty if there are fewer than two."""
    points = groups(entries)
    if sum(len(group.entries) for group in points) < 2:
        return []
    lines = list(dict.fromkeys(group.line for group in points))
    density = _chart(points, lines, "weights kept, %", lambda group: group.density, plain)
    size = _chart(points, lines, "bytes of the ticket", lambda group: group.size, byte_count)
    figures = [
        figure(title, svg)
        for title, svg in (
            ("Test accuracy against the fraction kept", density),
            ("Test accuracy against bytes", size),
        )
        if svg
    ]
    note = (
        "A mark: the mean over runs that differ only in the seed. Its bar: one sample standard"
        " deviation to each side, where there are several."
    )
    keys = legend([Series(name, slot) for slot, name in enumerate(lines[:SLOTS])])
    left_out = len(lines) - SLOTS
    more = f" {left_out} more lines are in the table only." if left_out > 0 else ""
    return [
        element("p", note + more, class_="note"),
        keys,
        element("div", *figures, class_="grid"),
        details("the numbers", _table(points)),
    ]


def _chart(
    points: Sequence[Group],
    lines: Sequence[str],
    x_label: str,
    x_of: Callable[[Group], Spread | None],
    text: Callable[[float], str],
) -> Node | None:
    """Accuracy over a quantity; a line connects groups that differ in the prune rate only."""
    series = [
        Series(name, slot, [_points([g for g in points if g.line == name], x_of, x_label)])
        for slot, name in enumerate(lines[:SLOTS])
    ]
    xs = [point.x for line in series for point in line.points]
    if not xs:
        return None
    is_log = min(xs) > 0 and max(xs) > 8 * min(xs)
    span = 0.0 if is_log else 0.02 * max(xs)
    x = Axis(x_label, is_log=is_log, low=0, least_span=span, text=text)
    label = f"Test accuracy in percent against {x_label}; the numbers are in the table below"
    return chart(label, series, x, Axis("test accuracy, %", low=0, high=100))


def _points(
    members: Sequence[Group], x_of: Callable[[Group], Spread | None], x_label: str
) -> list[Point]:
    points = []
    for group in members:
        x, accuracy = x_of(group), group.accuracy
        if x is not None:
            count = f", {accuracy.count} runs" if accuracy.count > 1 else ""
            title = f"{group.line}: {accuracy} % at {x.mean:,.6g} ({x_label}){count}"
            points.append(Point(x.mean, accuracy.mean, title, accuracy.deviation, is_marked=True))
    return sorted(points, key=lambda point: point.x)


def _table(points: Sequence[Group]) -> Node:
    heads = ("networks", "runs", "kept, %", "bytes", "test accuracy, %", "lowest", "highest")
    return table(heads, [_row(group) for group in points], "accuracy, bytes and fraction kept")


def _row(group: Group) -> list[str]:
    values = [entry.accuracy for entry in group.entries if entry.accuracy is not None]
    size = group.size
    return [
        group.line,
        str(len(group.entries)),
        str(group.density or ""),
        f"{size.mean:,.0f}" if size else "",
        str(group.accuracy),
        f"{min(values):.2f}",
        f"{max(values):.2f}",
    ]
