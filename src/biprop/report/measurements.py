"""The file that `biprop robustness` writes, read back for a heat map."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..robustness.severities import EXTRA, NAMES, SEVERITIES
from .scales import drawable

MOST_BYTES = 1 << 24
"""Largest file that is read."""


@dataclass(frozen=True)
class Answer:
    """Accuracies of one classifier, in percent.

    Attributes:
        name: of the classifier.
        clean: on images as they are; None if it is not recorded.
        cells: by corruption and severity; those of known corruptions only.
    """

    name: str
    clean: float | None
    cells: dict[tuple[str, int], float]

    def mean(self, corruption: str) -> float | None:
        """Mean over the severities of a corruption; None if none was measured."""
        values = [value for (name, _), value in self.cells.items() if name == corruption]
        return sum(values) / len(values) if values else None

    @property
    def corruptions(self) -> list[str]:
        """Those that were measured, in the benchmark's order."""
        return [name for name in NAMES + EXTRA if self.mean(name) is not None]

    def overall(self) -> float | None:
        """Mean over those of the benchmark's 15 corruptions that were measured."""
        means = [mean for name in NAMES if (mean := self.mean(name)) is not None]
        return sum(means) / len(means) if means else None


@dataclass(frozen=True)
class Measured:
    """A measurement: of one classifier, or of a deck and its cards.

    Attributes:
        path: of its file.
        about: where the images are from, in words.
        answers: one or more.
    """

    path: Path
    about: str
    answers: list[Answer]


def beside(path: Path) -> Measured | None:
    """The measurement in a file that may be missing; see `read`."""
    return read(path) if path.is_file() else None


def read(path: Path) -> Measured:
    """The measurement in a file of `biprop robustness`.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        answers = [_answer(result) for result in record["results"]]
        about = record.get("images", "")
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a file that biprop robustness wrote") from None
    if not answers or not any(answer.cells for answer in answers):
        raise UserError(f"{path}: has no accuracies under corruptions")
    return Measured(path, about if isinstance(about, str) else "", answers)


def _answer(result: Mapping[str, Any]) -> Answer:
    cells = {}
    for corruption in NAMES + EXTRA:
        by_severity = result["corruptions"].get(corruption, {})
        for severity in SEVERITIES:
            value = _percent(by_severity.get(str(severity), {}))
            if value is not None:
                cells[corruption, severity] = value
    return Answer(str(result["name"]), _percent(result.get("clean", {})), cells)


def _percent(record: Mapping[str, Any]) -> float | None:
    value = drawable(record.get("accuracy"))
    return value if value is not None and 0 <= value <= 100 else None
