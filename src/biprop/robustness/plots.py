"""Plots of results, by matplotlib: `pip install 'biprop[plots]'`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .scores import Scores


COLOURS = ("#33629a", "#c8792b", "#4c9c7b", "#8d5ba6", "#b0485a", "#7a7a7a")
"""Of classifiers, or of other series."""


def is_installed() -> bool:
    """Whether matplotlib is installed; it is not loaded."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def corruption_bars(scores: Sequence[Scores], title: str, path: str | Path) -> None:
    """Plot accuracies under corruptions.

    Each corruption has a bar, of the mean accuracy over severities, and a dot for each severity;
    lines show the accuracy on clean images.

    Args:
        scores: of one classifier or more.
        title: above the plot.
        path: of the PNG file.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    names = scores[0].names
    wide = 1 + 0.45 * len(names) * (1 + 0.12 * (len(scores) - 1))
    figure = Figure(figsize=(max(5.0, wide), 4.4), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    width = 0.8 / len(scores)
    for number, of_classifier in enumerate(scores):
        colour = COLOURS[number % len(COLOURS)]
        _add_bars(axes, of_classifier, names, -0.4 + width * (number + 0.5), width, colour)
    _label(axes, names, title)
    columns = 3 if wide > 7 else 1
    figure.legend(fontsize="small", frameon=False, ncols=columns, loc="outside upper left")
    save(figure, Path(path), "png")


def _add_bars(
    axes: Axes, scores: Scores, names: Sequence[str], offset: float, width: float, colour: str
) -> None:
    """Add the bars and dots of one classifier, shifted by `offset` from the ticks."""
    mean = scores.mean(names)
    assert mean is not None
    label = f"{scores.name}: {mean:.1f} % (clean {scores.clean.top1:.1f} %)"
    heights = [scores.of(name) for name in names]
    places = [place + offset for place in range(len(names))]
    axes.bar(places, heights, width * 0.92, color=colour, label=label)
    x = [places[names.index(name)] for name, _ in scores.cells]
    y = [counts.top1 for counts in scores.cells.values()]
    axes.plot(x, y, ".", color="black", alpha=0.45, markersize=max(1.5, 5 * width))
    axes.axhline(scores.clean.top1, color=colour, linewidth=0.8, linestyle="--")


def _label(axes: Axes, names: Sequence[str], title: str) -> None:
    from .severities import display_name

    labels = [display_name(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize="medium", loc="left")


def save(figure: Figure, path: Path, format: str) -> None:
    """Write a figure, by an atomic write. The same figure gives the same bytes each time.

    Args:
        figure: of matplotlib.
        path: of the file.
        format: "png", "pdf" or "svg". The text of a PDF file is text, in TrueType fonts.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib import rc_context

    content = io.BytesIO()
    no_date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(format)
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "biprop"}):
        figure.savefig(content, format=format, metadata=no_date)
    try:
        with atomic_write(path) as file:
            file.write(content.getvalue())
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None
