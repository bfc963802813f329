"""Scores on corrupted images: accuracy, mCE, NLL, and their files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, did_you_mean, one_line
from ..evaluation.counts import Counts
from .severities import EXTRA, GROUPS, NAMES, SEVERITIES

Cell = tuple[str, int]
"""A corruption and a severity."""


ALEXNET = dict(
    zip(
        NAMES,
        (0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592, 0.853204,
         0.646056, 0.717840, 0.606500),
        strict=True,
    )
)  # fmt: skip
"""AlexNet's error on ImageNet-C, mean over the five severities: what mCE of ImageNet-C is relative
to, by its authors.
"""


@dataclass
class Scores:
    """What one classifier got right.

    Attributes:
        name: of the classifier.
        clean: counts on the images as they are.
        cells: counts by corruption and severity.
    """

    name: str
    clean: Counts = field(default_factory=Counts)
    cells: dict[Cell, Counts] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The corruptions that were measured."""
        return list(dict.fromkeys(name for name, _ in self.cells))

    def of(self, name: str) -> float:
        """Accuracy in percent under a corruption: the mean over its severities."""
        found = [counts.top1 for (of, _), counts in self.cells.items() if of == name]
        return sum(found) / len(found)

    def mean(self, names: Iterable[str] = NAMES) -> float | None:
        """Accuracy in percent: the mean over those of `names` that were measured; None if there are
        none.
        """
        found = [self.of(name) for name in names if name in self.names]
        return sum(found) / len(found) if found else None

    def mce(self, reference: Mapping[str, Mapping[int, float]]) -> float | None:
        """Mean corruption error in percent of the reference's, over those of the 15 that were
        measured.

        Args:
            reference: errors in 0 .. 1 by corruption and severity, see `read_reference`.
        """
        ratios = []
        for name in (one for one in NAMES if one in self.names):
            own = [
                (1 - counts.top1 / 100, reference[name][severity])
                for (of, severity), counts in self.cells.items()
                if of == name
            ]
            ratios.append(
                sum(error for error, _ in own) / max(1e-9, sum(error for _, error in own))
            )
        return 100 * sum(ratios) / len(ratios) if ratios else None


IMAGENET_CLASSES = 1000


def choose_cells(names: str | None, severities: str | None) -> list[Cell]:
    """The corruptions and severities that a user names: "fog,noise" (corruptions and groups; "all"
    has all 19), "1,5".

    Raises:
        UserError: no such corruption, group or severity.
    """
    known = {
        **{name: (name,) for name in NAMES + EXTRA},
        **GROUPS,
        "all": NAMES + EXTRA,
        "extra": EXTRA,
    }
    chosen: list[str] = []
    for part in (names or ",".join(NAMES)).split(","):
        if part.strip() not in known:
            there = f"there are {', '.join(NAMES + EXTRA)}; {', '.join(GROUPS)}, extra and all"
            raise UserError(
                f"--corruptions {part}: no such corruption or group{did_you_mean(part, known)};"
                f" {there}"
            )
        chosen += known[part.strip()]
    numbers = []
    for part in (severities or "1,2,3,4,5").split(","):
        if part.strip() not in map(str, SEVERITIES):
            raise UserError(f"--severities {part}: must be 1, 2, 3, 4 or 5")
        numbers.append(int(part))
    return [(name, severity) for name in dict.fromkeys(chosen) for severity in sorted(set(numbers))]


def read_reference(name: str, cells: Sequence[Cell], classes: int) -> dict[str, dict[int, float]]:
    """Errors in 0 .. 1 by corruption and severity: "alexnet" (on ImageNet-C), or the first of a
    JSON file that `as_json` gave.

    Raises:
        UserError: no such file, or it lacks what was measured.
    """
    wanted: dict[str, list[int]] = {}
    for of, severity in cells:
        if of in NAMES:
            wanted.setdefault(of, []).append(severity)
    if name == "alexnet":
        if classes != IMAGENET_CLASSES:
            raise UserError(
                f"--reference alexnet: its errors are those on ImageNet-C, and there are {classes}"
                " classes here"
            )
        if any(severities != list(SEVERITIES) for severities in wanted.values()):
            raise UserError(
                "--reference alexnet: its errors are over all five severities: leave out"
                " --severities"
            )
        return {of: dict.fromkeys(SEVERITIES, ALEXNET[of]) for of in wanted}
    path = Path(name)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["results"][0]["corruptions"]
        found = {
            of: {s: 1 - float(told[of][str(s)]["accuracy"]) / 100 for s in severities}
            for of, severities in wanted.items()
        }
    except OSError as e:
        raise UserError(
            f"--reference {name}: cannot be read: {e.strerror}; or pass alexnet"
        ) from None
    except KeyError as e:
        raise UserError(
            f"--reference {name}: has no {one_line(e)}: measure it with the same corruptions and"
            " severities"
        ) from None
    except (ValueError, TypeError, IndexError, AttributeError):
        raise UserError(f"--reference {name}: not a file that biprop robustness wrote") from None
    if not all(math.isfinite(error) for errors in found.values() for error in errors.values()):
        raise UserError(f"--reference {name}: not a file that biprop robustness wrote")
    return found


def as_json(
    scores: Sequence[Scores],
    about: Mapping[str, Any],
    reference: Mapping[str, Mapping[int, float]] | None,
) -> dict[str, Any]:
    """Everything, for programs; `read_reference` reads it."""

    def counted(counts: Counts) -> dict[str, Any]:
        return {"right": counts.right, "images": counts.images, "accuracy": round(counts.top1, 4)}

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        **about,
        "results": [
            {
                "name": one.name,
                "clean": counted(one.clean),
                "mean": rounded(one.mean()),
                "groups": {group: rounded(one.mean(names)) for group, names in GROUPS.items()},
                "mce": rounded(one.mce(reference)) if reference else None,
                "corruptions": {
                    name: {
                        str(severity): counted(counts)
                        for (of, severity), counts in one.cells.items()
                        if of == name
                    }
                    for name in one.names
                },
            }
            for one in scores
        ],
    }


def as_rows(scores: Sequence[Scores]) -> list[list[str]]:
    """A line for each count, with a head, for CSV files; clean images are the corruption "none" of
    severity 0.
    """
    rows = [["name", "corruption", "severity", "right", "images", "accuracy"]]
    for one in scores:
        for (name, severity), counts in {("none", 0): one.clean, **one.cells}.items():
            rows.append(
                [
                    one.name,
                    name,
                    str(severity),
                    str(counts.right),
                    str(counts.images),
                    f"{counts.top1:.4f}",
                ]
            )
    return rows


def in_words(name: str) -> str:
    """A corruption as people write it."""
    return (
        name.replace("_", " ")
        .replace("jpeg", "JPEG")
        .removesuffix(" compression")
        .removesuffix(" transform")
    )
