"""Scores on corrupted images: accuracy, mCE, NLL, and their files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, abbreviated, did_you_mean, one_line
from ..evaluation.counts import Counts
from .severities import EXTRA, GROUPS, NAMES, SEVERITIES
from .severities import display_name as display_name

Cell = tuple[str, int]
"""A corruption and a severity."""


_ALEXNET_ERRORS = (
    *(0.886428, 0.894468, 0.922640),  # noise
    *(0.819880, 0.826268, 0.785948, 0.798360),  # blur
    *(0.866816, 0.826572, 0.819324, 0.564592),  # weather
    *(0.853204, 0.646056, 0.717840, 0.606500),  # digital
)
ALEXNET = dict(zip(NAMES, _ALEXNET_ERRORS, strict=True))
"""AlexNet's error on ImageNet-C, mean over the five severities.

The mCE of ImageNet-C is relative to it, by the definition of its authors.
"""


@dataclass
class Scores:
    """How many images one classifier got right.

    Attributes:
        name: of the classifier.
        clean: counts on the images as they are.
        cells: counts by corruption and severity.
        source: where the corrupted images come from, for people.
    """

    name: str
    clean: Counts = field(default_factory=Counts)
    cells: dict[Cell, Counts] = field(default_factory=dict)
    source: str = ""

    @property
    def names(self) -> list[str]:
        """The corruptions that were measured."""
        return list(dict.fromkeys(name for name, _ in self.cells))

    def severities(self, name: str) -> dict[int, Counts]:
        """The counts of a corruption by severity."""
        return {severity: counts for (of, severity), counts in self.cells.items() if of == name}

    def of(self, name: str) -> float:
        """Accuracy in percent under a corruption: the mean over its severities."""
        accuracies = [counts.top1 for counts in self.severities(name).values()]
        return sum(accuracies) / len(accuracies)

    def mean(self, names: Iterable[str] = NAMES) -> float | None:
        """Accuracy in percent: the mean over those of `names` that were measured.

        It is None if none of them was measured.
        """
        accuracies = [self.of(name) for name in names if name in self.names]
        return sum(accuracies) / len(accuracies) if accuracies else None

    def mce(self, reference: Mapping[str, Mapping[int, float]]) -> float | None:
        """Mean corruption error in percent of the reference's.

        It is over those of the 15 corruptions that were measured: Hendrycks and Dietterich (ICLR
        2019), section 4. None if there are none, or if the reference makes no error under one of
        them (`without_errors`), because a ratio to it does not exist.

        Args:
            reference: errors in 0 .. 1 by corruption and severity, see `read_reference`.
        """
        sums = self._error_sums(reference)
        if not sums or self.without_errors(reference):
            return None
        return 100 * sum(own / of_reference for own, of_reference in sums.values()) / len(sums)

    def without_errors(self, reference: Mapping[str, Mapping[int, float]]) -> list[str]:
        """Those of the 15 corruptions under which the reference makes no error, where mCE is not
        defined.
        """
        sums = self._error_sums(reference)
        return [name for name, (_, of_reference) in sums.items() if of_reference < _NO_ERROR]

    def _error_sums(
        self, reference: Mapping[str, Mapping[int, float]]
    ) -> dict[str, tuple[float, float]]:
        """By corruption: the errors summed over severities, its own and the reference's."""
        sums = {}
        for name in (name for name in NAMES if name in self.names):
            by_severity = self.severities(name)
            own = sum(1 - counts.top1 / 100 for counts in by_severity.values())
            sums[name] = (own, sum(reference[name][severity] for severity in by_severity))
        return sums


_NO_ERROR = 1e-9
"""Far below the error of one image in any data set, and above the rounding of no error."""
IMAGENET_CLASSES = 1000


def choose_cells(names: str | None, severities: str | None) -> list[Cell]:
    """The corruptions and severities that a user names.

    Args:
        names: such as "fog,noise": corruptions and groups; "all" has all 19, None the 15 of the
            score.
        severities: such as "1,5"; None for all.

    Raises:
        UserError: no such corruption, group or severity.
    """
    chosen: list[str] = []
    for part in (names or ",".join(NAMES)).split(","):
        chosen += _corruptions(part)
    numbers = sorted({_severity(part) for part in (severities or "1,2,3,4,5").split(",")})
    return [(name, severity) for name in dict.fromkeys(chosen) for severity in numbers]


def _corruptions(word: str) -> tuple[str, ...]:
    """The corruptions that a word stands for."""
    known: dict[str, tuple[str, ...]] = {name: (name,) for name in NAMES + EXTRA}
    known |= {**GROUPS, "all": NAMES + EXTRA, "extra": EXTRA}
    if word.strip() not in known:
        available = f"there are {', '.join(NAMES + EXTRA)}; {', '.join(GROUPS)}, extra and all"
        suggestion = did_you_mean(word, known)
        raise UserError(
            f"--corruptions {word}: no such corruption or group{suggestion}; {available}"
        )
    return known[word.strip()]


def _severity(word: str) -> int:
    if word.strip() not in map(str, SEVERITIES):
        raise UserError(f"--severities {word}: must be 1, 2, 3, 4 or 5")
    return int(word)


def read_reference(
    name: str, cells: Sequence[Cell], classes: int, data_set: str | None = None
) -> dict[str, dict[int, float]]:
    """The errors that mCE is relative to.

    Args:
        name: "alexnet" (on ImageNet-C), or a JSON file of `as_json`, whose first result counts.
        cells: that are measured.
        classes: number of classes.
        data_set: a value of the option `set`; None: unknown.

    Returns:
        Errors in 0 .. 1 by corruption and severity.

    Raises:
        UserError: no such file, it lacks some of the cells, or is of other data.
    """
    wanted: dict[str, list[int]] = {}
    for corruption, severity in cells:
        if corruption in NAMES:
            wanted.setdefault(corruption, []).append(severity)
    if name == "alexnet":
        return _alexnet(wanted, classes)
    return _read_errors(name, wanted, {"set": data_set, "classes": classes})


def recorded_facts(path: str) -> dict[str, Any]:
    """What a file of `as_json` records beside its results; empty where it cannot be read."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alexnet(wanted: Mapping[str, list[int]], classes: int) -> dict[str, dict[int, float]]:
    if classes != IMAGENET_CLASSES:
        raise UserError(
            f"--reference alexnet: its errors are those on ImageNet-C, and there are {classes}"
            " classes here"
        )
    if any(severities != list(SEVERITIES) for severities in wanted.values()):
        raise UserError(
            "--reference alexnet: its errors are over all five severities: leave out --severities"
        )
    return {name: dict.fromkeys(SEVERITIES, ALEXNET[name]) for name in wanted}


def _read_errors(
    path: str, wanted: Mapping[str, list[int]], facts: Mapping[str, Any]
) -> dict[str, dict[int, float]]:
    recorded_here = recorded_facts(path)
    for key, here in facts.items():
        there = recorded_here.get(key)
        if here is not None and there is not None and there != here:
            raise UserError(
                f"--reference {path}: was measured on other data: {key} = {abbreviated(there)}, and"
                f" here {key} = {here}; measure the reference on the same images"
            )
    not_ours = UserError(f"--reference {path}: not a file that biprop robustness wrote")
    try:
        text = Path(path).read_text(encoding="utf-8")
        recorded = json.loads(text)["results"][0]["corruptions"]
        errors = {name: _errors(recorded[name], numbers) for name, numbers in wanted.items()}
    except OSError as e:
        raise UserError(
            f"--reference {path}: cannot be read: {e.strerror}; or pass alexnet"
        ) from None
    except KeyError as e:
        raise UserError(
            f"--reference {path}: has no {one_line(e)}: measure it with the same corruptions and"
            " severities"
        ) from None
    except (ValueError, TypeError, IndexError, AttributeError):
        raise not_ours from None
    if not all(math.isfinite(error) for row in errors.values() for error in row.values()):
        raise not_ours
    return errors


def _errors(recorded: Any, severities: Iterable[int]) -> dict[int, float]:
    """Errors in 0 .. 1 by severity, of the accuracies of a corruption in a file of `as_json`."""
    return {number: 1 - float(recorded[str(number)]["accuracy"]) / 100 for number in severities}


def as_json(
    scores: Sequence[Scores],
    about: Mapping[str, Any],
    reference: Mapping[str, Mapping[int, float]] | None,
) -> dict[str, Any]:
    """All results, for programs; `read_reference` reads them.

    Args:
        scores: of each answer.
        about: further entries, such as what was measured.
        reference: errors that mCE is relative to; None leaves mCE out.
    """
    return {**about, "results": [_as_json(of_answer, reference) for of_answer in scores]}


def _as_json(scores: Scores, reference: Mapping[str, Mapping[int, float]] | None) -> dict[str, Any]:
    return {
        "name": scores.name,
        "clean": _counted(scores.clean),
        "mean": _rounded(scores.mean()),
        "groups": {group: _rounded(scores.mean(names)) for group, names in GROUPS.items()},
        "mce": _rounded(scores.mce(reference)) if reference else None,
        "corruptions": {name: _severities(scores, name) for name in scores.names},
    }


def _severities(scores: Scores, name: str) -> dict[str, dict[str, Any]]:
    by_severity = scores.severities(name)
    return {str(severity): _counted(counts) for severity, counts in by_severity.items()}


def _counted(counts: Counts) -> dict[str, Any]:
    return {"right": counts.right, "images": counts.images, "accuracy": round(counts.top1, 4)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def as_rows(scores: Sequence[Scores]) -> list[list[str]]:
    """A line for each count, with a head, for CSV files.

    Clean images are the corruption "none" of severity 0.
    """
    rows = [["name", "corruption", "severity", "right", "images", "accuracy"]]
    for of_answer in scores:
        cells = {("none", 0): of_answer.clean, **of_answer.cells}
        rows += [_as_row(of_answer.name, cell, counts) for cell, counts in cells.items()]
    return rows


def _as_row(name: str, cell: Cell, counts: Counts) -> list[str]:
    corruption, severity = cell
    numbers = [str(severity), str(counts.right), str(counts.images)]
    return [name, corruption, *numbers, f"{counts.top1:.4f}"]
