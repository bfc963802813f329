"""Standard output and standard error: escaping of texts, and failures of the streams.

Results go to standard output, messages to standard error, where each line begins with "biprop: ".
Neither a text that a stream cannot encode nor a stream that fails ends a search.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO, cast

from .errors import UserError, one_line
from .names import escaped

_JOINERS = "\u200c\u200d"
_KEPT = "\u00a0\u3000" + _JOINERS
"""Spaces and joiners that several languages need in words; `str.isprintable` rejects them."""


def printable(text: str) -> str:
    r"""The text with control characters, line breaks, direction marks and lone surrogates escaped.

    Names of files and classes may contain any character. Terminals execute some, and others change
    the direction of text: they become "\x1b" or "\u202e". Backslashes are not escaped: the result
    is for reading, not for decoding.
    """
    if text.isprintable():
        return text
    return "".join(character if character in _KEPT else escaped(character) for character in text)


def as_displayed(text: str, stream: Any = None) -> str:
    r"""The text as a stream shows it, for tables that must know its width before they print it.

    `printable`, and characters that the encoding lacks are escaped too: "\u65e5" in ASCII.

    Args:
        text: of any origin.
        stream: None: standard output.
    """
    text = printable(text)
    encoding = getattr(sys.stdout if stream is None else stream, "encoding", None)
    if text.isascii() or not encoding:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)


def width(text: str) -> int:
    """The columns that a line of printable text takes: two for wide characters (East Asian), none
    for combining marks.
    """
    if text.isascii():
        return len(text)
    characters = (c for c in text if not unicodedata.combining(c) and c not in _JOINERS)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in characters)


def padded(text: str, columns: int, right: bool = False) -> str:
    """The text with spaces behind it, or before it if `right`, up to a width of `columns`."""
    spaces = " " * (columns - width(text))
    return spaces + text if right else text + spaces


def prepare() -> None:
    """Make standard output and standard error accept every text.

    A closed stream (`>&-`) is replaced by the null device.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        escape_what_it_cannot_encode(getattr(sys, name))


def escape_what_it_cannot_encode(stream: Any) -> None:
    """Make a text stream escape characters that its encoding (e.g. ASCII, cp1252) does not have."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def report(text: str, start: str = "") -> None:
    """Print a message to standard error, as one line; errors of the stream are ignored.

    Args:
        text: is escaped, see `printable`.
        start: printed before the line: a line break if the terminal shows ^C in the current line.
    """
    with suppress(OSError, ValueError):
        print(f"{start}biprop: {printable(text)}", file=sys.stderr, flush=True)


def print_text(text: str) -> None:
    """Print a trusted text to standard output, without escaping.

    Raises:
        BrokenPipeError: the reader of standard output has ended.
        UserError: standard output cannot be written.
    """
    stream = Strict(sys.stdout)
    stream.write(text)
    stream.flush()


def finish() -> None:
    """Flush standard output; raises what `print_text` raises."""
    Strict(sys.stdout).flush()


def silence(stream: Any) -> None:
    """Redirect a stream to the null device, including what its buffer still contains.

    Otherwise Python would fail again when it flushes the buffer at exit.
    """
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Strict:
    """A text stream that raises BrokenPipeError if its reader has ended, and else UserError."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; returns its length.

        Raises:
            BrokenPipeError, UserError: as the class says.
        """
        with self._checked():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered.

        Raises:
            BrokenPipeError, UserError: as the class says.
        """
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            self._give_up(e)

    def _give_up(self, error: OSError) -> None:
        silence(self._stream)
        if isinstance(error, BrokenPipeError):
            raise error
        raise UserError(_failure(error)) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Tolerant(Strict):
    """A text stream that may fail: it warns once, and drops everything after that.

    A search of several days must not end because `tee` was killed.
    """

    _has_failed = False

    def write(self, text: str) -> int:
        """Write `text`, or drop it once the stream has failed; returns its length."""
        return len(text) if self._has_failed else super().write(text)

    def flush(self) -> None:
        """Pass on what is buffered, unless the stream has failed."""
        if not self._has_failed:
            super().flush()

    def _give_up(self, error: OSError) -> None:
        self._has_failed = True
        silence(self._stream)
        report(f"warning: {_failure(error)}; nothing more is shown, and the work goes on")


def _failure(error: OSError) -> str:
    return f"standard output: cannot be written: {error.strerror or one_line(error)}"


def as_stream(stream: IO[str] | None, tolerant: bool) -> TextIO:
    """`stream`, or standard output if it is None, as `Tolerant` or `Strict`."""
    wrapped = (Tolerant if tolerant else Strict)(stream or sys.stdout)
    escape_what_it_cannot_encode(wrapped)
    return cast(TextIO, wrapped)
