"""Names of classes, layers and cards: which are valid in a file, and how others are escaped."""

from __future__ import annotations

from typing import Any

MAX_CHARACTERS = 1000


def is_name(value: Any) -> bool:
    """Whether `value` is valid as a name in a ticket or a deck.

    Valid names are printable texts (`str.isprintable`) of at most `MAX_CHARACTERS`.
    """
    return isinstance(value, str) and value.isprintable() and len(value) <= MAX_CHARACTERS


def escaped(text: str) -> str:
    r"""The text with unprintable characters as Python's escapes: a no-break space becomes \xa0."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
