"""A ticket and its checkpoint are one network: the same counts on the same data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import network_of, png, random_ticket
from own_networks import packed
from torch import nn

from biprop import Engine, Ticket, UserError, convert
from biprop.cli import command_line
from biprop.config import resolve
from biprop.console import Console
from biprop.data import load
from biprop.data.sources import Images
from biprop.engine import instruction_sets
from biprop.evaluation.engine_model import Packed
from biprop.evaluation.subject import (
    calibration_images,
    load_data,
    measure,
    of_checkpoint,
    of_ticket,
)
from biprop.models.network import Task
from biprop.runs.folder import BEST
from biprop.search import pack


def test_a_ticket_scores_what_its_checkpoint_scores(found_run: Path, tmp_path: Path) -> None:
    ticket = pack.pack(found_run, {})
    ticket.save(tmp_path / "a.mpt")
    console = Console()
    counts = []
    for subject in (
        of_ticket(tmp_path / "a.mpt", {}),
        of_checkpoint(found_run / "checkpoints" / BEST, {}, {}),
    ):
        images = load_data(subject, console)
        counts.append(measure(subject, images, images.test, "cpu", console, "test"))
    assert counts[0] == counts[1]
    assert ticket.found["test"]["right"] == counts[0].right


def test_pack_inspect_evaluate(
    found_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "a.mpt")
    assert command_line.main(["pack", str(found_run), "-o", name]) == 0
    assert "every weight, rebuilt from the file, equals the network's" in capsys.readouterr().out
    assert command_line.main(["inspect", name]) == 0
    shown = capsys.readouterr().out
    assert "convs.0" in shown and "test accuracy" in shown and "they follow from the seed" in shown
    assert command_line.main(["evaluate", name, "--device", "cpu"]) == 0
    assert f"{Ticket.load(name).found['test']['right']} of 360 images" in capsys.readouterr().out
    compact = str(tmp_path / "c.mpt")
    assert (
        command_line.main(
            [
                "pack",
                str(found_run / "checkpoints" / BEST),
                "-o",
                compact,
                "--compact",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert "in float32" in capsys.readouterr().out
    assert Path(compact).stat().st_size < Path(name).stat().st_size


def test_mistakes_are_one_line(
    found_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "a.mpt")
    pack.pack(found_run, {}).save(name)
    damaged = bytearray(Path(name).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "d.mpt").write_bytes(damaged)
    for command, message in (
        (
            ["pack", str(found_run), "-o", str(tmp_path / "a.bin")],
            "the name of a ticket ends with .mpt",
        ),
        (["pack", str(tmp_path), "-o", name], "not a run folder"),
        (["pack", str(found_run), "-o", str(tmp_path / "no" / "a.mpt")], "cannot be written"),
        (["pack", str(found_run)], "required: -o"),
        (["inspect", str(tmp_path / "d.mpt")], "the checksum does not fit the content"),
        (["evaluate", str(tmp_path / "d.mpt")], "the checksum does not fit the content"),
        (["evaluate", str(tmp_path / "none.mpt")], "cannot be read: No such file"),
        (["evaluate", name, "--arch", "Conv2"], "--arch Conv2: but"),
        (["evaluate", name, "--set", "MNIST", "--data", str(tmp_path)], "MNIST"),
        (["evaluate"], "name one file"),
        (["evaluate", "a.deck"], "a.deck: a deck: biprop robustness measures decks"),
    ):
        assert command_line.main(command) == 2, command
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_a_ticket_of_other_data_is_refused(found_run: Path, tmp_path: Path) -> None:
    pack.pack(found_run, {}).save(tmp_path / "a.mpt")
    subject = of_ticket(tmp_path / "a.mpt", {})
    subject.task = Task(7, 1, (32, 32))
    with pytest.raises(UserError, match="made for 7 classes"):
        load_data(subject, Console())


def test_images_are_all_there_and_normalised_as_the_ticket_wants_them(
    found_run: Path, tmp_path: Path
) -> None:
    """However few of them the search had, and whatever the data themselves say."""
    ticket = pack.pack(found_run, {})
    ticket.mean, ticket.std = (0.25,), (0.5,)
    ticket.found["options"] |= {"low_data": 0.1, "one_batch": True}
    ticket.save(tmp_path / "a.mpt")
    images = load_data(of_ticket(tmp_path / "a.mpt", {}), Console())
    assert [len(split) for split in (images.train, images.validation, images.test)] == [
        1257,
        180,
        360,
    ]
    (batch, _), (pixels, _) = (
        next(images.evaluation_batches(images.test, 9, normalised=way)) for way in (True, False)
    )
    assert torch.allclose(batch, (pixels / 255 - 0.25) / 0.5)


def test_images_for_calibration_are_of_all_classes(found_run: Path) -> None:
    subject = of_checkpoint(found_run / "checkpoints" / BEST, {}, {})
    images = load_data(subject, Console())
    order = images.train.labels.argsort()  # as folders of classes are read
    assert isinstance(images.train, Images)
    images.train = Images(images.train.images[order], images.train.labels[order])
    chosen = torch.from_numpy(calibration_images(subject, images, 20))
    labels = [
        int(images.train.labels[(images.train.images == image).flatten(1).all(1)][0])
        for image in chosen
    ]
    assert set(labels) == set(range(10))


def test_the_engine_is_double_precisions_own() -> None:
    """In a deep network of binary activations, where single precision may turn signs near 0."""
    ticket = random_ticket(network_of("cResNet44_BinAct"))
    images = load(resolve(None, {"device": "cpu"})[0])
    images.mean, images.std = (0.5,), (0.25,)
    packed = Packed(Engine(ticket), images, ticket.to_model().double())
    packed(torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8))
    assert (packed.differing, packed.compared) == (0, 24)


def test_double_precision_starts_from_the_pixels_that_the_engine_sees() -> None:
    """Normalised in float32: products with a gain are exact then, and sums on a black border cancel
    to 0, whose sign is +1.
    """
    ticket = random_ticket(network_of("Conv2_BinAct"))
    images = load(resolve(None, {"device": "cpu"})[0])
    images.mean, images.std = (0.1307,), (0.3081,)
    seen = []
    packed = Packed(Engine(ticket), images, lambda x: seen.append(x) or torch.zeros(len(x), 10))  # type: ignore
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    packed(pixels)
    assert torch.equal(seen[0], images.normalise(pixels).double())


def own_ticket(path: Path, *after: nn.Module, classes: int = 10, **changes: Any) -> None:
    """A ticket of a user's own network on the digits, which the compiled engine cannot run."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), *after
    )
    subnetwork = convert(model, 0.5)
    about: dict[str, Any] = {
        "mean": (0.4,),
        "std": (0.3,),
        "classes": [str(i) for i in range(classes)],
    }
    about |= changes
    ticket = Ticket.from_model(model, subnetwork, example=torch.randn(2, 1, 32, 32), **about)
    ticket.save(path)


def test_a_ticket_of_a_users_own_network_is_enough_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_ticket(Path("own.mpt"), nn.Linear(128, 10))
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Path("a.png").write_bytes(png(image))

    def shown(*command: str) -> str:
        assert command_line.main(list(command)) == 0
        return capsys.readouterr().out

    table = shown("evaluate", "own.mpt", "--set", "digits", "--device", "cpu")
    assert "of the user's own" in table
    (accuracy,) = (line for line in table.splitlines() if line.startswith("  test accuracy "))
    by_engine = shown("evaluate", "own.mpt", "--set", "digits", "--engine", "--compare")
    assert accuracy in by_engine and "0 of 540 predictions" in by_engine

    row = json.loads(shown("predict", "own.mpt", "a.png", "--json"))
    with torch.no_grad():
        pixels = torch.from_numpy(image)[None, None]
        expected = Ticket.load("own.mpt").to_model(on_pixels=True)(pixels).softmax(1)[0]
    assert list(row["probabilities"].values()) == pytest.approx(expected.tolist(), rel=1e-4)

    contents = shown("inspect", "own.mpt")
    assert "of the user's own, 1 x 32 x 32 images" in contents
    assert "5: 1 conv, 1 silu, 1 adaptive_avg_pool, 1 reshape, 1 linear" in contents
    speed = shown("bench", "own.mpt", "--batch", "2", "--threads", "1", "--seconds", "0.01")
    assert "same class to 2 of 2 images" in speed
    if instruction_sets():
        assert "own.bprog written" in shown("compile", "own.mpt", "-o", "own.bprog")


def test_a_users_own_network_without_a_normalisation_takes_plain_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the engine, and not as images of the data set are normalised for a search."""
    monkeypatch.chdir(tmp_path)
    own_ticket(Path("own.mpt"), nn.Linear(128, 10), mean=(), std=())
    subject = of_ticket("own.mpt", {"set": "digits"})
    images = load_data(subject, Console())
    pixels, _ = next(images.evaluation_batches(images.test, 100, normalised=False))
    floats, _ = next(images.evaluation_batches(images.test, 100))
    assert torch.allclose(floats, pixels.float() / 255)
    logits = Engine("own.mpt").run(pixels.numpy())
    assert np.allclose(subject.model(floats).detach().numpy(), logits, atol=1e-5)
    packed = Packed(Engine("own.mpt"), images, None)
    assert np.allclose(packed(pixels).numpy(), logits, atol=1e-5)


def test_the_data_of_a_users_own_network_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_ticket(Path("own.mpt"), nn.Linear(128, 3), classes=0)
    image = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    for name in ("train/a", "train/b", "train/c", "test/a", "test/b", "test/c"):
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for i in range(4):
            (folder / f"{i}.png").write_bytes(image)
    assert command_line.main(["evaluate", "own.mpt", "--data", "photos", "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "of 12 images)" in table
    assert "epoch" not in table  # no search of biprop found it
    assert command_line.main(["evaluate", "own.mpt", "--data", "none"]) == 2
    assert "--data none: no such folder" in capsys.readouterr().err


def test_what_does_not_classify_images_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_ticket(Path("maps.mpt"), nn.Linear(128, 9), nn.Unflatten(1, (3, 3)), classes=0)
    own_ticket(Path("nine.mpt"), nn.Linear(128, 9), classes=9)
    _, series = packed("series")
    series.save("series.mpt")
    Path("a.png").write_bytes(png(np.zeros((32, 32), np.uint8)))
    for command, message in (
        (["evaluate", "maps.mpt"], "from [1, 32, 32] to [3, 3]: must be from images"),
        (["evaluate", "series.mpt"], "does not tell its data: pass --data DIR"),
        (["evaluate", "series.mpt", "--set", "digits"], "made for 3 classes of 2 x 24 series"),
        (["evaluate", "nine.mpt", "--set", "digits"], "made for 9 classes of 1 x 32 x 32 images"),
        (["evaluate", "nine.mpt"], "does not tell its data: pass --data DIR"),
        (["predict", "series.mpt", "a.png"], "takes inputs of shape [2, 24], not images"),
        (["predict", "maps.mpt", "a.png"], "gives results of shape [3, 3], not classes"),
    ):
        assert command_line.main(command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error and command[1] in error
