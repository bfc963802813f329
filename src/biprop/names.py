"""Names of classes, layers and cards: which a file may hold, and how others are written.

Imports nothing.
"""

from __future__ import annotations

from typing import Any

MOST_CHARACTERS = 1000


def is_name(value: Any) -> bool:
    """Whether a ticket or a deck may hold it: printable text (`str.isprintable`) of at most
    `MOST_CHARACTERS`.
    """
    return isinstance(value, str) and value.isprintable() and len(value) <= MOST_CHARACTERS


def escaped(text: str) -> str:
    r"""The text with everything that is not printable written as Python writes it: a no-break space
    becomes \xa0.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
