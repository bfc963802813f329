"""What goes to the screen. That commands end as they should without one: test_cli."""

import errno
import io
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import UserError, screen

HOSTILE = {
    "a\x1b[2Jb": r"a\x1b[2Jb",  # clears the screen
    "a\x9b31mb": r"a\x9b31mb",  # the same escape in one character
    "exe\u202egnp.cat": r"exe\u202egnp.cat",  # shown from right to left
    "a\nbiprop: all is well": r"a\nbiprop: all is well",
    "a\rb": r"a\rb",
    "a\u2028b": r"a\u2028b",
    "\u2066a\u200eb\ufeff": r"\u2066a\u200eb\ufeff",
    "a\udcffb": r"a\udcffb",  # a file name that is no text
    "\x7f\x00": r"\x7f\x00",
    "Über 日本語 \u3000 می\u200cخواهم [red]": ("Über 日本語 \u3000 می\u200cخواهم [red]"),  # noqa: RUF001
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_terminals_obey_is_escaped_and_letters_stay(text: str) -> None:
    assert screen.printable(text) == HOSTILE[text]


@given(st.text())
def test_a_line_stays_one_line_that_can_be_encoded(text: str) -> None:
    shown = screen.printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert screen.printable(shown) == shown
    shown.encode("utf-8")


def stream_of(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", rb"\xdc\u65e5"), ("cp1252", b"\xdc\\u65e5")]
)
@pytest.mark.parametrize("tolerant", [False, True])
def test_what_a_screen_cannot_encode_is_escaped(
    encoding: str, shown: bytes, tolerant: bool
) -> None:
    stream = stream_of(encoding)
    screen.as_stream(stream, tolerant).write("Ü日")
    assert stream.buffer.getvalue() == shown  # type: ignore[attr-defined]


def test_errors_are_escaped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of("ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    screen.prepare()
    screen.report("\x1b[31mÜ")
    assert stream.buffer.getvalue() == b"biprop: \\x1b[31m\\xdc\n"  # type: ignore[attr-defined]


def test_a_closed_screen_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    screen.prepare()
    screen.print_text("nobody sees it")
    screen.finish()
    sys.stdout.close()


class Broken(io.StringIO):
    """A screen that cannot be written any more."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise OSError(self.number, "reason")  # of the type that belongs to the number


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_search_goes_on_without_a_screen_and_says_so_once(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Broken(number)
    stream = screen.as_stream(broken, tolerant=True)
    for _ in range(3):
        print("a line", file=stream, flush=True)
    assert broken.writes == 1
    expected = (
        "biprop: warning: standard output: cannot be written: reason; nothing more is shown, and"
        " the work goes on\n"
    )
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EPIPE, BrokenPipeError), (errno.EIO, UserError), (errno.ENOSPC, UserError)],
)
def test_other_commands_end(
    number: int, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    for write in (screen.as_stream(Broken(number), tolerant=False).write, screen.print_text):
        monkeypatch.setattr(sys, "stdout", Broken(number))
        with pytest.raises(expected, match="reason"):
            write("a line")


def test_nobody_needs_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: Any = Broken(errno.EPIPE)
    monkeypatch.setattr(sys, "stderr", gone)
    screen.report("a mistake")
    assert gone.writes


@pytest.mark.parametrize(
    "text, columns",
    [("abc", 3), ("日本", 4), ("é", 1), ("e\u0301", 1), ("می\u200cخواهم", 7), ("ＡＢ", 4), ("", 0)],  # noqa: RUF001
)
def test_the_width_of_a_text(text: str, columns: int) -> None:
    assert screen.width(text) == columns
    assert screen.width(screen.padded(text, 9)) == 9
    assert screen.padded(text, 9, right=True).endswith(text)


@given(st.text(), st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8"]))
def test_a_shown_text_is_what_the_stream_writes(text: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="")
    screen.escape_what_it_cannot_encode(stream)
    stream.write(screen.printable(text))
    stream.flush()
    written = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert screen.as_displayed(text, stream) == written.decode(encoding)
