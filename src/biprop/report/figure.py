"""A figure for a paper, by matplotlib: `pip install 'biprop[plots]'`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..robustness.plots import COLOURS, is_installed, save
from .results_table import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png", ".svg")
_MARKS = "os^Dv*PX"
LEAST_GAP = 0.06
"""Share of the x axis that two labels of ticks need between them."""
_MOST_INSIDE = 4
"""Curves whose legend is inside the axes."""
_LINES = ("-", "--", "-.", ":")


def check(path: Path) -> str:
    """The format of a figure: "pdf", "png" or "svg", by the suffix of its file.

    Raises:
        UserError: another suffix, or matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: the name of a figure ends with {', '.join(FORMATS)}")
    if not is_installed():
        raise UserError(
            "matplotlib is not installed, which draws figures: pip install 'biprop[plots]'"
        )
    return path.suffix.lower().removeprefix(".")


def draw(
    curves: Sequence[Curve],
    labels: Sequence[str],
    axes_names: tuple[str, str],
    legend: str,
    path: Path,
    is_log: bool = False,
    title: str = "",
) -> None:
    """Draw curves with error bars, and write the figure.

    Args:
        curves: one or more.
        labels: of the places 0, 1, ... on the x axis; empty where x is a number.
        axes_names: of the x and the y axis.
        legend: title of the legend; empty: no legend.
        path: of the file, see `check`.
        is_log: the x axis is logarithmic.
        title: above the figure; empty: none.

    Raises:
        UserError: it cannot be written, or x is not above 0 and `is_log`.
    """
    format = check(path)
    if is_log and (labels or any(x <= 0 for curve in curves for x in curve.x)):
        raise UserError(f"--log-x: {axes_names[0]} must be a number above 0 in every row")
    from matplotlib import figure as figures  # not pyplot, which looks for a screen

    figure = figures.Figure(figsize=_size(len(curves)), layout="constrained", dpi=200)
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        _add(axes, curve, number)
    _label(axes, labels, axes_names, title)
    if is_log:
        _make_logarithmic(axes, curves)
    if legend:
        _add_legend(figure, axes, _as_text(legend), is_beside=len(curves) > _MOST_INSIDE)
    save(figure, path, format)


def _size(curves: int) -> tuple[float, float]:
    """Width and height in inches: a legend of many curves stands beside the axes."""
    if curves <= _MOST_INSIDE:
        return 4.8, 3.4
    return 6.2, max(3.4, 0.6 + 0.19 * curves)


def _add(axes: Axes, curve: Curve, number: int) -> None:
    has_spread = any(curve.spread)
    axes.errorbar(
        curve.x,
        curve.mean,
        yerr=curve.spread if has_spread else None,
        label=_as_text(curve.name) or "(empty)",
        color=COLOURS[number % len(COLOURS)],
        marker=_MARKS[number % len(_MARKS)],
        linestyle=_LINES[number // len(COLOURS) % len(_LINES)],
        markersize=4.5,
        linewidth=1.3,
        capsize=2.5,
    )


def _add_legend(figure: Figure, axes: Axes, title: str, is_beside: bool) -> None:
    """A legend beside the axes, or inside them where it hides least."""
    style: dict[str, Any] = {"fontsize": "small", "title_fontsize": "small", "frameon": False}
    if is_beside:
        figure.legend(title=title, loc="outside right upper", **style)
    else:
        axes.legend(title=title, **style)


def _label(axes: Axes, labels: Sequence[str], axes_names: tuple[str, str], title: str) -> None:
    if labels:
        texts = [*map(_as_text, labels)]
        axes.set_xticks(range(len(labels)), texts, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel(_as_text(axes_names[0]))
    axes.set_ylabel(_as_text(axes_names[1]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_title(_as_text(title), fontsize="medium")


def _make_logarithmic(axes: Axes, curves: Sequence[Curve]) -> None:
    """A logarithmic x axis, with ticks at the values themselves where they are few and apart."""
    axes.set_xscale("log")
    values = sorted({x for curve in curves for x in curve.x})
    gap = LEAST_GAP * math.log(values[-1] / values[0])
    are_apart = all(math.log(b / a) >= gap for a, b in itertools.pairwise(values))
    if len(values) <= 8 and are_apart:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()


def _as_text(name: str) -> str:
    """A name of which matplotlib makes no formula."""
    return name.replace("$", r"\$")
