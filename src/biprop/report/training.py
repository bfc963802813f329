"""The section with the curves of searches: loss, accuracy and fraction kept over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .charts import Point, Series, chart
from .entries import Entry, number
from .markup import Node, details, element, figure, table
from .scales import Axis

MOST_EPOCHS = 80
"""Epochs of a run that are drawn and listed; of more, evenly spaced ones, the best and the last."""

_SPLITS = ("validation", "train")


def section(entries: Sequence[Entry]) -> list[Node]:
    """The charts of all runs with curves, laid over each other."""
    runs = [(slot, entry) for slot, entry in enumerate(entries) if entry.epochs]
    if not runs:
        return []
    charts = [
        _chart(runs, "loss", Axis("loss")),
        _chart(runs, "top1", Axis("accuracy, %", low=0, high=100)),
        _density_chart(runs),
    ]
    figures = element("div", *charts, class_="grid")
    measured_on = " or ".join(sorted({entry.measured_on for _, entry in runs}, reverse=True))
    note = f"Solid: {measured_on} images. Dashed: training images. A mark: the epoch that was kept."
    tables = [_table(entry) for _, entry in runs]
    return [element("p", note, class_="note"), figures, details("the numbers", *tables)]


def plotted_epochs(entry: Entry, most: int = MOST_EPOCHS) -> list[Mapping[str, Any]]:
    """The epochs of a run that are drawn."""
    every = -(-len(entry.epochs) // most)
    last = len(entry.epochs) - 1
    return [
        line
        for place, line in enumerate(entry.epochs)
        if place % every == 0 or place == last or line["epoch"] == entry.best_epoch
    ]


def _chart(runs: Sequence[tuple[int, Entry]], quantity: str, y: Axis) -> Node | None:
    series = [_series(slot, entry, split, quantity) for slot, entry in runs for split in _SPLITS]
    name = "Loss" if quantity == "loss" else "Accuracy"
    values = [point.y for line in series for point in line.points]
    if quantity == "loss" and values and max(values) > 100 * min(values) > 0:
        y = replace(y, is_log=True)  # a first epoch may have a loss of hundreds
    label = f"{name} over epochs, {len(runs)} runs; the numbers are in the table below"
    svg = chart(label, series, Axis("epoch", whole=True), y)
    return figure(f"{name} over epochs", svg or element("p", "no finite values", class_="note"))


def _series(slot: int, entry: Entry, split: str, quantity: str) -> Series:
    def point(line: Mapping[str, Any], value: float) -> Point:
        epoch = line["epoch"]
        is_best = split == "validation" and epoch == entry.best_epoch
        images = "training" if split == "train" else entry.measured_on
        title = f"{entry.name}: epoch {epoch}, {images} {quantity} {value:.4g}"
        return Point(epoch, value, title + (", best" if is_best else ""), is_marked=is_best)

    lines: list[list[Point]] = [[]]
    for line in plotted_epochs(entry):
        value, epoch = number(line, f"{split}/{quantity}"), number(line, "epoch")
        if value is None or epoch is None:
            lines.append([])
        else:
            lines[-1].append(point(line, value))
    whole = [line for line in lines if line]
    return Series(entry.name, slot, whole, is_dashed=split == "train", entry=slot)


def _density_chart(runs: Sequence[tuple[int, Entry]]) -> Node | None:
    """The fraction kept over epochs, where it changes (global pruning)."""
    series = []
    for slot, entry in runs:
        pairs = [(number(line, "epoch"), number(line, "density")) for line in plotted_epochs(entry)]
        points = [
            Point(
                epoch, 100 * density, f"{entry.name}: epoch {epoch:g}, kept {100 * density:.4g} %"
            )
            for epoch, density in pairs
            if epoch is not None and density is not None
        ]
        if len({point.y for point in points}) > 1:
            series.append(Series(entry.name, slot, [points], entry=slot))
    if not series:
        return None
    y = Axis("weights kept, %", low=0, high=100)
    svg = chart("Weights kept over epochs, in percent", series, Axis("epoch", whole=True), y)
    return figure("Weights kept over epochs", svg)


_COLUMNS = {
    "train/loss": "train loss",
    "train/top1": "train, %",
    "validation/loss": "{} loss",
    "validation/top1": "{}, %",
    "lr": "learning rate",
    "seconds": "seconds",
}


def _table(entry: Entry) -> Node:
    lines = plotted_epochs(entry)
    columns = {key: head for key, head in _COLUMNS.items() if any(key in line for line in lines)}
    rows = [[_epoch(entry, line), *(_cell(line, key) for key in columns)] for line in lines]
    heads = ["epoch", *(head.format(entry.measured_on) for head in columns.values())]
    caption = element("h4", entry.name)
    return element("div", caption, table(heads, rows, f"epochs of {entry.name}"))


def _epoch(entry: Entry, line: Mapping[str, Any]) -> str:
    return f"{line['epoch']}{' (best)' if line['epoch'] == entry.best_epoch else ''}"


def _cell(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:20]
