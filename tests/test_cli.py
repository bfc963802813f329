"""The command line as a user has it: what is printed, exit codes, and that nothing is lost."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, shared, write_cifar_parquet, write_image_folder, write_photographs

from biprop import UserError, config
from biprop.cli import command_line, multigpu
from biprop.cli import list as list_command
from biprop.models.plans import NETWORKS
from biprop.robustness import severities
from biprop.runs import status
from biprop.runs.folder import held
from biprop.search import baseline

COMMANDS = tuple(module.__name__.rpartition(".")[2] for module in command_line.COMMANDS)
QUICK = ["--width-mult", "0.25", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an exit with code 2."""
    assert command_line.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("biprop: ")
    assert "Traceback" not in out + err
    return err


def test_find_then_evaluate_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "epoch 1/1" in out
    for row in (
        "network",
        "weights in all",
        "weights kept",
        "test accuracy",
        "with random scores",
        "files",
    ):
        assert re.search(rf"^  {row}  ", out, re.M), row
    accuracy = re.search(r"^  test accuracy +([\d.]+ %)", out, re.M)
    assert accuracy
    checkpoint = "runs/digits/width_mult=0.25/prune-rate=0.2/find/checkpoints/model_best.pth"
    assert command_line.main(["evaluate", "--pretrained", checkpoint]) == 0
    evaluated = capsys.readouterr().out
    assert f"test accuracy        {accuracy[1]}" in evaluated
    assert "validation accuracy" in evaluated


def test_the_baseline_is_of_a_sample_or_left_out_and_changes_no_ticket(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "BASELINE_IMAGES", 100)
    run, tickets = "runs/digits/width_mult=0.25/prune-rate=0.2/find", []
    for number, flag in enumerate(("--baseline", "--no-baseline")):
        assert command_line.main(["find", *QUICK, flag, "--save-minutes", str(number)]) == 0
        out = capsys.readouterr().out
        said = out.count("on 100 of 360 test images)")
        assert said == out.count("random scores") == (0 if number else 2)
        assert command_line.main(["pack", run + "/0" * number, "-o", "a.mpt"]) == 0
        tickets.append(Path("a.mpt").read_bytes())
        assert capsys.readouterr().err == ""
    assert tickets[0] == tickets[1]
    note = (
        f"warning: {run}: the first run of this name; has a later run: for the last, pass {run}/0\n"
    )
    for arguments in (["pack", run, "-o", "a.mpt"], ["evaluate", "--pretrained", run]):
        assert command_line.main(arguments) == 0
        assert note in capsys.readouterr().err


def test_gpus_are_counted_among_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert multigpu.choose("1,0", "auto") == ["1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert multigpu.choose("0,1", "cuda") == ["5", "7"]
    with pytest.raises(UserError, match=r"--multigpu 5,7: PyTorch finds GPU 0 .. 1 here"):
        multigpu.choose("5,7", "auto")


def test_both_spellings_of_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        command_line.main(
            [
                "find",
                "--prune_rate",
                "0.3",
                "--weight-decay=0.5",
                "--layer_prune_rates",
                "linear.0=0.5",
                "--print_config",
            ]
        )
        == 0
    )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["prune_rate"], printed["weight_decay"], printed["layer_prune_rates"]) == (
        0.3,
        0.5,
        {"linear.0": 0.5},
    )
    assert (
        command_line.main(["find", "--no-scale_fan", "--wd", "0.1", "-b", "7", "--print-config"])
        == 0
    )
    printed = yaml.safe_load(capsys.readouterr().out)
    spelled = ["--learning-rate", "0.3", "--multistep_lr_adjust=7", "--multistep-lr-gamma", "0.2"]
    assert command_line.main(["find", *spelled, "--print-config"]) == 0
    original = yaml.safe_load(capsys.readouterr().out)
    assert (original["lr"], original["lr_adjust"], original["lr_gamma"]) == (0.3, 7, 0.2)
    assert (printed["scale_fan"], printed["weight_decay"], printed["batch_size"]) == (False, 0.1, 7)


def listed(what: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Name -> description, as biprop list prints them."""
    assert command_line.main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = (line.strip().partition("  ") for line in lines if line.startswith("  "))
    described = {name: description.strip() for name, _, description in rows}
    assert all(described.values())
    assert command_line.main(["list", what, "--names"]) == 0
    assert capsys.readouterr().out.splitlines() == list(described)
    return described


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    networks = listed("networks", capsys)
    assert list(networks) == [*NETWORKS, *config.DEFAULT_NETWORKS]
    assert networks["Conv4"] == "2,425,024 weights; 4 convolutions, 3 linear layers"
    assert networks["cResNet20_BinAct"] == (
        "270,896 weights; 9 basic blocks of 16-32-64 channels, binary activations"
    )
    # Without the whitening layer, whose weights are not random.
    assert networks["Fast6"].startswith("1,159,168 weights; fixed whitening layer, 6 convolutions")
    configs = listed("configs", capsys)
    assert configs["conv4_kn_unsigned"] == (
        "CIFAR10, Conv4, MPT-1/32, needs --prune-rate, kaiming_normal, sgd, 100 epochs"
    )
    assert configs["conv4_adam_baseline"].startswith("CIFAR10, Conv4, dense baseline, ")
    assert configs["digits"].endswith(
        "20 % kept; measured 99.17 % (standard deviation 0.20, n = 5)"
    )
    assert tuple(listed("data", capsys)) == config.SETS
    assert set(listed("corruptions", capsys)) == {*severities.NAMES, *severities.EXTRA}


def test_what_was_measured_of_a_network_is_listed_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the configurations: no number stands in two places."""
    networks = listed("networks", capsys)
    for file in config.packaged_files():
        if accuracy := config.comments(file)[1]:
            assert f"{file.stem}: {accuracy}" in networks[config.read_file(file)["arch"]]


def test_tickets_of_a_folder_are_listed_with_what_they_record(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = ROOT / "pretrained"
    assert command_line.main(["list", "tickets", str(folder)]) == 0
    shown = capsys.readouterr().out
    (row,) = re.findall(r"digits.mpt +(.*)", shown)
    assert row == (
        "Wide_VGG_Small_132; 16,364 of 81,808 weights kept; 11,156 bytes; 99.44 % of digits (358 of"
        " 360 images), as recorded"
    )
    assert re.search(r"cifar10-small.mpt +Fast6; .* 83.43 % of CIFAR10 \(8,343 of 10,000", shown)
    (tmp_path / "bad.mpt").write_bytes(b"hello" * 9)
    assert command_line.main(["list", "tickets", str(tmp_path)]) == 0
    assert "bad.mpt  not a ticket: the file does not begin like one" in capsys.readouterr().out
    assert command_line.main(["list", "tickets", str(tmp_path), "--names"]) == 0
    assert capsys.readouterr().out == "bad.mpt\n"
    (tmp_path / "bad.mpt").unlink()
    for arguments, message in (
        (["tickets", str(tmp_path)], "has no tickets (.mpt)"),
        (["tickets", "none"], "none: no such folder"),
        (["networks", "none"], "biprop list networks: takes no folder"),
    ):
        assert command_line.main(["list", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [("train", "find"), ("fnd", "find"), ("Eval", "evaluate"), ("upload", "push"), ("xyzzy", None)],
)
def test_a_word_that_is_no_command(
    word: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main([word, "--data", "x"]) == 2
    meant = f"; did you mean {hint!r}?" if hint else ""
    assert (
        capsys.readouterr().err == f"biprop: {word!r}: no such command{meant}; see biprop --help\n"
    )


@pytest.mark.parametrize(
    ("command", "module", "package"),
    [(["find"], "torch", "torch"), (["predict", "a.mpt", "b.png"], "PIL", "pillow")],
)
def test_a_package_that_is_missing_is_named(
    command: list[str],
    module: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_: object) -> int:
        raise ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.nn")

    monkeypatch.setattr(command_line.find, "run", run)
    monkeypatch.setattr(command_line.predict, "run", run)
    assert command_line.main(command) == 2
    assert capsys.readouterr().err == (
        f"biprop: {package} is not installed, and this needs it: pip install {package}\n"
    )


def test_the_default_folder_of_data_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["find", "--set", "CIFAR10"]) == 2
    message = "there is no folder 'data', the default of --data; pass --data DIR"
    assert message in capsys.readouterr().err


def test_each_name_of_a_configuration_is_that_of_its_file() -> None:
    files = list_command.configuration_names()
    assert len(set(files.values())) == len(files) == len(config.packaged_files())
    assert all(config.find_file(name) == file for file, name in files.items())


def test_accuracies_in_configurations_are_those_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    accuracies = [config.comments(file)[1] for file in config.packaged_files()]
    measured = [accuracy.partition(" %")[0] for accuracy in accuracies if accuracy]
    assert len(measured) >= 4
    assert all(number in results for number in measured)


def test_help_explains_the_prune_rate_and_shows_one_spelling(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.main(["find", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "fraction of weights KEPT (0.2 keeps 20 % and prunes 80 %)" in " ".join(out.split())
    assert "--prune_rate" not in out
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    assert "find" in capsys.readouterr().out


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as stop:
        command_line.main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def examples(text: str) -> list[list[str]]:
    """The arguments of the commands in a help's examples, without comments, pipes and redirections.

    A comment is set off by three spaces or more.
    """
    block = re.sub(r"\\\n +", "", text.partition("\nexamples:\n")[2])
    commands = re.findall(r"^  biprop (.*)$", block, re.M)
    return [shlex.split(re.split(r" {3,}| [|>] ", command)[0]) for command in commands]


@pytest.mark.parametrize(
    "command",
    [(), *((name,) for name in COMMANDS), ("deck", "build")],
    ids=lambda command: " ".join(command) or "biprop",
)
def test_every_help_has_examples_that_the_parser_accepts(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")  # narrower, lines would be wrapped
    text = help_of(capsys, *command)
    assert max(map(len, text.splitlines())) <= 110
    shown = examples(text)
    assert shown
    for arguments in shown:
        assert tuple(arguments[: len(command)]) == command
        _, unknown = command_line._parser().parse_known_args(arguments)
        assert not unknown, arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--prune-rate", "0"],
            "--prune-rate 0: must be above 0 and at most 1 (the fraction of weights KEPT)",
        ),
        (["--prune-rate", "1.5"], "--prune-rate 1.5: must be above 0"),
        (["--prune-rate", "nan"], "--prune-rate nan: must be above 0"),
        (["--prun-rate", "0.5"], "unknown argument --prun-rate; did you mean '--prune-rate'?"),
        (["--prunerate", "0.5"], "unknown argument --prunerate; did you mean '--prune-rate'?"),
        (["--prune-rate"], "expected one argument"),
        (["--layer-prune-rates", "fc"], "must be PATTERN=RATE"),
        (["--layer-prune-rates", "fc=7"], "--layer-prune-rates fc=7: must be above 0"),
        (["--arch", "Conv5"], "did you mean"),
        (["--set", "CIFAR10", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["--set", "cifar10"], "did you mean 'CIFAR10'"),
        (["--config", "conv4_kn_unsigned"], "pass --prune-rate"),
        (["--config", "conv4_kn"], "did you mean 'conv4_kn_unsigned'"),
        (["--device", "cuda:77"], "--device cuda:77: not available here"),
        (["--log-dir", "/proc/nowhere"], "cannot write the run folder"),
        (["--random-subnet"], "--random-subnet is left out"),
        (["--augmix", "--gaussian_aug"], "augmix and gaussian_aug contradict each other"),
        (["--jsd"], "add --augmix or --gaussian-aug"),
        (["--config", "conv4wide_rg_wide"], "left out: it asks for RGConv"),
        (["--config", "resnet18-kn-unsignd"], "did you mean"),
        (["--resume", "none.state"], "none.state: no such checkpoint"),
        (["--resume", "a", "--pretrained", "b"], "pass one of them"),
        (["--evaluate"], "pass --pretrained FILE"),
        (["--multigpu", "0,0"], "--multigpu 0,0: must be distinct numbers of GPUs"),
        (["--multigpu", "all"], "--multigpu all: must be distinct numbers of GPUs"),
        (["--multigpu", "0,00"], "--multigpu 0,00: must be distinct numbers of GPUs"),
        (["--multigpu", "98,99"], "--multigpu 98,99: PyTorch finds"),
        (["--multigpu", "99"], "--multigpu 99: PyTorch finds"),
        (
            ["--multigpu", "98,99", "--device", "cuda"],
            "--device cpu searches in as many processes on the CPU",
        ),
        (
            ["--multigpu", "0,1", "--device", "cuda:1"],
            "gives each process its own GPU: leave out --device cuda:1",
        ),
        (["--multigpu", "98,99", "--resume", "a"], "--multigpu 98,99: PyTorch finds"),
        (["--set", "ImageNet", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["--data", "nowhere"], "--data nowhere: no such folder; pass --data DIR, or --set hub"),
        (
            ["--data", "nowhere", "--set", "digits"],
            "--data nowhere: not used: the digits are part of the program",
        ),
        (
            ["--world-size", "2"],
            "--world-size is left out: processes are started by --multigpu, torchrun",
        ),
        (["--rank=0"], "--rank is left out"),
        (
            ["--first_layer_type", "DenseConv"],
            "--first_layer_type is left out: pass --first-layer-dense",
        ),
        (["--score-init-constant", "1"], "--score-init-constant is left out"),
        (["--hub-config", "small"], "hub_config = small: is for --set hub"),
        (["--channels", "1"], "channels = 1: is for --set folder and hub"),
        (["--channels", "2", "--set", "folder"], "channels = 2: must be 1 (grey) or 3 (RGB)"),
        (["--width-mult", "0.0001"], "--width-mult 0.0001: must be at least 0.001 and at most 100"),
        (["--image-size", "20000"], "--image-size 20000: must be at least 1 and at most 16384"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, "find", *arguments)


def test_mistakes_in_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "typo.yml").write_text("learnin_rate: 0.1\n")
    assert "typo.yml: unknown key 'learnin_rate'" in fails(capsys, "find", "--config", "typo.yml")
    write_image_folder(tmp_path / "one", ("cat",))
    assert "found only 'cat'" in fails(capsys, "find", "--set", "folder", "--data", "one")
    write_image_folder(tmp_path / "two")
    (tmp_path / "two" / "dog" / "0.png").write_bytes(b"no image")
    assert "0.png: not a readable image" in fails(
        capsys, "find", "--set", "folder", "--data", "two"
    )
    parquet = (
        write_cifar_parquet(tmp_path / "hub")
        / "cifar10"
        / "plain_text"
        / "train-00000-of-00001.parquet"
    )
    parquet.write_bytes(parquet.read_bytes()[:1000])
    assert "not a readable parquet file" in fails(
        capsys, "find", "--set", "CIFAR10", "--data", "hub"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["config", "recipe", "resume", "pretrained"])
def test_an_empty_value_starts_no_default_search(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = f"--{name} '': must not be empty; leave out --{name}, or pass a value"
    assert message in fails(capsys, "find", *QUICK, f"--{name}", "")
    assert not (tmp_path / "runs").exists()


def test_mistakes_in_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such checkpoint" in fails(capsys, "evaluate", "--pretrained", "none.pth")
    assert "name one file to evaluate" in fails(capsys, "evaluate")
    assert command_line.main(["find", *QUICK]) == 0
    capsys.readouterr()
    path = "runs/digits/width_mult=0.25/prune-rate=0.2/find/checkpoints/model_best.pth"
    write_image_folder(tmp_path / "pets")
    assert "made for 10 classes of 1 x 32 x 32 images, but the data have 2" in fails(
        capsys, "evaluate", "--pretrained", path, "--set", "folder", "--data", "pets"
    )
    content = torch.load(path, weights_only=True)
    content["biprop"]["config"]["arch"] = "cResNet20"
    content["biprop"]["config"]["width_mult"] = 1.0
    torch.save(content, "other.pth")
    assert "a checkpoint of another network: lacks conv1.weight" in fails(
        capsys, "evaluate", "--pretrained", "other.pth"
    )
    content["biprop"]["format"] = 99
    torch.save(content, "newer.pth")
    assert "of a newer biprop" in fails(capsys, "evaluate", "--pretrained", "newer.pth")
    del content["biprop"]["config"]
    content["biprop"]["format"] = 1
    torch.save(content, "damaged.pth")
    assert "a damaged checkpoint" in fails(capsys, "evaluate", "--pretrained", "damaged.pth")


@pytest.mark.slow
def test_evaluating_the_ancestors_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    path = shared("golden/conv4wide_025_BinAct_affine_p40.pth")
    assert (
        command_line.main(["evaluate", "--pretrained", str(path), "--data", str(shared("data"))])
        == 0
    )
    out = capsys.readouterr().out
    assert "Conv4Wide_BinAct" in out
    assert re.search(r"\(40\.0\d %\)", out)
    assert "of 10,000 images" in out


def test_a_search_that_diverges_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", *QUICK, "--lr", "1e38"]) == 1
    err = capsys.readouterr().err
    assert re.search(
        r"the search diverged: epoch 1, step \d+: layer .* Checkpoints so far are in runs/", err
    )


def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "biprop", "find", "--width-mult", "0.25", "--epochs", "500"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    last = (
        tmp_path
        / "runs/digits/width_mult=0.25/prune-rate=0.2/find/checkpoints/epoch_most_recent.state"
    )
    for _ in range(600):
        time.sleep(0.1)
        if last.exists():
            break
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    run = last.parents[1].relative_to(tmp_path)
    assert "best so far: epoch" in err
    assert f"Continue with: biprop find --resume {run}" in err
    assert torch.load(last, weights_only=True)["epoch"] >= 1
    assert dict(status.status(last.parents[1]))["state"].startswith("stopped: Ctrl-C, ")
    assert not [p for p in last.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_is_to_be_started_again(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biprop.data.load", lambda *_: os.kill(os.getpid(), number))
    assert command_line.main(["find", *QUICK]) == 75
    assert (
        capsys.readouterr().err == f"biprop: stopped: {number.name}; run the same command again\n"
    )


def ended(stdout: int, *command: str, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a command that writes to `stdout`, which is closed then."""
    try:
        done = subprocess.run(
            command,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            check=False,
        )
    finally:
        os.close(stdout)
    return done.returncode, done.stderr


BIPROP = (sys.executable, "-m", "biprop")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_commands_end_quietly_with_the_one_that_reads_them(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert ended(writing, *BIPROP, "find", "--help", PYTHONUNBUFFERED=unbuffered) == (141, "")
    for command in (["list", "configs"], ["--version"]):
        code, said = ended(
            os.open("/dev/full", os.O_WRONLY), *BIPROP, *command, PYTHONUNBUFFERED=unbuffered
        )
        assert (code, said) == (
            2,
            "biprop: standard output: cannot be written: No space left on device\n",
        )


def test_without_a_screen_or_with_few_letters() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    assert ended(null, "sh", "-c", 'exec "$@" >&-', "sh", *BIPROP, "list", "networks") == (0, "")
    null = os.open(os.devnull, os.O_WRONLY)
    code, said = ended(null, *BIPROP, "status", "\x1b[2J日", PYTHONIOENCODING="ascii")
    assert (code, said) == (
        2,
        "biprop: \\x1b[2J\\u65e5: not a run folder: it has no settings.txt\n",
    )


def test_a_search_needs_no_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    assert command_line.main(["find", *QUICK, "--no-baseline"]) == 0
    assert (
        capsys.readouterr().err.count("Broken pipe; nothing more is shown, and the work goes on\n")
        == 1
    )
    assert list(Path("runs").rglob("result.json"))


def test_a_run_is_resumed_in_its_folder_with_the_same_bits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["find", "--width-mult", "0.25", "--epochs", "4", "--save-every", "1"]
    assert command_line.main([*command, "--name", "whole"]) == 0
    whole, part = (
        tmp_path / f"runs/digits/width_mult=0.25/prune-rate=0.2/{name}"
        for name in ("whole", "part")
    )
    shutil.copytree(whole, part)
    for name in ("epoch_3.state", "epoch_4.state", "epoch_most_recent.state", "model_best.pth"):
        (part / "checkpoints" / name).unlink()
    capsys.readouterr()
    assert command_line.main(["find", "--resume", str(part / "checkpoints" / "epoch_2.state")]) == 0
    out = capsys.readouterr().out
    assert f"run folder {part.relative_to(tmp_path)}" in out.replace(str(tmp_path) + "/", "")
    assert "from epoch 3 on" in out
    a, b = (
        torch.load(f / "checkpoints" / "epoch_4.state", weights_only=True) for f in (whole, part)
    )
    assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())
    assert (a["best_acc1"], a["best_train_acc1"], a["curr_acc5"]) == (
        b["best_acc1"],
        b["best_train_acc1"],
        b["curr_acc5"],
    )
    lines = [
        json.loads(line) for line in (part / "logs" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    state = str(part / "checkpoints" / "epoch_4.state")
    assert "is at epoch 4/4: pass more --epochs" in fails(capsys, "find", "--resume", state)
    # Stopped after its last epoch and before its result, a run gives it when it is resumed.
    result = Path(state).parent.parent / "result.json"
    before = result.read_text()
    result.unlink()
    assert command_line.main(["find", "--resume", state]) == 0
    assert result.read_text() == before
    assert "--arch Conv4: but" in fails(capsys, "find", "--resume", state, "--arch", "Conv4")
    assert command_line.main(["find", "--resume", state, "--epochs", "5"]) == 0


def test_resume_auto_begins_goes_on_and_is_content_with_what_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("biprop.search.loop.Search.run", lambda _: signal.raise_signal(signal.SIGINT))
        assert command_line.main(["find", *QUICK]) == 130
    assert (
        command_line.main(["find", *QUICK, "--resume", "auto"]) == 0
    )  # in the folder of the one that left no checkpoint
    folder = next(Path("runs").glob("digits/**/result.json")).parent
    assert folder.name == "find"
    capsys.readouterr()
    assert command_line.main(["find", *QUICK, "--resume", "auto", "--print-freq", "7"]) == 0
    assert (
        capsys.readouterr().out == f"{folder}: complete already; another --name begins a new run\n"
    )
    (folder / "result.json").unlink()
    monkeypatch.setenv(
        "SLURM_RESTART_COUNT", "1"
    )  # the same command, started again by the scheduler
    assert command_line.main(["find", *QUICK]) == 0
    assert "from epoch 2 on" in capsys.readouterr().out
    assert command_line.main(["find", *QUICK, "--seed", "1"]) == 0  # another run
    assert f"run folder {folder / '0'}\n" in capsys.readouterr().out
    (folder / "result.json").unlink()
    assert command_line.main(["find", "--resume", str(folder)]) == 0
    assert f"run folder {folder}, from epoch 2 on" in capsys.readouterr().out
    assert "not a run folder with a checkpoint" in fails(capsys, "find", "--resume", "runs")


def test_status_says_how_a_run_is_doing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", *QUICK]) == 0
    folder = next(Path("runs").glob("digits/**/result.json")).parent
    capsys.readouterr()
    assert command_line.main(["status", str(folder)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"state +complete", out)
    assert re.search(r"epochs done +1 of 1", out)
    assert re.search(r"test accuracy +\d", out)
    (folder / "result.json").unlink()
    said = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(
        json.dumps({**said, "state": "searches", "batch": 5, "seconds_left": 7500})
    )
    state = dict(status.status(folder))
    assert state["state"].startswith(
        f"crashed: no final status recorded (process {os.getpid()} on "
    )
    assert state["state"].endswith(f"continue with: biprop find --resume {folder}")
    assert (state["epochs done"], state["time left"]) == ("1 of 1, step 5 of 20", "2 h 5 min")
    with held(folder):
        assert dict(status.status(folder))["state"].startswith("searches (process ")
    assert "not a run folder: it has no settings.txt" in fails(capsys, "status", "runs")


def test_resuming_and_starting_from_the_ancestors_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two epochs were done there? One, of three steps: the optimiser state and the 40 outputs of
    cResNet20 have to come along.
    """
    golden = str(shared("golden/cresnet20_affine_p50.pth"))
    write_cifar_parquet(tmp_path)
    common = ["--set", "CIFAR10", "--data", ".", "--device", "cpu", "--batch-size", "16"]
    assert "pass --config too" in fails(capsys, "find", "--resume", golden, *common)
    flags = [
        "--config",
        "resnet20-affine-ukn-unsigned",
        "--prune-rate",
        "0.5",
        "--learn_batchnorm",
        *common,
    ]
    assert command_line.main(["find", "--resume", golden, *flags, "--epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert "from epoch 2 on" in out
    assert "epoch 2/2" in out
    assert (
        command_line.main(
            ["find", "--pretrained", golden, *flags, "--epochs", "1", "--name", "again"]
        )
        == 0
    )
    folder = Path("runs/resnet20-affine-ukn-unsigned/prune-rate=0.5")
    saved = torch.load(folder / "again/checkpoints/initial.state", weights_only=True)
    first = torch.load(golden, weights_only=True)["state_dict"]
    assert all(
        torch.equal(value, saved["state_dict"][key.removeprefix("module.")])
        for key, value in first.items()
    )
    assert (
        command_line.main(
            ["evaluate", "--pretrained", str(folder / "again/checkpoints/model_best.pth")]
        )
        == 0
    )
    assert "no checksum of the whole" in capsys.readouterr().err
    assert "--prune-rate 0.3: but" in fails(
        capsys, "find", "--pretrained", golden, *flags, "--prune-rate", "0.3"
    )


def test_the_ancestors_first_version_wants_flags_and_warns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    golden = str(shared("golden/wide_vgg_small_132_w2_p05_oldformat.pth"))
    write_cifar_parquet(tmp_path)
    data = ["--set", "CIFAR10", "--data", "."]
    assert "pass --conv-type and --prune-rate" in fails(
        capsys, "evaluate", "--pretrained", golden, *data
    )
    flags = [
        "--conv-type",
        "SubnetConv",
        "--prune-rate",
        "0.05",
        "--width-mult",
        "2",
        "--bn-type",
        "NonAffineBatchNorm",
    ]
    assert command_line.main(["evaluate", "--pretrained", golden, *data, *flags]) == 0
    captured = capsys.readouterr()
    assert "biprop: warning:" in captured.err
    assert "does not say its conv_type and prune_rate; taken as given" in captured.err
    assert "(5.0" in captured.out
    assert "--width-mult 8.0: but" in fails(
        capsys, "evaluate", "--pretrained", golden, *data, *flags, "--width-mult", "8"
    )


def test_a_malicious_or_truncated_checkpoint_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (Path("was-here"),))

    torch.save({"arch": "Conv4", "state_dict": Evil()}, "evil.pth")
    whole = shared("golden/conv4wide_025_p20.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    for command in (["evaluate"], ["find", "--evaluate"], ["find"]):
        assert "refused: not a plain checkpoint" in fails(
            capsys, *command, "--pretrained", "evil.pth"
        )
        assert "damaged or truncated?" in fails(capsys, *command, "--pretrained", "half.pth")
    assert not (tmp_path / "was-here").exists()


def test_global_runs_report_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        command_line.main(
            [
                "find",
                *QUICK,
                "--conv-type",
                "GlobalSubnetConv",
                "--results",
                "tables",
                "--histograms",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    folder = Path("runs/digits/width_mult=0.25/prune-rate=0.2/find")
    layers = json.loads((folder / "layers.json").read_text())
    assert len(layers) == 7
    for layer in layers:
        assert f"{layer['name']} " in out
        assert f"{layer['kept']:,} of {layer['weights']:,}  ({100 * layer['density']:.2f} %)" in out
    assert Path("tables/results.csv").is_file()
    assert not Path("runs/results.csv").exists()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    assert {f"layer_density/{layer['name']}" for layer in layers} <= set(events.Tags()["scalars"])
    assert {"scores/convs.0", "weights/convs.0", "gradients/convs.0.scores"} <= set(
        events.Tags()["histograms"]
    )


def test_warnings_do_not_stop_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", *QUICK, "--gaussian_aug", "--one-batch"]) == 0
    assert "biprop: warning: gaussian_aug does nothing at p_clean = 1" in capsys.readouterr().err


def test_augmentation_is_in_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--augmix",
        "--jsd",
        "--mixture-width",
        "2",
        "--aug-severity",
        "1",
        "--low-data",
        "0.2",
    ]
    assert command_line.main(["find", *QUICK, *flags]) == 0
    folder = Path("runs/digits/width_mult=0.25/prune-rate=0.2/find/checkpoints")
    content = torch.load(folder / "model_best.pth", weights_only=True)
    fields = (
        "train_augmentation",
        "use_augmix",
        "jsd",
        "augmix_mixture_width",
        "augmix_severity",
        "use_gaussian_aug",
    )
    assert [content[field] for field in fields] == ["Augmix", True, True, 2, 1, False]


def test_a_search_on_photographs_that_are_streamed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_photographs(tmp_path / "photographs")
    flags = [
        "--image-size",
        "32",
        "--arch",
        "ResNet18",
        "--batch-size",
        "8",
        "--epochs",
        "1",
        "--workers",
        "1",
        "--lr",
        "0.05",
    ]
    assert command_line.main(["find", "--set", "ImageNet", "--data", "photographs", *flags]) == 0
    out = capsys.readouterr().out
    assert "on ImageNet (41 training, 4 validation, 15 test images)" in out
    checkpoint = "runs/ImageNet-ResNet18/prune-rate=0.2/find/checkpoints/model_best.pth"
    assert command_line.main(["evaluate", "--pretrained", checkpoint]) == 0
    accuracy = re.search(r"^  test accuracy +([\d.]+ %)", out, re.M)
    assert accuracy
    assert accuracy[1] in capsys.readouterr().out


def test_debug_shows_where_a_mistake_was_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", "--prune-rate", "7", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_data_without_a_set_is_recognised(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "photos", ("books", "mugs", "plants"), count=20)
    assert command_line.main(["find", *QUICK, "--data", "photos", "--lr", "0"]) == 0
    captured = capsys.readouterr()
    assert "on folder (44 training, 4 validation, 12 test images)" in captured.out
    assert (
        "data photos: folder, 3 classes (books, mugs, plants), 60 images: train ./, a fifth of it"
        " held out as the test set" in captured.out
    )
    assert (
        "biprop: warning: only 4 validation images: too few to choose an epoch by" in captured.err
    )
    assert re.search(
        r"confidence interval +\d+ to \d+ %  \(95 %; there are only 12 test images\)", captured.out
    )
    assert "Search done, but no" in captured.out  # nothing was learned, as the learning rate is 0
    assert "Multi-Prize Ticket found" not in captured.out
    assert "epoch 1, the last; 4 validation images" in captured.out
    assert "  best" not in captured.out  # so few choose no epoch
    run = next(Path("runs").rglob("result.json")).parent
    assert command_line.main(["pack", str(run), "-o", "photos.mpt"]) == 0
    (tmp_path / "photos" / "stray.png").write_bytes(b"")
    assert command_line.main(["evaluate", "photos.mpt", "--data", "photos"]) == 0
    assert "1 images that are in no class are left out" in capsys.readouterr().err
    (tmp_path / "photos" / "stray.png").unlink()
    for old, new in (("books", "x"), ("plants", "books"), ("x", "plants")):
        (tmp_path / "photos" / old).rename(tmp_path / "photos" / new)
    assert (
        command_line.main(["evaluate", "photos.mpt", "--data", "photos"]) == 0
    )  # the same names: sorted, whatever the order on the disk
    (tmp_path / "photos" / "mugs").rename(tmp_path / "photos" / "cups")
    capsys.readouterr()
    message = fails(capsys, "evaluate", "photos.mpt", "--data", "photos")
    assert (
        "made for other classes than the data have: class 1 is 'mugs' there and 'cups' here"
        in message
    )
    assert "searched other classes than the data have" in fails(
        capsys, "find", "--resume", str(run), "--epochs", "2"
    )


def test_data_that_are_not_used_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["find", *QUICK]) == 0
    capsys.readouterr()
    path = "runs/digits/width_mult=0.25/prune-rate=0.2/find"
    for command in (["evaluate", path], ["find", "--resume", path, "--epochs", "2"]):
        assert "--data x: not used: the digits are part" in fails(capsys, *command, "--data", "x")


def test_class_names_that_are_not_printable_are_packed_as_escapes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "d", ("\u7f8e\u77ed\u3000\u732b", "zebra"))
    assert command_line.main(["find", *QUICK, "--set", "folder", "--data", "d"]) == 0
    run = next(Path("runs").rglob("result.json")).parent
    assert command_line.main(["pack", str(run), "-o", "cats.mpt"]) == 0
    assert command_line.main(["inspect", "cats.mpt"]) == 0
    assert "zebra, \u7f8e\u77ed\\u3000\u732b" in capsys.readouterr().out
