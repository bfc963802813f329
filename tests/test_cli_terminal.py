"""Commands on terminals: of 40 columns, with other encodings, without colours."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import network_of, png, random_ticket

from biprop import Deck
from biprop.cli import command_line, doctor_checks
from biprop.screen import width

ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252")
COMMANDS = (
    "list networks",
    "list configs",
    "list data",
    "list corruptions",
    "inspect tickets/größe日.mpt",
    "predict tickets/größe日.mpt 1.png größe日.png",
    "doctor",
)


class Terminal(io.TextIOWrapper):
    """A terminal in memory."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        self.flush()
        content = self.buffer.getvalue()  # type: ignore[attr-defined]
        return str(content.decode(self.encoding))


@pytest.fixture(autouse=True)
def _in_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    Path("tickets").mkdir()
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    ticket.classes = ["größe日", *map(str, range(1, 10))]
    ticket.save("tickets/größe日.mpt")
    for name in ("1.png", "größe日.png"):
        Path(name).write_bytes(png(np.zeros((32, 32), np.uint8)))


def on_terminal(
    monkeypatch: pytest.MonkeyPatch, command: str, columns: int, encoding: str = "utf-8"
) -> str:
    """What a command shows on a terminal, escape sequences included."""
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert command_line.main(command.split()) in (0, 1)
    return terminal.shown()


def plain(text: str) -> list[str]:
    """The lines, without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_wider_than_a_narrow_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No disk is that large, so that `doctor` has a problem to show.
    monkeypatch.setattr(doctor_checks, "LEAST_FREE", 1 << 60)
    lines = plain(on_terminal(monkeypatch, command, 40))
    assert len(lines) > 3
    assert [line for line in lines if width(line.rstrip()) > 40] == []


def test_numbers_and_names_stay_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = " ".join(plain(on_terminal(monkeypatch, COMMANDS[4], 120)))
    narrow = " ".join(plain(on_terminal(monkeypatch, COMMANDS[4], 40)))
    numbers = set(re.findall(r"\b\d[\d.,]+\d\b|convs\.\d+|bits/weight", wide))
    assert len(numbers) > 20
    assert numbers <= set(re.findall(r"\b\d[\d.,]+\d\b|convs\.\d+|bits/weight", narrow))


def test_predictions_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = plain(on_terminal(monkeypatch, COMMANDS[5], 40))
    assert [line for line in lines if not line.startswith("  ")] == ["1.png", "größe日.png"]
    percentages = [line.count(" %") for line in lines]
    assert percentages == [0, 2, 1, 0, 2, 1]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS[3:])
def test_tables_are_drawn_in_every_encoding(
    command: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = plain(on_terminal(monkeypatch, command, 120, encoding))
    text = "\n".join(lines)
    assert not re.search(r"\\u25\w\w|\\u2026|\?\?", text)  # lines of tables, an ellipsis
    assert ("\u2502" in text) == (encoding == "utf-8" and not command.startswith("predict"))
    table: list[int] = []
    for line in [*lines, ""]:
        if line[:1] in tuple("+|\u2502\u250c\u250f\u2514\u2503\u2521"):
            table.append(width(line))
        else:
            assert len(set(table)) <= 1
            table = []
    if "größe" in command:
        name = "größe日".encode(encoding, "backslashreplace").decode(encoding)
        assert name in text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_columns_are_aligned_whatever_a_name_is_made_of(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, *rows = plain(on_terminal(monkeypatch, COMMANDS[5], 120, encoding))
    starts = {width(row[: row.index(" %")]) for row in rows}
    assert len(rows) == 2
    assert len(starts) == 1
    assert head.startswith("file  ")


COLOURED = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "find --width-mult 0.25 --epochs 1 --low-data 0.1 --no-baseline --device cpu --name "
    assert COLOURED.search(on_terminal(monkeypatch, command + "a", 100))
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_terminal(monkeypatch, command + "b", 100)
    assert "epoch 1/1" in text
    assert not COLOURED.search(text)


def test_a_deck_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    ticket.mean, ticket.std = (0.4,), (0.3,)
    Deck([ticket, ticket], ["first", "second"]).save("two.deck")
    lines = plain(on_terminal(monkeypatch, "inspect two.deck", 40))
    assert [line for line in lines if width(line.rstrip()) > 40] == []
    assert {"first", "second", "Wide_VGG_Small_132"} <= {line.strip() for line in lines}


@pytest.mark.parametrize("command", ["find", "robustness", "completion", "sweep", ""])
def test_help_fits_the_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def help_on(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        terminal = Terminal("utf-8")
        monkeypatch.setattr(sys, "stdout", terminal)
        with pytest.raises(SystemExit):
            command_line.main([*command.split(), "--help"])
        return terminal.shown().splitlines()

    narrow, wide, widest = help_on(40), help_on(110), help_on(200)
    assert wide == widest
    assert max(map(len, wide)) <= 110
    # What is not wrapped: the names of options with their values, headings, and usage.
    is_whole = re.compile(r" +-| +\[|usage|--|.*:$")
    assert [line for line in narrow if len(line) > 40 and not is_whole.match(line)] == []
    assert " ".join(narrow).count("--") == " ".join(wide).count("--")
