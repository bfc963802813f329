"""biprop completion: what bash completes, and that the scripts of other shells have the same."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from biprop import config
from biprop.cli import command_line
from biprop.cli.completion import SHELLS
from biprop.models.plans import NETWORKS


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Shell -> its script, as the command prints it."""
    pytest.importorskip("shtab")
    command = [sys.executable, "-m", "biprop", "completion"]
    return {
        shell: subprocess.run([*command, shell], capture_output=True, text=True, check=True).stdout
        for shell in SHELLS
    }


def completions(script: str, folder: Path, *words: str) -> list[list[str]]:
    """For each command line in `words` (its last word is completed), the candidates in bash."""
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("no bash")
    lines = [script]
    for line in words:
        parts = " ".join(f"'{part}'" for part in ["biprop", *line.split(" ")])
        lines += [
            f"COMP_WORDS=({parts}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_biprop",
            "printf '%s\\n' \"${COMPREPLY[@]}\"; echo END",
        ]
    done = subprocess.run(
        [bash, "--norc", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert done.stderr == ""
    return [answer.split() for answer in done.stdout.split("END\n")[:-1]]


def test_bash_completes(scripts: dict[str, str], tmp_path: Path) -> None:
    for name in ("digits.mpt", "two.deck", "mine.yml", "runs/x", "photos/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    cases = {
        "ro": ["robustness"],
        "find --prune-r": ["--prune-rate", "--prune-rate-epoch"],
        "find --batch": ["--batch-size"],
        "find --seed 3 --set Ima": ["ImageNet"],
        "find --arch cResNet11": ["cResNet110", "cResNet110_BinAct"],
        "find --conv-type ": list(config.CONV_TYPES),
        "find --config conv4_kn": ["conv4_kn_unsigned"],
        "find --config mi": ["mine.yml"],
        "find --recipe cifar10-1": ["cifar10-10min", "cifar10-1bit", "cifar10-1h"],
        "find --data ph": ["photos"],
        "sweep --config digi": ["digits"],
        "evaluate di": ["digits.mpt"],
        "compile ": ["digits.mpt", "photos", "runs"],
        "predict --gating b": ["batch"],
        "predict digits.mpt ph": ["photos"],
        "deck bu": ["build"],
        "deck build -": ["-h", "--help", "-o", "--output", "--data", "--set"],
        "robustness digits.mpt --corruptions sp": ["speckle_noise", "spatter"],
        "list c": ["configs", "corruptions"],
        "completion f": ["fish"],
    }
    answers = completions(scripts["bash"], tmp_path, *cases)
    for (line, expected), answer in zip(cases.items(), answers, strict=True):
        if line.endswith(" -"):
            assert set(expected) <= set(answer), line
        else:
            assert sorted(answer) == sorted(expected), line


def test_fish_completes(scripts: dict[str, str], tmp_path: Path) -> None:
    fish = shutil.which("fish")
    if not fish:
        pytest.skip("no fish")
    (tmp_path / "biprop.fish").write_text(scripts["fish"])
    (tmp_path / "photos").mkdir()
    cases = {
        "biprop ro": ["robustness"],
        "biprop find --set Ima": ["ImageNet"],
        "biprop find --recipe cifar10-1": ["cifar10-10min", "cifar10-1bit", "cifar10-1h"],
        "biprop find --data ph": ["photos/"],
        "biprop deck bu": ["build"],
    }
    for line, expected in cases.items():
        command = [fish, "--no-config", "-c", f"source biprop.fish; complete -C '{line}'"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert [answer.split("\t")[0] for answer in done.stdout.splitlines()] == expected, line


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_commands_choices_and_names(shell: str, scripts: dict[str, str]) -> None:
    script = scripts[shell]
    commands = [command.__name__.rpartition(".")[2] for command in command_line.COMMANDS]
    words = set(re.findall(r"[\w-]+", script))
    assert {*commands, *NETWORKS, *config.SETS, "conv4_kn_unsigned"} <= words
    assert not {word for word in words if word.startswith("--") and "_" in word}
    if program := shutil.which(shell):
        check = [program, "--no-execute"] if shell == "fish" else [program, "-n"]
        done = subprocess.run(check, input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_the_package_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not installed."""

    def complete(parser: argparse.ArgumentParser, shell: str) -> str:
        commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        actions = {action.dest: action for action in commands.choices["find"]._actions}
        assert actions["prune_rate"].option_strings == ["--prune-rate"]
        assert tuple(actions["set"].choices or ()) == config.SETS
        assert tuple(actions["arch"].choices or ()) == NETWORKS
        assert actions["epochs"].choices is None
        assert actions["data"].complete == "folders"  # type: ignore[attr-defined]
        assert actions["pretrained"].complete == "files"  # type: ignore[attr-defined]
        assert not hasattr(actions["epochs"], "complete")
        return f"script for {shell}"

    package = SimpleNamespace(complete=complete, glob=str, FILE="files", DIRECTORY="folders")
    monkeypatch.setitem(sys.modules, "shtab", package)
    assert command_line.main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out == "script for zsh\n"


def test_without_the_package_the_hint_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert command_line.main(["completion", "bash"]) == 2
    message = capsys.readouterr().err
    assert message.endswith("shtab: pip install 'biprop[completion]'\n")
    assert 'completion = ["shtab' in (ROOT / "pyproject.toml").read_text()
