"""The section with accuracies under corruptions, as heat maps."""

from __future__ import annotations

from collections.abc import Sequence

from ..robustness.severities import SEVERITIES, display_name
from .markup import Node, element, figure, heat_cell, heat_table
from .measurements import Answer, Measured

MOST_MAPS = 12
"""Heat maps of single classifiers."""


def section(measured: Sequence[tuple[str, Measured]]) -> list[Node]:
    """Heat maps of measurements, each with a title."""
    answers = [(title, answer) for title, of in measured for answer in of.answers]
    values = [value for _, answer in answers for value in answer.cells.values()]
    if not values:
        return []
    low = min(90.0, 10 * (min(values) // 10))
    note = (
        f"Accuracy in percent; pale: {low:.0f} % or less, dark: 100 %. The mean at the bottom is"
        " over the benchmark's 15 corruptions, or those of them that were measured."
    )
    parts = [element("p", note, class_="note")]
    if len(answers) > 1:
        parts.append(figure("Mean over severities", _together([a for _, a in answers], low)))
    maps = [figure(_title(title, of), _by_severity(of, low)) for title, of in answers[:MOST_MAPS]]
    return [*parts, element("div", *maps, class_="grid")]


def _title(title: str, answer: Answer) -> str:
    return title if answer.name in title else f"{title}: {answer.name}"


def _by_severity(answer: Answer, low: float) -> Node:
    """A row per corruption, a column per severity."""
    severities = [s for s in SEVERITIES if any(cell[1] == s for cell in answer.cells)]
    rows = [("no corruption", [*_blanks(severities), _cell(answer.clean, low, "no corruption")])]
    for name in answer.corruptions:
        cells = [
            _cell(answer.cells.get((name, severity)), low, f"{name}, severity {severity}")
            for severity in severities
        ]
        rows.append((display_name(name), [*cells, _cell(answer.mean(name), low, f"{name}, mean")]))
    rows.append(("mean", [*_blanks(severities), _cell(answer.overall(), low, "mean")]))
    heads = ["severity", *map(str, severities), "mean"]
    return heat_table(heads, rows, f"accuracy of {answer.name} under corruptions")


def _blanks(severities: Sequence[int]) -> list[Node]:
    return [element("td") for _ in severities]


def _together(answers: Sequence[Answer], low: float) -> Node:
    """A row per corruption, a column per classifier."""
    names = list(dict.fromkeys(name for answer in answers for name in answer.corruptions))
    rows = [("no corruption", [_cell(a.clean, low, f"{a.name}, clean") for a in answers])]
    for name in names:
        cells = [_cell(answer.mean(name), low, f"{answer.name}, {name}") for answer in answers]
        rows.append((display_name(name), cells))
    rows.append(("mean", [_cell(a.overall(), low, f"{a.name}, mean") for a in answers]))
    heads = ["corruption", *(answer.name for answer in answers)]
    return heat_table(heads, rows, "accuracy under corruptions, mean over severities")


def _cell(value: float | None, low: float, title: str) -> Node:
    if value is None:
        return heat_cell("", None, f"{title}: not measured")
    share = (value - low) / (100 - low)
    return heat_cell(f"{value:.0f}", share, f"{title}: {value:.2f} %")
