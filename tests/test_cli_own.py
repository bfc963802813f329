"""The user's own networks, and arrays, on the command line: from search to ticket."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import png
from test_cli import fails

from biprop import Ticket, checkpoint
from biprop.cli import command_line

NETWORK = """
import biprop
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels, image_size, width=4, dropout=0.0, binary=False):
        super().__init__()
        self.activation = biprop.BinaryActivation() if binary else nn.ReLU()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * (image_size // 4) ** 2, num_classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.activation(self.norm(self.conv(x))), 4)
        return self.head(self.dropout(x.flatten(1)))
"""
NET = ["--arch", "nets.py:Net"]
QUICK = ["--epochs", "1", "--device", "cpu", "--low-data", "0.1", "--batch-size", "32"]


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETWORK)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command_line.main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_teacher_may_be_the_code_that_is_searched_and_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dense = ["--conv-type", "DenseConv", "--no-freeze-weights", "--name", "dense"]
    run(capsys, "find", *NET, *QUICK, *dense)
    teacher = ["--teacher", str(next(Path("runs").rglob("dense")))]
    out = run(capsys, "find", *NET, *QUICK, *teacher, "--name", "taught")
    assert "Net" in out
    Path("others.py").write_text(NETWORK)
    error = fails(capsys, "find", "--arch", "others.py:Net", *QUICK, *teacher)
    assert (
        "its network is code, nets.py:Net, and only that of --arch is run: pass a ticket" in error
    )


def accuracy(out: str) -> str:
    (line,) = [line for line in out.splitlines() if "test accuracy  " in line]
    return line.split("%")[0].split()[-1]


def test_from_a_file_of_the_user_to_a_ticket_that_needs_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["--arch-args", "width=6"]
    out = run(capsys, "find", *NET, *args, *QUICK, "--learn-batchnorm", "--name", "own")
    assert "searching nets.py:Net for a ticket that keeps 20 % of its 3,894 random weights" in out
    folder = "runs/digits/prune-rate=0.2/own"
    again = "files never choose which code runs: pass --arch nets.py:Net --arch-args width=6"
    for command in (
        ["pack", folder, "-o", "own.mpt"],
        ["evaluate", folder],
    ):
        assert again in fails(capsys, *command)
    run(capsys, "report", folder, "-o", "r.html")  # shows what needs no network
    assert "files never choose which code runs" in Path("r.html").read_text()
    run(capsys, "report", folder, "-o", "r.html", *NET, *args)
    assert "files never choose which code runs" not in Path("r.html").read_text()
    missing = "files give no arguments to your code: pass --arch-args width=6"
    assert missing in fails(capsys, "evaluate", folder, *NET)
    assert "says nets.py:Net" in fails(capsys, "evaluate", folder, "--arch", "nets.py:Other")
    assert accuracy(run(capsys, "evaluate", folder, *NET, *args)) == accuracy(out)
    run(capsys, "pack", folder, "-o", "own.mpt", *NET, *args)
    ticket = Ticket.load("own.mpt")
    assert ticket.found["options"]["arch"] == "nets.py:Net"
    assert (ticket.input_size, len(ticket.mean), ticket.classes[9]) == ((1, 32, 32), 1, "9")

    Path("nets.py").unlink()  # from here on the ticket is enough
    assert accuracy(run(capsys, "evaluate", "own.mpt")) == accuracy(out)
    by_engine = run(capsys, "evaluate", "own.mpt", "--engine", "--compare")
    assert "disagreements        0 of" in by_engine
    assert "1 conv, 1 batch_norm, 1 relu, 1 max_pool" in run(capsys, "inspect", "own.mpt")
    Path("a.png").write_bytes(png(np.zeros((32, 32), np.uint8)))
    assert run(capsys, "predict", "own.mpt", "a.png").startswith("file")
    run(capsys, "compile", "own.mpt", "-o", "own.bprog")
    run(capsys, "export", "own.mpt", "--to", "onnx", "-o", "own.onnx")
    run(capsys, "bench", "own.mpt", "--seconds", "0.001", "--batch", "2", "--threads", "1")
    measured = run(capsys, "robustness", "own.mpt", "--corruptions", "fog", "--severities", "1")
    assert "clean" in measured
    run(capsys, "report", "own.mpt", "-o", "r.html", "--images", "20")


def test_a_run_resumes_with_the_same_bits_when_it_is_given_its_code_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dropout draws, from the step of the run: the same after a resumption as without one."""
    options = [*NET, "--arch-args", "dropout=0.3", *QUICK, "--no-baseline"]
    run(capsys, "find", *options, "--name", "whole", "--epochs", "2")
    run(capsys, "find", *options, "--name", "parts", "--epochs", "1", "--lr-policy", "cosine_lr")
    whole, parts = (Path(f"runs/digits/prune-rate=0.2/{name}") for name in ("whole", "parts"))
    shutil.copytree(whole, parts, dirs_exist_ok=True)
    start = whole / "checkpoints/initial.state"
    (parts / "result.json").unlink()
    shutil.copy(start, parts / "checkpoints/epoch_most_recent.state")
    error = fails(capsys, "find", "--resume", str(parts))
    assert "pass --arch nets.py:Net --arch-args dropout=0.3" in error
    run(capsys, "find", "--resume", str(parts), *NET, "--arch-args", "dropout=0.3")
    states = [
        checkpoint.load(folder / "checkpoints/epoch_most_recent.state")["state_dict"]
        for folder in (whole, parts)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    pretrained = [str(whole / "checkpoints/model_best.pth"), *QUICK, "--name", "more"]
    assert "pass --arch nets.py:Net" in fails(capsys, "find", "--pretrained", *pretrained)
    run(capsys, "find", "--pretrained", *pretrained, *NET, "--arch-args", "dropout=0.3")


def test_global_scope_dense_layers_and_muon(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (
        ["--conv-type", "GlobalSubnetConv", "--arch-args", "binary=true"],
        ["--optimizer", "muon", "--last-layer-dense", "--layer-prune-rates", "conv=0.7"],
        ["--conv-type", "DenseConv", "--no-freeze-weights"],
    ):
        out = run(capsys, "find", *NET, *QUICK, "--no-baseline", *options)
        is_binary = "MPT-1/1: binary weights and activations" in out
        assert is_binary == ("binary=true" in options)
    for folder, options in (("find", ["--arch-args", "binary=true"]), ("find/0", [])):
        path = f"runs/digits/prune-rate=0.2/{folder}"
        run(capsys, "pack", path, "-o", "x.mpt", "--compact", *NET, *options)
    grid = ["--grid", "arch=nets.py:Net,nets.py:Other", "prune_rate=0.5"]
    assert "has no class or function 'Other'" in fails(capsys, "sweep", *grid, *QUICK)
    assert not Path("runs/digits/prune-rate=0.5").exists()  # before the first search
    grid = ["--grid", "arch=nets.py:Net,Wide_VGG_Small_132", "--no-baseline", "--name", "both"]
    assert "arch=nets.py:Net  " in run(capsys, "sweep", *grid, *QUICK)


def write_arrays(path: str, shape: tuple[int, ...], rows: int = 150, **more: Any) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % 3
    x = rng.normal(size=(rows, *shape))
    x[:, 0] += 5.0 * labels.reshape(-1, *[1] * (len(shape) - 1))
    np.savez(path, X=1000 * x + 1e7, y=np.array(["low", "middle", "high"])[labels], **more)


@pytest.mark.parametrize(("shape", "arch"), [((6,), "MLP"), ((2, 12), "SeriesCNN")])
def test_tables_and_series_without_a_network_of_the_users(
    capsys: pytest.CaptureFixture[str], shape: tuple[int, ...], arch: str
) -> None:
    write_arrays("x.npz", shape)
    small = ["--arch-args", "width=16", "--device", "cpu", "--no-baseline"]
    out = run(capsys, "find", "--data", "x.npz", "--epochs", "8", *small)
    assert f"searching {arch} for a ticket" in out
    assert float(accuracy(out)) > 60
    told = run(capsys, "pack", f"runs/arrays-{arch}/prune-rate=0.5/find", "-o", "x.mpt")
    assert "biprop evaluate x.mpt --data FILE.npz" in told
    assert "biprop predict x.mpt FILE.npz" in told
    ticket = Ticket.load("x.mpt")
    assert (len(ticket.mean), ticket.classes) == (shape[0], ["high", "low", "middle"])
    assert not ticket.takes_pixels
    evaluated = run(capsys, "evaluate", "x.mpt", "--data", "x.npz")
    assert accuracy(evaluated) == accuracy(out)
    assert "top 5" not in evaluated  # of three classes
    assert re.search(rf"network +{arch}\n", evaluated)
    compared = run(capsys, "evaluate", "x.mpt", "--data", "x.npz", "--engine", "--compare")
    assert "disagreements        0 of" in compared
    lines = run(capsys, "predict", "x.mpt", "x.npz", "--json").splitlines()
    rows = [json.loads(line) for line in lines]
    samples = torch.from_numpy(np.load("x.npz")["X"]).float()
    expected = ticket.to_model(on_pixels=True)(samples).argmax(1)
    assert [row["index"] for row in rows] == expected.tolist()
    assert rows[3]["file"] == "x.npz[3]"
    quantised = run(capsys, "predict", "x.mpt", "x.npz", "--json", "--calibration", "x.npz")
    same = [
        json.loads(a)["index"] == row["index"]
        for a, row in zip(quantised.splitlines(), rows, strict=True)
    ]
    assert sum(same) > 0.9 * len(same)
    assert f"{' x '.join(map(str, shape))} inputs" in run(capsys, "inspect", "x.mpt")
    run(capsys, "bench", "x.mpt", "--seconds", "0.001", "--batch", "2", "--threads", "1")
    run(capsys, "report", "x.mpt", "-o", "r.html", "--data", "x.npz")
    error = fails(capsys, "robustness", "x.mpt", "--data", "x.npz")
    assert "corruptions are of images, and the data have 3 classes" in error
    write_arrays("other.npz", (shape[0] + 1, *shape[1:]))
    assert "made for 3 classes of" in fails(capsys, "evaluate", "x.mpt", "--data", "other.npz")
    assert command_line.main(["predict", "x.mpt", "other.npz"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "biprop: other.npz: its rows have the shape" in err
    assert "--gating none: x.mpt is no deck" in fails(
        capsys, "predict", "x.mpt", "x.npz", "--gating", "none"
    )


def test_a_network_of_the_users_on_arrays_of_any_shape(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("cube.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_channels, input_size):\n"
        "    return nn.Sequential(nn.Conv3d(in_channels, 4, input_size), nn.Flatten(), nn.ReLU(),\n"
        "                         nn.Linear(4, num_classes))\n"
    )
    write_arrays("x.npz", (2, 3, 4, 5), rows=60)
    quick = ["--epochs", "1", "--device", "cpu", "--no-baseline"]
    assert "pass --arch FILE.py:NAME" in fails(capsys, "find", "--data", "x.npz")
    run(capsys, "find", "--data", "x.npz", "--arch", "cube.py:net", *quick)
    folder = "runs/arrays-net/prune-rate=0.5/find"
    run(capsys, "pack", folder, "-o", "x.mpt", "--arch", "cube.py:net")
    assert Ticket.load("x.mpt").input_shape == (2, 3, 4, 5)
    assert "of 12 samples" in run(capsys, "evaluate", "x.mpt", "--data", "x.npz")


def test_pixels_in_arrays_are_images_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (60, 32, 32), dtype=np.uint8)
    labels = np.arange(60) % 2
    pixels[labels == 1] += 55
    np.savez("x.npz", images=pixels, labels=labels)
    options = ["--epochs", "1", "--device", "cpu", "--no-baseline", "--augment", "flip"]
    run(capsys, "find", "--data", "x.npz", *options, *NET)
    run(capsys, "pack", "runs/arrays-Net/prune-rate=0.5/find", "-o", "x.mpt", *NET)
    Path("a.png").write_bytes(png(pixels[0]))
    first = json.loads(run(capsys, "predict", "x.mpt", "x.npz", "--json").splitlines()[0])
    image = json.loads(run(capsys, "predict", "x.mpt", "a.png", "--json"))
    assert first["probabilities"] == pytest.approx(image["probabilities"], rel=1e-4)
    error = fails(capsys, "predict", "x.mpt", "x.npz", "a.png")
    assert "pass one kind at a time" in error


def test_a_network_that_views_images_in_colour(capsys: pytest.CaptureFixture[str]) -> None:
    """`view` fails on what a convolution makes of images in channels_last, the default of the
    CPU.
    """
    Path("views.py").write_text(NETWORK.replace("x.flatten(1)", "x.view(x.size(0), -1)"))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    np.savez("x.npz", images=pixels, labels=np.arange(60) % 2)
    options = ["--data", "x.npz", "--epochs", "1", "--device", "cpu", "--no-baseline"]
    net = ["--arch", "views.py:Net"]
    out = run(capsys, "find", *options, *net)
    found = "runs/arrays-Net/prune-rate=0.5/find"
    assert accuracy(out) == accuracy(run(capsys, "evaluate", found, *net, "--data", "x.npz"))
    run(capsys, "pack", found, "-o", "x.mpt", *net)
    assert accuracy(out) == accuracy(run(capsys, "evaluate", "x.mpt", "--data", "x.npz"))
    error = fails(capsys, "find", *options, *net, "--channels-last")
    assert "does not take images in this memory format" in error
