"""The sections about what is in a ticket: layers, bytes, filters, and the cards of a deck."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..deck.report import deck_report
from ..ticket import Ticket
from ..ticket.report import byte_parts, ticket_report
from .charts import Bar, Point, Series, dot_rows, legend, stacked_bars
from .entries import Entry
from .markup import Node, details, element, figure, heat_cell, heat_table, pairs, short, table
from .scales import Axis, byte_count

MOST_LAYERS = 120
"""Layers in a chart; the table has more."""
MOST_FILTERS, MOST_FILTER_WEIGHTS = 64, 6000
_LARGEST_LAYER = 1 << 22
"""Weights of a layer whose filters are drawn: its weight is held in memory."""


def layers_section(entries: Sequence[tuple[int, Entry]]) -> list[Node]:
    """The fraction kept of each layer, the networks laid over each other.

    `entries`: each with the number of the check box that hides it.
    """
    numbered = [(slot, *pair) for slot, pair in enumerate(entries) if pair[1].layers]
    if not numbered:
        return []
    names = list(dict.fromkeys(layer.layer for *_, entry in numbered for layer in entry.layers))
    drawn = names[:MOST_LAYERS]
    series = [_dots(slot, owner, entry, drawn) for slot, owner, entry in numbered]
    x = Axis("weights kept, %", low=0, high=100, least_span=4)
    svg = dot_rows("Weights kept in each layer, in percent", drawn, series, x)
    tables = [_layer_table(entry) for *_, entry in numbered]
    more = len(names) - len(drawn)
    note = f"The first {len(drawn)} of {len(names)} layers." if more else ""
    return [
        element(
            "div", figure("Weights kept in each layer", svg, legend(series), note), class_="grid"
        ),
        details("the numbers", *tables),
    ]


def _dots(slot: int, owner: int, entry: Entry, names: Sequence[str]) -> Series:
    rows = {name: row for row, name in enumerate(names)}
    points = [
        Point(
            layer.percent,
            rows[layer.layer],
            f"{entry.name}: {layer.layer}: {layer.kept:,} of {layer.weights:,}"
            f" ({layer.percent:.2f} %)",
            is_marked=True,
        )
        for layer in entry.layers
        if layer.layer in rows
    ]
    return Series(entry.name, slot, [points], is_joined=False, entry=owner)


def _layer_table(entry: Entry) -> Node:
    caption = element("h4", entry.name)
    if entry.ticket and entry.size:
        report = ticket_report(entry.ticket, entry.size)
        return element("div", caption, table(report.heads, report.layers, f"{entry.name}: layers"))
    rows = [
        [layer.layer, f"{layer.kept:,}", f"{layer.weights:,}", f"{layer.percent:.2f}"]
        for layer in entry.layers
    ]
    heads = ("layer", "kept", "weights", "kept %")
    return element("div", caption, table(heads, rows, f"{entry.name}: layers"))


def bytes_section(entries: Sequence[Entry]) -> list[Node]:
    """Where the bytes of each ticket go."""
    sized = [(entry, entry.ticket, entry.size) for entry in entries if entry.ticket and entry.size]
    if not sized:
        return []
    parts = [(entry, byte_parts(ticket, size or 0)) for entry, ticket, size in sized if ticket]
    bars = [Bar(entry.name, [*map(_as_floats, of.items())]) for entry, of in parts]
    svg = stacked_bars("Bytes of each ticket by part", bars, Axis("bytes", text=byte_count))
    names = list(parts[0][1])
    keys = legend([Series(name, slot) for slot, name in enumerate(names)])
    rows = [
        [entry.name, *(f"{value:,}" for value in of.values()), f"{sum(of.values()):,}"]
        for entry, of in parts
    ]
    totals = [
        element("div", element("h4", entry.name), pairs(_totals(ticket, size or 0), "the file"))
        for entry, ticket, size in sized
        if ticket
    ]
    heads = ["bytes", *names, "in all"]
    return [
        element("div", figure("Where the bytes of a ticket go", svg, keys), class_="grid"),
        details("the numbers", table(heads, rows, "bytes by part"), *totals),
    ]


def _as_floats(part: tuple[str, int]) -> tuple[str, float]:
    return part[0], max(0.0, float(part[1]))


def _totals(ticket: Ticket, size: int) -> list[tuple[str, str]]:
    return [(name.strip(), value) for name, value in ticket_report(ticket, size).totals]


# Filters


def filters_section(entries: Sequence[Entry]) -> list[Node]:
    """The filters of the first masked layer of each ticket."""
    figures = [
        picture
        for entry in entries
        if entry.ticket and entry.ticket.layers and (picture := _filters(entry, entry.ticket))
    ]
    if not figures:
        return []
    note = element(
        "ul",
        *(
            element("li", element("span", class_=f"box {kind}"), f" {text}")
            for kind, text in (("plus", "+ gain"), ("minus", "- gain"), ("pruned", "pruned"))
        ),
        class_="legend",
    )
    return [note, element("div", *figures, class_="grid")]


def _filters(entry: Entry, ticket: Ticket) -> Node | None:
    layer = ticket.layers[0]
    if layer.weights > _LARGEST_LAYER:
        return None
    tiles = filter_tiles(np.sign(ticket.weight(layer)), ticket.input_size)
    if tiles is None:
        return None
    columns = tiles.shape[0] if tiles.shape[0] < 8 else 8 * math.ceil(tiles.shape[0] / 64)
    per_filter = tiles.shape[1]
    shape = " x ".join(map(str, layer.shape))
    title = f"{short(entry.name)}: {layer.name}, {shape}"
    if tiles.size < layer.weights:
        title += f", the first {len(tiles)} filters and {per_filter} channels"
    label = (
        f"Signs of the weights of {layer.name}: {len(tiles)} filters, {per_filter} channels each"
    )
    svg = _tiles_svg(tiles.reshape(-1, *tiles.shape[2:]), columns * per_filter, label)
    return figure(title, svg)


def filter_tiles(
    signs: NDArray[np.float32], input_size: tuple[int, int, int] | None
) -> NDArray[np.float32] | None:
    """The first filters of a layer as tiles.

    Args:
        signs: -1, 0 or 1, of the weight's shape.
        input_size: (channels, height, width) of the images, by which the rows of a fully connected
            layer are shown as images.

    Returns:
        [filters, channels <= 3, height, width]; None if there is no picture of them.
    """
    if signs.ndim == 2 or (signs.ndim == 4 and signs.shape[2:] == (1, 1)):
        if not input_size or signs[0].size != math.prod(input_size):
            return None
        signs = signs.reshape(-1, *input_size)
    if signs.ndim != 4 or not signs.size:
        return None
    tiles = signs[:MOST_FILTERS, :3]
    per_filter = tiles[0].size
    return tiles[: max(1, MOST_FILTER_WEIGHTS // per_filter)] if per_filter <= 4096 else None


def _tiles_svg(tiles: NDArray[np.float32], columns: int, label: str) -> Node:
    """Tiles [tiles, height, width] in rows of `columns`, a square for each weight."""
    _, height, width = tiles.shape
    rows = math.ceil(len(tiles) / columns)
    frames: list[str] = []
    squares: dict[int, list[str]] = {1: [], -1: []}
    for place, tile in enumerate(tiles):
        left, top = place % columns * (width + 1), place // columns * (height + 1)
        frames.append(f"M{left} {top}h{width}v{height}h-{width}z")
        for y, x in np.argwhere(tile):
            squares[int(tile[y, x])].append(f"M{left + x} {top + y}h1v1h-1z")
    return element(
        "svg",
        element("path", d="".join(frames), class_="pruned"),
        element("path", d="".join(squares[1]), class_="plus"),
        element("path", d="".join(squares[-1]), class_="minus"),
        viewBox=f"0 0 {columns * (width + 1) - 1} {rows * (height + 1) - 1}",
        role="img",
        aria_label=label,
        class_="filters",
    )


# Decks


def deck_section(entry: Entry) -> list[Node]:
    """The cards of a deck, and how the gate weights them."""
    deck = entry.deck
    assert deck
    report = deck_report(deck, entry.size or 0)
    content = [element("h3", entry.name), table(report.heads, report.layers, "cards of the deck")]
    if deck.gate is None:
        return [*content, element("p", "No gate: the mean of the cards answers.", class_="note")]
    rows = [
        (f"images with {kind}", [_weight(weight) for weight in weights])
        for kind, weights in zip(deck.gate.kinds, deck.gate.worth, strict=True)
    ]
    heads = ["weight of the card", *deck.names]
    return [*content, heat_table(heads, rows, "weights of the cards by kind of image")]


def _weight(weight: float) -> Node:
    return heat_cell(f"{100 * weight:.0f} %", float(weight), f"{100 * weight:.2f} %")
