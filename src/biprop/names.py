"""Names of classes, layers and cards: which are valid in a file, and how others are escaped; names
of the parts of a data set; what names of tickets and decks end with.
"""

from __future__ import annotations

from typing import Any

MAX_CHARACTERS = 1000

TICKET_SUFFIX, DECK_SUFFIX = ".mpt", ".deck"

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PART_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
"""Names of parts, in lower case.

Any case is recognised, and a common prefix or suffix, as in seg_train and seg_test.
"""


def is_name(value: Any) -> bool:
    """Whether `value` is valid as a name in a ticket or a deck.

    Valid names are printable texts (`str.isprintable`) of at most `MAX_CHARACTERS`.
    """
    return isinstance(value, str) and value.isprintable() and len(value) <= MAX_CHARACTERS


def escaped(text: str) -> str:
    r"""The text with unprintable characters as Python's escapes: a no-break space becomes \xa0."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def part_of(name: str) -> str | None:
    """The part that a name means, whatever its case, or None."""
    return PART_NAMES.get(name.lower())
