"""What an option declares beside its type and default: help text, valid values and role."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass
from typing import Any

from ..errors import did_you_mean

MAX_NAME_BYTES = 200
FILE_NAME_RULE = (
    "must be one name: printable characters without / or \\, at most"
    f" {MAX_NAME_BYTES} bytes, and neither . nor .."
)


class Role(enum.Enum):
    """What an option decides. Each option has one role.

    Lists of option names are never written by hand: they are unions of roles, made by
    `schema.with_roles`. A new option therefore joins every list that its role belongs to.
    """

    ARCHITECTURE = "name of the network; a ticket stores it in its header"
    CLASSES = "number of classes; a ticket stores it in its header"
    NETWORK = "layers of the network and the size of its mask; checkpoints and tickets record them"
    SEARCH = "initialisation and training of scores or weights"
    DATA_SET = "which images are loaded; checkpoints and tickets record it"
    DATA_PATH = "where the images are on this machine"
    DATA_WORKERS = "how many processes load images on this machine"
    CHANNELS = "channels of the images; a trained network fixes them"
    BATCHES = "which training images are used, and how they are grouped into batches"
    SEED = "seed of all random draws"
    AUGMENTATION = "how AugMix or Gaussian noise changes an image"
    VIEWS = "which images are augmented, and how often"
    TEACHER_PATH = "where the network is on this machine whose predictions the search learns"
    SELECTION = "which images select the best epoch"
    RUN_NAME = "name of the run folder"
    OUTPUT_PATH = "where results are written on this machine"
    MACHINE = "device, reports and checkpoints; does not change the ticket"
    COMPATIBILITY = "accepted for configurations of the original research code; has no effect"


def is_file_name(value: Any) -> bool:
    """Whether `value` names an entry of a folder, rather than a path into or out of it."""
    if not isinstance(value, str) or value in ("", ".", ".."):
        return False
    has_separator = "/" in value or "\\" in value
    return not has_separator and value.isprintable() and len(value.encode()) <= MAX_NAME_BYTES


@dataclass(frozen=True)
class Rule:
    """Help and valid values of one option.

    Attributes:
        help: for `--help`.
        group: heading of the option in `--help`.
        role: decides which lists of options this one belongs to.
        choices: the valid values, if they can be listed.
        low, high: range of a number, inclusive; None leaves that side open.
        open_low: `low` itself is excluded.
        is_file_name: the value names a file or folder; see `is_file_name`.
        short: further flags, such as "-b".
    """

    help: str
    group: str
    role: Role
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    is_file_name: bool = False
    short: tuple[str, ...] = ()

    def violation(self, value: Any) -> str | None:
        """Why `value` is invalid, worded to follow "name = value: "; None if it is valid.

        `value` has the option's type already (see `values.coerce`).
        """
        if self.choices is not None and value not in self.choices:
            suggestion = did_you_mean(str(value), self.choices)
            return f"must be one of {', '.join(self.choices)}{suggestion}"
        if isinstance(value, str) and "\0" in value:
            return "must not contain a null character"
        if self.is_file_name and not is_file_name(value):
            return FILE_NAME_RULE
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not self._is_in_range(value):
            return f"must be {self._range_text()}"
        return None

    def _is_in_range(self, value: int | float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if self.low is not None and (value < self.low or (self.open_low and value == self.low)):
            return False
        return self.high is None or value <= self.high

    def _range_text(self) -> str:
        limits = []
        if self.low is not None:
            limits.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if self.high is not None:
            limits.append(f"at most {self.high:g}")
        return " and ".join(limits) or "a finite number"


def option(default: Any, help: str, group: str, role: Role, **rule: Any) -> Any:
    """A dataclass field of `schema.Config`; `rule`: further attributes of `Rule`."""
    return dataclasses.field(default=default, metadata={"rule": Rule(help, group, role, **rule)})
