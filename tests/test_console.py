import io

import pytest

from biprop.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    console = Console(stream)
    assert list(console.track(range(3), "counting", 3)) == [0, 1, 2]
    console.table("Title", [("a", "1"), ("long name", "[2]")])
    with console.bar("x", 5) as bar:
        bar.advance(2, "note")
    assert stream.getvalue() == "counting: 3\n\nTitle\n  a          1\n  long name  [2]\n"


def test_a_terminal_gets_a_bar_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = Console(stream)
    with console.bar("epoch 1/2", 10) as bar:
        bar.advance(5, "loss 0.5")
        console.line("a line with [brackets]")
    console.table("Title", [("a", "b [c]")])
    for expected in ("epoch 1/2", "5/10", "loss 0.5", "a line with [brackets]", "Title", "b [c]"):
        assert expected in stream.getvalue()


def test_a_bar_inside_another_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich below 14.1 raises an error for it."""
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = Console(stream)
    with console.bar("outer", 2) as outer:
        assert list(console.track(range(3), "inner", 3)) == [0, 1, 2]
        outer.advance(1)
    assert "outer" in stream.getvalue()
    assert "inner" not in stream.getvalue()
    with pytest.raises(KeyError), console.bar("failing", 1):
        raise KeyError
    with console.bar("after", 1):
        pass
    assert "after" in stream.getvalue()


def test_a_narrow_terminal_shows_long_paths_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    path = "/".join(f"folder{number:02}" for number in range(12))
    for show in (
        lambda c: c.table("t", [("files", path)]),
        lambda c: c.columns("t", ["files", ""], [[path, ""]]),
    ):
        stream = Terminal()
        show(Console(stream))
        letters = "".join(c for c in stream.getvalue() if c.isalnum() or c == "/")
        assert all(f"folder{number:02}" in letters for number in range(12))
        assert "…" not in stream.getvalue()


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_names_cannot_command_the_screen(
    stream_type: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, name = stream_type(), "[red]a\x1b]0;title\x07\u202e[/x]\nb"
    console = Console(stream)
    console.line(name, name)
    console.table(name, [(name, name)])
    console.columns(name, [name, name], [[name, name]])
    with console.bar(name, 5) as bar:
        bar.advance(2, name)
    shown = stream.getvalue()
    assert not {"\x1b]", "\x07", "\u202e"} & {
        shown[i : i + n] for i in range(len(shown)) for n in (1, 2)
    }
    assert shown.count(r"[red]a\x1b]0;title\x07\u202e[/x]\nb") >= 9
