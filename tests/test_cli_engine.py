"""predict, bench, compile and evaluate --engine, as a user has them."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import network_of, png, random_ticket
from own_networks import packed
from test_cli import fails

from biprop import Engine, Ticket
from biprop.cli import command_line, predict
from biprop.console import Console
from biprop.engine import engine, instruction_sets
from biprop.evaluation.engine_model import Packed
from biprop.evaluation.subject import load_data, of_ticket

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a.mpt, and pictures/{0..4}.png, of which one is smaller and one is coloured."""
    monkeypatch.chdir(tmp_path)
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    ticket.mean, ticket.std, ticket.classes = (0.4,), (0.3,), CLASSES
    ticket.save("a.mpt")
    rng = np.random.default_rng(0)
    Path("pictures").mkdir()
    for i, shape in enumerate([(32, 32), (32, 32), (20, 30), (32, 32, 3), (32, 32)]):
        Path(f"pictures/{i}.png").write_bytes(png(rng.integers(0, 256, shape, dtype=np.uint8)))


def objects(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert command_line.main(["predict", "a.mpt", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predictions_are_those_of_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    found = objects(capsys, "pictures/4.png", "pictures", "pictures/0.png", "--batch", "2")
    assert [Path(one["file"]).stem for one in found] == ["4", "0", "1", "2", "3", "4", "0"]
    from PIL import Image

    images = [
        np.asarray(Image.open(one["file"]).convert("L").resize((32, 32), Image.Resampling.BILINEAR))
        for one in found
    ]
    x = (torch.from_numpy(np.stack(images))[:, None].float() / 255 - 0.4) / 0.3
    with torch.no_grad():
        expected = Ticket.load("a.mpt").to_model()(x).double().softmax(1).numpy()
    for one, row in zip(found, expected, strict=True):
        assert list(one["probabilities"]) == CLASSES
        np.testing.assert_allclose(list(one["probabilities"].values()), row, rtol=1e-3, atol=1e-6)
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert (one["class"], one["index"]) == (CLASSES[row.argmax()], row.argmax())
        assert one["probability"] == one["probabilities"][one["class"]]


def test_a_line_a_picture_with_the_likeliest_classes(capsys: pytest.CaptureFixture[str]) -> None:
    one = objects(capsys, "pictures/1.png")[0]
    best = sorted(one["probabilities"], key=lambda name: -one["probabilities"][name])
    for top, shown in ((["--top", "1"], 1), ([], 3), (["--top", "99"], 10)):
        assert command_line.main(["predict", "a.mpt", "pictures/1.png", *top]) == 0
        head, row = capsys.readouterr().out.splitlines()
        assert head.split() == ["file", "class", *["next"] * (shown - 1)]
        cells = re.split(r" {2,}", row)
        assert cells[0] == "pictures/1.png"
        assert cells[1::2] == best[:shown]
        assert cells[2].removesuffix(" %") == f"{100 * one['probability']:.1f}"


def test_class_names_are_made_unique(capsys: pytest.CaptureFixture[str]) -> None:
    ticket = Ticket.load("a.mpt")
    ticket.classes = ["crane", *CLASSES[1:9], "crane"]
    assert predict.class_names(ticket, 12) == ["crane (0)", *CLASSES[1:9], "crane (9)", "10", "11"]
    ticket.classes = []
    ticket.save("a.mpt")
    assert list(objects(capsys, "pictures/0.png")[0]["probabilities"]) == [
        str(i) for i in range(10)
    ]


def test_mistakes_in_predict(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("pictures/3.png").write_text("no picture")
    Path("odd\n.png").write_bytes(Path("pictures/0.png").read_bytes())
    assert command_line.main(["predict", "a.mpt", "odd\n.png"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    for arguments, message in (
        (["a.mpt", "pictures/3.png"], "pictures/3.png: not a readable image"),
        (["a.mpt", "empty"], "empty: no images in this folder"),
        (["a.mpt", "none.png"], "none.png: cannot be read: No such file"),
        (["none.mpt", "pictures"], "none.mpt: cannot be read"),
        (["pictures/0.png", "pictures"], "pictures/0.png: not a ticket"),
        (["a.mpt"], "required: IMAGE"),
        (["a.mpt", "pictures", "--top", "0"], "--top 0: must be 1 .. "),
        (["a.mpt", "pictures", "--batch", "-1"], "--batch -1: must be 1 .. "),
        (["a.mpt", "pictures", "--threads", "0"], "threads = 0: must be 1 .. "),
        (["a.mpt", "pictures", "--bath", "1"], "did you mean '--batch'"),
    ):
        assert message in fails(capsys, "predict", *arguments)
    random_ticket(network_of("Wide_VGG_Small_132", channels=2)).save("two.mpt")
    assert "two.mpt: takes 2 channels" in fails(capsys, "predict", "two.mpt", "pictures")


@pytest.mark.parametrize("batch", ["1", "2", "64"])
def test_a_damaged_picture_does_not_end_the_others(
    batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = objects(capsys, "pictures")
    Path("pictures/3.png").write_text("no picture")
    Path("pictures/0.png").write_bytes(Path("pictures/0.png").read_bytes()[:200])
    assert command_line.main(["predict", "a.mpt", "pictures", "--json", "--batch", batch]) == 2
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [one.get("class") for one in found] == [
        None,
        *(one["class"] for one in whole[1:3]),
        None,
        whole[4]["class"],
    ]
    assert found[3] == {
        "file": "pictures/3.png",
        "error": err.splitlines()[1].removeprefix("biprop: "),
    }
    assert (
        err.splitlines()[2]
        == "biprop: 2 of 5 images failed (see above); the others were classified"
    )
    assert command_line.main(["predict", "a.mpt", "pictures", "--batch", batch]) == 2
    out, err = capsys.readouterr()
    assert [row.split()[0] for row in out.splitlines()] == [
        "file",
        *(f"pictures/{i}.png" for i in (1, 2, 4)),
    ]
    assert err.count("not a readable image") == 2


def test_predict_loads_no_torch() -> None:
    code = (
        "import sys; from biprop import cli\nsys.modules['torch'] = None\nassert"
        " cli.main(['predict', 'a.mpt', 'pictures']) == 0\nassert cli.main(['bench', 'a.mpt',"
        " '--seconds', '0.001', '--batch', '1', '--no-torch', '--explain']) == 0\nassert"
        " cli.main(['compile', 'a.mpt', '-o', 'a.bprog']) == 0\nassert 'rich' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr


def test_a_bar_only_when_it_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[list[int]] = []

    @contextmanager
    def bar(self: Console, what: str, total: int) -> Any:
        bars.append([total])
        yield type("", (), {"advance": lambda _, steps: bars[-1].append(steps)})()

    monkeypatch.setattr(Console, "bar", bar)
    assert len(objects(capsys, "pictures", "--batch", "2")) == 5
    assert bars == []
    monkeypatch.setattr(predict, "BAR_DELAY", -1.0)
    assert len(objects(capsys, "pictures", "--batch", "2")) == 5
    assert bars == [[5, 0, 2, 2, 1]]


def test_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ["--seconds", "0.001", "--threads", "1"]
    assert (
        command_line.main(["bench", "a.mpt", *quick, "--batch", "1,3,1", "--json", "--explain"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["ticket_bytes"] == Path("a.mpt").stat().st_size
    assert found["float32_bytes"] > found["ticket_bytes"]
    if instruction_sets():
        assert 0 < found["activations_bytes"] < found["memory_bytes"]
    assert [(row["batch"], row["threads"]) for row in found["rows"]] == [(1, 1), (3, 1)]
    for row in found["rows"]:
        assert row["same"] == row["batch"]
        assert row["ratio"] == pytest.approx(row["torch"]["median"] / row["engine"]["median"])
    assert [one["batch"] for one in found["explained"]] == (
        [1, 3] if Engine("a.mpt").compiled else []
    )
    from biprop.engine import timing
    from biprop.engine.timing import Timing

    timings = {"engine": Timing(3, 2, 4, 5), "torch": Timing(2, 1, 3, 5)}
    monkeypatch.setattr(timing, "interleaved", lambda *_: timings)
    assert command_line.main(["bench", "a.mpt", *quick, "--batch", "2"]) == 0
    out = capsys.readouterr().out
    assert "no gain at batch 2 with 1 thread: the engine takes 1.50 times as long as PyTorch" in out
    assert "both give the same class to 2 of 2 images" in out
    timings["torch"] = Timing(6, 1, 9, 5)
    assert command_line.main(["bench", "a.mpt", *quick, "--batch", "2"]) == 0
    out = capsys.readouterr().out
    assert "no gain" not in out and out.splitlines()[3].endswith("2.00")
    monkeypatch.setattr(timing, "has_torch", lambda: False)
    assert command_line.main(["bench", "a.mpt", *quick, "--batch", "2"]) == 0
    captured = capsys.readouterr()
    assert "PyTorch is not installed: no comparison" in captured.err and "ratio" not in captured.out


def test_bench_explains_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    if not Engine("a.mpt").compiled:
        pytest.skip("no compiled core")
    name = instruction_sets()[-1]
    flags = [
        "--seconds",
        "0.001",
        "--batch",
        "1",
        "--no-torch",
        "--explain",
        "--instruction-set",
        name,
    ]
    assert command_line.main(["bench", "a.mpt", *flags]) == 0
    out = capsys.readouterr().out
    assert f"a.mpt ({name})" in out
    assert f"batch 1 ({name}, " in out
    assert re.search(r"^  conv 3x3/1 +1x32x32 floats +16x32x32 floats +\S.*%$", out, re.M)
    assert re.search(r"^  all .*100\.0 %$", out, re.M)


def test_mistakes_in_bench_and_compile(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["bench", "a.mpt", "--batch", "1,x"], "--batch 1,x: must be whole numbers"),
        (["bench", "a.mpt", "--batch", "0"], "--batch 0: must be 1 .. "),
        (["bench", "a.mpt", "--threads", "9999"], "threads = 9999: must be 1 .. "),
        (["bench", "a.mpt", "--seconds", "nan"], "--seconds nan: must be above 0"),
        (["bench", "a.mpt", "--instruction-set", "mmx"], "instruction set 'mmx': this machine has"),
        (["bench", "none.mpt"], "none.mpt: cannot be read"),
        (["compile", "a.mpt", "-o", "a.bin"], "the name of a program ends with .bprog"),
        (["compile", "a.mpt", "-o", "none/a.bprog"], "none/a.bprog: cannot be written"),
        (["compile", "none.mpt", "-o", "a.bprog"], "none.mpt: cannot be read"),
    ):
        assert message in fails(capsys, *arguments)
    ticket = Ticket.load("a.mpt")
    ticket.network = None
    ticket.save("own.mpt")
    for command in (
        ["predict", "own.mpt", "pictures"],
        ["bench", "own.mpt"],
        ["compile", "own.mpt", "-o", "a.bprog"],
    ):
        assert "own.mpt: of a network that biprop does not know" in fails(capsys, *command)


def test_compile_says_what_maps_a_network_gives(capsys: pytest.CaptureFixture[str]) -> None:
    packed("unet")[1].save("unet.mpt")
    assert command_line.main(["compile", "unet.mpt", "-o", "unet.bprog"]) == 0
    assert "gives    2 x 16 x 24 numbers" in capsys.readouterr().out


def test_compile_writes_what_the_engine_loads(capsys: pytest.CaptureFixture[str]) -> None:
    from biprop.engine.lower import lower

    assert command_line.main(["compile", "a.mpt", "-o", "a.bprog"]) == 0
    assert "1 x 32 x 32 images" in capsys.readouterr().out
    assert Path("a.bprog").read_bytes() == lower(Ticket.load("a.mpt"))


def test_without_the_core_everything_works_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = objects(capsys, "pictures")
    monkeypatch.setattr(engine, "_core", lambda: None)
    found = []
    quick = ["--seconds", "0.001", "--batch", "1", "--threads", "1", "--explain"]
    for command in (
        ["predict", "a.mpt", "pictures", "--json"],
        ["bench", "a.mpt", *quick],
        ["compile", "a.mpt", "-o", "a.bprog"],
    ):
        assert command_line.main(command) == 0
        captured = capsys.readouterr()
        assert "biprop: warning: there is no compiled core: " in captured.err
        found.append(captured.out)
    for one, line in zip(expected, found[0].splitlines(), strict=True):
        assert json.loads(line)["probabilities"] == pytest.approx(
            one["probabilities"], rel=1e-3, abs=1e-6
        )
    assert "numpy, with threads of its own" in found[1]


@pytest.mark.parametrize("normalised", [True, False])
def test_evaluate_by_the_engine(normalised: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if not normalised:
        ticket = Ticket.load("a.mpt")
        ticket.mean = ticket.std = ()
        ticket.save("a.mpt")
    rights = []
    for flags in ([], ["--engine", "--compare"], ["--engine"]):
        assert (
            command_line.main(["evaluate", "a.mpt", "--set", "digits", "--device", "cpu", *flags])
            == 0
        )
        out = capsys.readouterr().out
        rights += re.findall(r"; (\d+) of 360 images", out)
        assert ("computed by" in out) == ("--engine" in flags)
        different = re.search(
            r"disagreements +(\d+) of 540 predictions +\(with PyTorch in float64\)", out
        )
        assert bool(different) == ("--compare" in flags)
        assert not different or int(different[1]) <= 2
    assert rights[1] == rights[2]
    assert abs(int(rights[0]) - int(rights[1])) <= 2
    assert "pass --engine too" in fails(capsys, "evaluate", "a.mpt", "--compare")
    assert "--engine: runs tickets" in fails(capsys, "evaluate", "a.pth", "--engine")


def test_the_engine_in_place_of_a_model() -> None:
    subject = of_ticket("a.mpt", {"set": "digits"})
    images = load_data(subject, Console())
    pixels = images.test.images[:8]  # type: ignore[attr-defined]
    packed = Packed(Engine("a.mpt"), images, lambda x: -subject.model(x.float()))  # type: ignore[arg-type]
    with torch.no_grad():
        expected = subject.model(images.normalise(pixels))
        torch.testing.assert_close(packed(pixels), expected, rtol=1e-3, atol=1e-3)
    assert (packed.differing, packed.compared) == (8, 8)
