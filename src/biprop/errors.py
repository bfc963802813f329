"""Exceptions for errors that users can fix, and helpers for their messages."""

from __future__ import annotations

import contextlib
import difflib
import operator
from collections.abc import Iterable


class UserError(ValueError):
    """An error in what the user passed: an option, a file, data.

    The message is one line: what is wrong, its value, the rule, and how to fix it. The command line
    prints it without a traceback, and ends with exit code 2.

    Attributes:
        is_reported: another process reports the error, so that this one does not.
    """

    is_reported = False


class TicketError(UserError):
    """A ticket or deck cannot be read: it is damaged, truncated, malicious, of a newer version, or
    another kind of file.
    """


def integer(value: object, name: str) -> int:
    """`value` as an int, if it is an int or a NumPy integer; bools and floats are refused.

    Args:
        value: of any type.
        name: of the argument, for the message.

    Raises:
        UserError: `value` is not an integer.
    """
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        with contextlib.suppress(TypeError):  # arrays of several numbers have an __index__ as well
            return operator.index(value)
    raise UserError(f"{name} = {value!r:.80}: must be a whole number")


def one_line(error: BaseException) -> str:
    """The text of an exception as one printable line of at most 200 characters."""
    return _printable(" ".join(str(error).split()))[:200] or type(error).__name__


def abbreviated(value: object, most: int = 80) -> str:
    """An untrusted value, for a message: one printable line, cut off after `most` characters."""
    text = _printable(str(value))
    return text if len(text) <= most else f"{text[:most]}..."


def _printable(text: str) -> str:
    """The text itself if it is printable, else its repr with escapes."""
    return text if text.isprintable() else repr(text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelled word: "; did you mean 'x'?", or "" if no known word is similar.

    Case is ignored.
    """
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[matches[0]]!r}?" if matches else ""
