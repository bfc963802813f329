"""Pictures of results, by matplotlib: `pip install 'biprop[plots]'`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import replacing

if TYPE_CHECKING:
    from .scores import Scores


_COLOURS = ("#33629a", "#c8792b", "#4c9c7b", "#8d5ba6", "#b0485a", "#7a7a7a")


def is_installed() -> bool:
    """Whether there is a matplotlib."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def corruption_bars(scores: Sequence[Scores], title: str, path: str | Path) -> None:
    """A bar a corruption, of the mean accuracy over severities, dots for the severities, and lines
    for clean images.

    Args:
        scores: of one classifier or more.
        title: above it.
        path: of the PNG file.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    from .scores import in_words

    names = scores[0].names
    wide = 1 + 0.45 * len(names) * (1 + 0.12 * (len(scores) - 1))
    figure = Figure(figsize=(max(5.0, wide), 4.4), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    width = 0.8 / len(scores)
    for number, one in enumerate(scores):
        colour = _COLOURS[number % len(_COLOURS)]
        left = [place - 0.4 + width * (number + 0.5) for place in range(len(names))]
        mean = one.mean(names)
        assert mean is not None
        label = f"{one.name}: {mean:.1f} % (clean {one.clean.top1:.1f} %)"
        axes.bar(left, [one.of(name) for name in names], width * 0.92, color=colour, label=label)
        dots = [(left[names.index(name)], counts.top1) for (name, _), counts in one.cells.items()]
        axes.plot(
            *zip(*dots, strict=True), ".", color="black", alpha=0.45, markersize=max(1.5, 5 * width)
        )
        axes.axhline(one.clean.top1, color=colour, linewidth=0.8, linestyle="--")
    axes.set_xticks(
        range(len(names)),
        [in_words(name) for name in names],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize="medium", loc="left")
    figure.legend(
        fontsize="small", frameon=False, ncols=3 if wide > 7 else 1, loc="outside upper left"
    )
    content = io.BytesIO()
    figure.savefig(content, format="png")
    try:
        with replacing(Path(path)) as file:
            file.write(content.getvalue())
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from None
