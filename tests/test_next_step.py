"""The next command that is printed is one that works."""

import re
import shlex
from pathlib import Path

import pytest

from biprop.cli import command_line, next_step
from biprop.config import Config

SHORT = ["--epochs", "1", "--low-data", "0.1", "--no-baseline", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def next_commands(text: str) -> list[list[str]]:
    """The commands after "next:", as a shell would split them, without biprop."""
    (block,) = re.findall(r"^next: (.*(?:\n {6}.*)*)\n\Z", text, re.M)
    words = [shlex.split(line) for line in block.splitlines()]
    assert {command[0] for command in words} == {"biprop"}
    return [command[1:] for command in words]


def test_from_a_search_to_the_speed_of_its_ticket(capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder whose name needs quotes."""
    assert command_line.main(["find", *SHORT, "--log-dir", "my runs; echo"]) == 0
    (pack,) = next_commands(capsys.readouterr().out)
    assert pack[1].startswith("my runs; echo")
    assert command_line.main(pack) == 0
    evaluate, predict, bench, report, push = next_commands(capsys.readouterr().out)
    assert predict == ["predict", "digits.mpt", "IMAGES"]
    assert push == ["push", "digits.mpt", "USER/REPO"]
    assert command_line.main(evaluate) == 0
    assert command_line.main([*bench, "--seconds", "0.01", "--no-torch"]) == 0
    assert command_line.main([*report, "--images", "1"]) == 0
    assert command_line.main(["deck", "build", "digits.mpt", "digits.mpt", "-o", "two.deck"]) == 0
    robustness, predict = next_commands(capsys.readouterr().out)
    assert predict == ["predict", "two.deck", "IMAGES"]
    few = ["--corruptions", "fog", "--severities", "1", "--images", "9"]
    assert command_line.main([*robustness, *few]) == 0


def test_a_dense_network_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    dense = ["--conv-type", "DenseConv", "--no-freeze-weights"]
    assert command_line.main(["find", *SHORT, *dense]) == 0
    (evaluate,) = next_commands(capsys.readouterr().out)
    assert evaluate[0] == "evaluate"
    assert command_line.main(evaluate) == 0


def test_a_sweep_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["sweep", "--grid", "seed=0", *SHORT]) == 0
    (report,) = next_commands(capsys.readouterr().out)
    assert report == ["report", "runs/sweeps/sweep", "-o", "sweep.html"]
    assert command_line.main(report) == 0
    assert command_line.main(["sweep", "--grid", "seed=0", "--name", "no", "--list", *SHORT]) == 0
    assert "next:" not in capsys.readouterr().out


def test_names_are_of_the_data_and_of_no_file_that_exists() -> None:
    assert next_step.ticket_name(Config(set="CIFAR10")) == "cifar10.mpt"
    assert next_step.ticket_name(Config(set="folder", data="/a/My photos!")) == "My-photos.mpt"
    assert next_step.ticket_name(Config(set="hub", data="user/cats")) == "cats.mpt"
    assert next_step.ticket_name(Config(set="folder", data="..")) == "ticket.mpt"
    Path("digits.mpt").touch()
    Path("digits-2.mpt").touch()
    assert next_step.ticket_name(Config(set="digits")) == "digits-3.mpt"


def test_what_only_the_user_knows_is_in_capitals() -> None:
    assert next_step.after_pack("-a b.mpt", {}, {}) == [
        "next: biprop evaluate './-a b.mpt' --data DIR",
        "      biprop predict './-a b.mpt' IMAGES",
        "      biprop bench './-a b.mpt'",
        "      biprop report './-a b.mpt' -o a-b.html",
        "      biprop push './-a b.mpt' USER/REPO",
    ]
    found = {"options": {"set": "folder"}}
    first, *_ = next_step.after_pack("a.mpt", found, {"data": "my data"})
    assert first == "next: biprop evaluate a.mpt --data 'my data'"
    first, *_ = next_step.after_deck("a.deck", {"options": {"set": "digits"}}, {})
    assert first == "next: biprop robustness a.deck"
    first, *_ = next_step.after_deck("a.deck", {"options": 3}, {})
    assert first == "next: biprop robustness a.deck --data DIR"


def test_a_network_of_the_users_own_is_named_again() -> None:
    config = Config(set="CIFAR10", arch="my nets.py:Net", arch_args={"width": 8, "deep": True})
    (line,) = next_step.after_find(config, Path("runs/a"), is_ticket=True)
    network = ["--arch", "my nets.py:Net", "--arch-args", "width=8", "deep=True"]
    assert shlex.split(line)[1:] == ["biprop", "pack", "runs/a", "-o", "cifar10.mpt", *network]
