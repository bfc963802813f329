"""Charts as SVG inside the page: lines, dots with error bars, and stacked bars.

They are drawn here, and not by a library: the libraries that draw without matplotlib load scripts
or fonts when the page is opened, and a page that is sent to somebody must not. A chart is 340
units wide, the width of a telephone's screen, and grows with its column, so that its text is never
smaller than it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import abbreviated
from .markup import Node, element, short
from .scales import Axis, Scale

WIDTH, HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 22, 36
SLOTS = 8
"""Series that a chart can tell apart, each by a colour (style.css) and the shape of its marks."""

_SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",  # circle
    "M-3.5 -3.5h7v7h-7z",  # square
    "M0 -4.6L4.4 3.4H-4.4z",  # triangle
    "M0 -5L5 0L0 5L-5 0z",  # diamond
    "M0 4.6L4.4 -3.4H-4.4z",  # triangle, upside down
    "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
    "M-4 -5L0 -2L4 -5V5L0 2L-4 5z",  # bow
    "M0 -5L4.8 -1.5L2.9 4H-2.9L-4.8 -1.5z",  # pentagon
)


@dataclass(frozen=True)
class Point:
    """A point of a chart.

    Attributes:
        x, y: values that `scales.drawable` lets through.
        title: shown when the pointer rests on the point.
        spread: half the length of its error bar; 0 for none.
        is_marked: has a mark of the shape of its series.
    """

    x: float
    y: float
    title: str
    spread: float = 0.0
    is_marked: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: for the legend.
        slot: number of its colour and shape, from 0.
        lines: the points of each unbroken line; one that is not drawable breaks a line.
        is_dashed, is_joined: style of the lines; without `is_joined` there are only marks.
        entry: number of the entry that the page's legend can hide; None: of none.
    """

    name: str
    slot: int
    lines: list[list[Point]] = field(default_factory=list)
    is_dashed: bool = False
    is_joined: bool = True
    entry: int | None = None

    @property
    def points(self) -> list[Point]:
        """All points."""
        return [point for line in self.lines for point in line]

    @property
    def classes(self) -> str:
        """Of its elements: its colour, and what hides it."""
        of_entry = "" if self.entry is None else f" e{self.entry}"
        return f"c{self.slot % SLOTS}{of_entry}"


def marker(slot: int, x: float, y: float, *titles: str) -> Node:
    """The mark of a series at a coordinate."""
    shape = _SHAPES[slot % SLOTS]
    titles_nodes = [element("title", title) for title in titles]
    return element("path", *titles_nodes, d=shape, transform=f"translate({x:.1f} {y:.1f})")


def chart(label: str, series: Sequence[Series], x: Axis, y: Axis) -> Node | None:
    """Lines or dots over two axes.

    Args:
        label: what the chart shows, for screen readers.
        series: drawn one above the other, the first on top.
        x, y: the axes.

    Returns:
        None if there is no point to draw.
    """
    points = [point for line in series for point in line.points]
    if not points:
        return None
    x_scale = x.scale([point.x for point in points], _LEFT, WIDTH - _RIGHT)
    ends = [point.y + sign * point.spread for point in points for sign in (-1, 1)]
    y_scale = y.scale(ends, HEIGHT - _BOTTOM, _TOP)
    drawn = [_drawn(line, x_scale, y_scale) for line in reversed(series)]
    return _svg(label, HEIGHT, _x_axis(x, x_scale), _y_axis(y, y_scale), *drawn)


def _svg(label: str, height: float, *content: Node) -> Node:
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label=label,
        class_="chart",
    )


def _text(text: str, x: float, y: float, anchor: str) -> Node:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Node:
    return element("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", class_=kind)


def _x_axis(axis: Axis, scale: Scale) -> Node:
    bottom = HEIGHT - _BOTTOM
    parts = [_line(_LEFT, bottom, WIDTH - _RIGHT, bottom, "axis")]
    for tick in axis.ticks(scale):
        at = scale(tick)
        parts += [_line(at, bottom, at, bottom + 4, "axis")]
        parts += [_text(axis.text(tick), at, bottom + 16, "middle")]
    label = _text(axis.label, (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, "middle")
    return element("g", *parts, label)


def _y_axis(axis: Axis, scale: Scale) -> Node:
    parts = []
    for tick in axis.ticks(scale):
        at = scale(tick)
        parts += [_line(_LEFT, at, WIDTH - _RIGHT, at, "grid")]
        parts += [_text(axis.text(tick), _LEFT - 5, at + 4, "end")]
    return element("g", *parts, _text(axis.label, 2, 11, "start"))


def _drawn(series: Series, x: Scale, y: Scale) -> Node:
    """The lines of a series, then what reacts to the pointer, then its marks."""
    places = [[(x(point.x), y(point.y)) for point in line] for line in series.lines]
    is_joined = series.is_joined
    parts = [_polyline(line, series.is_dashed) for line in places if line and is_joined]
    for line, line_places in zip(series.lines, places, strict=True):
        for point, (left, top) in zip(line, line_places, strict=True):
            parts += _point(series, point, left, top, y)
    return element("g", *parts, class_=series.classes)


def _polyline(places: Sequence[tuple[float, float]], is_dashed: bool) -> Node:
    path = "M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in places)
    return element("path", d=path, class_="line dashed" if is_dashed else "line")


def _point(series: Series, point: Point, left: float, top: float, y: Scale) -> list[Node]:
    parts = []
    if point.spread:
        low, high = y(point.y - point.spread), y(point.y + point.spread)
        parts += [_line(left, low, left, high, "bar")]
        parts += [_line(left - 3, end, left + 3, end, "bar") for end in (low, high)]
    if point.is_marked:
        return [*parts, marker(series.slot, left, top, point.title)]
    title = element("title", point.title)
    return [
        *parts,
        element("circle", title, cx=f"{left:.1f}", cy=f"{top:.1f}", r="4", class_="hit"),
    ]


@dataclass(frozen=True)
class Bar:
    """A row of `stacked_bars`: its name, and (part, value >= 0) from left to right."""

    name: str
    parts: list[tuple[str, float]]


_BAR_ROW = 34


def stacked_bars(label: str, bars: Sequence[Bar], axis: Axis) -> Node | None:
    """Horizontal bars made of parts; each name is above its bar.

    Returns:
        None if all bars have length 0.
    """
    longest = max((sum(value for _, value in bar.parts) for bar in bars), default=0)
    if not longest:
        return None
    scale = Scale(0, longest, 2, WIDTH - 2)
    rows = [_bar(bar, number * _BAR_ROW, scale, axis) for number, bar in enumerate(bars)]
    return _svg(label, len(bars) * _BAR_ROW + 2, *rows)


def _bar(bar: Bar, top: float, scale: Scale, axis: Axis) -> Node:
    total = axis.text(sum(value for _, value in bar.parts))
    parts = [_text(short(bar.name), 2, top + 11, "start"), _text(total, WIDTH - 2, top + 11, "end")]
    at = 0.0
    for slot, (part, value) in enumerate(bar.parts):
        left, right = scale(at), scale(at + value)
        title = element("title", f"{bar.name}: {part} {value:,.0f} {axis.label}")
        parts.append(
            element(
                "rect",
                title,
                x=f"{left:.2f}",
                y=f"{top + 16:g}",
                width=f"{right - left:.2f}",
                height="13",
                class_=f"c{slot}",
            )
        )
        at += value
    return element("g", *parts)


def dot_rows(
    label: str, names: Sequence[str], series: Sequence[Series], x: Axis, left: float = 92
) -> Node | None:
    """Rows with a dot for each series; `Point.y` is the number of the row, from 0.

    Args:
        label: for screen readers.
        names: of the rows, from the top.
        series: with marks.
        x: the axis of the values.
        left: where the axis begins: room for the names.

    Returns:
        None if there is no point to draw.
    """
    points = [point for line in series for point in line.points]
    if not points:
        return None
    pitch = 17 if len(names) <= 40 else 12
    bottom = len(names) * pitch + 4
    x_scale = x.scale([point.x for point in points], left + 6, WIDTH - _RIGHT)
    y_scale = Scale(-0.5, len(names) - 0.5, 2, bottom - 2)
    lines = []
    for number, name in enumerate(names):
        at = y_scale(number)
        lines += [_line(left, at, WIDTH - _RIGHT, at, "grid")]
        lines += [_text(_tail(name), left - 5, at + 4, "end")]
    ticks = [_text(x.text(tick), x_scale(tick), bottom + 12, "middle") for tick in x.ticks(x_scale)]
    caption = _text(x.label, (left + WIDTH) / 2, bottom + 27, "middle")
    drawn = [_drawn(line, x_scale, y_scale) for line in reversed(series)]
    return _svg(label, bottom + 32, element("g", *lines, *ticks, caption), *drawn)


def _tail(name: str) -> str:
    """The last characters of a layer's name, which tell layers apart."""
    text = short(name)
    return text if len(text) <= 14 else f"...{text[-11:]}"


def key(slot: int) -> Node:
    """The mark of a series, for a legend."""
    mark = marker(slot, 7, 7)
    return element("svg", mark, viewBox="0 0 14 14", class_="key", aria_hidden="true")


def legend(series: Sequence[Series]) -> Node:
    """The names of series beside their marks."""
    items = []
    for line in series:
        name = f" {abbreviated(line.name, 100)}"
        items.append(element("li", key(line.slot), name, class_=line.classes, title=line.name))
    return element("ul", *items, class_="legend")
