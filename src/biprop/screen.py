"""The screen: what is shown is escaped here, and nowhere else.

Neither a name that the screen cannot encode nor its absence ends a search. Standard output is for
results, standard error for what else is to be said; each line there begins with "biprop: ".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO, cast

from .errors import UserError, one_line
from .names import escaped

_KEPT = "\u00a0\u3000\u200c\u200d"
"""Spaces and joiners that words of several languages need, though Python calls them unprintable."""


def printable(text: str) -> str:
    r"""The text with control characters, line breaks, direction marks and lone surrogates escaped.

    File names, class names and names in tickets may hold any character: terminals obey some, and
    others change the order in which the rest is shown. They become "\x1b" or "\u202e". Backslashes
    stay as they are: the result is to be read, not to be decoded.
    """
    if text.isprintable():
        return text
    return "".join(character if character in _KEPT else escaped(character) for character in text)


def prepare() -> None:
    """Make standard output and standard error take every text.

    One that is closed (`>&-`) becomes the null device.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        escape_what_it_cannot_encode(getattr(sys, name))


def escape_what_it_cannot_encode(stream: Any) -> None:
    """Let a text stream escape what its encoding lacks (ASCII in LANG=C, cp1252), not raise."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def tell(text: str, start: str = "") -> None:
    """One line on standard error, after `start`: a line break where Ctrl-C stands in the line."""
    with suppress(OSError, ValueError):  # nobody is left to be told
        print(f"{start}biprop: {printable(text)}", file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Text of our own making on standard output, as it is.

    Raises:
        BrokenPipeError: what reads it has gone.
        UserError: it cannot be written.
    """
    stream = Strict(sys.stdout)
    stream.write(text)
    stream.flush()


def finish() -> None:
    """Write what standard output still holds back, if anything; errors as of `show`."""
    Strict(sys.stdout).flush()


def silence(stream: Any) -> None:
    """Let a stream write to the null device from now on.

    So does what it still holds back: else Python would fail once more when it ends.
    """
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Strict:
    """A text stream; its failures are BrokenPipeError, where its reader has gone, or UserError."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._checked():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
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
        raise UserError(_what_happened(error)) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Lasting(Strict):
    """A text stream that is not needed: when it fails, that is told once, and the rest is dropped.

    A search of days must not end because `tee` has died.
    """

    _has_gone = False

    def write(self, text: str) -> int:
        return len(text) if self._has_gone else super().write(text)

    def flush(self) -> None:
        if not self._has_gone:
            super().flush()

    def _give_up(self, error: OSError) -> None:
        self._has_gone = True
        silence(self._stream)
        tell(f"warning: {_what_happened(error)}; nothing more is shown, and the work goes on")


def _what_happened(error: OSError) -> str:
    return f"standard output: cannot be written: {error.strerror or one_line(error)}"


def as_stream(stream: IO[str] | None, lasting: bool) -> TextIO:
    """`stream`, or standard output, as `Lasting` or `Strict`."""
    wrapped = (Lasting if lasting else Strict)(stream or sys.stdout)
    escape_what_it_cannot_encode(wrapped)
    return cast(TextIO, wrapped)
