"""The one exception for users' mistakes: its text is the whole message, and the command line ends
with exit code 2.
"""

from __future__ import annotations

import contextlib
import difflib
import operator
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend.

    The message is one line: what, which value, which rule, how to fix it.

    Attributes:
        told: another process says it already.
    """

    told = False


class TicketError(UserError):
    """The file is no ticket or deck that this program can read: damaged, truncated, hostile, or of
    a newer version.
    """


def integer(value: object, name: str) -> int:
    """A whole number as Python's own: also one of numpy's, but neither a truth value nor a float.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        with contextlib.suppress(TypeError):  # arrays of several numbers have an __index__, too
            return operator.index(value)
    raise UserError(f"{name} = {value!r:.80}: must be a whole number")


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 200 characters that can be shown."""
    return _printable(" ".join(str(error).split()))[:200] or type(error).__name__


def shown(value: object, most: int = 80) -> str:
    """A value from a file in a message: one line of characters that can be shown, `most` of them."""
    text = _printable(str(value))
    return text if len(text) <= most else f"{text[:most]}..."


def _printable(text: str) -> str:
    """The text as it is if all of it can be shown, else with escapes."""
    return text if text.isprintable() else repr(text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the nearest of `known`, whatever the case, or nothing where none
    is near.
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
