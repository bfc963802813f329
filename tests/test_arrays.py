"""Tables, series and images of .npz files as data sets."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import network_of, random_ticket

from biprop import Engine, UserError, config
from biprop.config import Config
from biprop.console import Console
from biprop.data import DataSet, load, sources
from biprop.data.listings import recognise
from biprop.data.sources import mean_and_std, mean_and_std_of_numbers
from biprop.deck.build import build
from biprop.ticket.torch import OnPixels


def loaded(tmp_path: Path, seen: list[Any] | None = None, **arrays: Any) -> DataSet:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    options = Config(set="arrays", data=str(path), prune_rate=0.5, select_on="validation")
    note = [] if seen is None else seen
    return load(options, expect=lambda classes, shape: note.append((classes, shape)))


def table(rows: int = 100, classes: int = 2) -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(rows, 3)) * [1, 100, 0] + [0, 5e6, 7]
    return x, np.arange(rows) % classes


def test_a_table_is_split_as_images_are_and_normalised_by_what_trains(tmp_path: Path) -> None:
    x, y = table()
    seen: list[Any] = []
    data = loaded(tmp_path, seen, X=x, y=y)
    assert seen == [(2, (3,))]
    assert (len(data.train), len(data.validation), len(data.test)) == (72, 8, 20)
    assert (data.channels, data.input_size) == (3, ())
    for part in (data.train, data.validation, data.test):
        assert part.labels.bincount().tolist() == [len(part) // 2] * 2
    trained = data.train.images.double().numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(data.mean, trained.mean(0))
    np.testing.assert_allclose(data.std[:2], trained.std(0)[:2])
    assert data.std[2] == 1  # of a constant
    batch, labels = next(data.training_batches(72, seed=0, epoch=0))
    assert abs(batch.mean(0)).max() < 1e-2  # float32 has steps of 0.5 at 5e6
    np.testing.assert_allclose(batch.std(0, correction=0)[:2], 1, atol=1e-2)
    assert labels.bincount().tolist() == [36, 36]


def test_statistics_are_of_the_training_part_alone(tmp_path: Path) -> None:
    x, y = table()
    parts = {"X_train": x, "y_train": y, "X_val": x[:50] + 1e6, "y_val": y[:50]}
    data = loaded(tmp_path, **parts, X_test=x[:10] - 1e6, y_test=y[:10])
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 50, 10)
    np.testing.assert_allclose(data.mean, x.astype(np.float32).astype(float).mean(0))
    without_test = loaded(tmp_path, **parts)  # then the validation part is the test part
    assert (len(without_test.train), len(without_test.test)) == (90, 50)


def test_bytes_are_pixels_like_those_of_images(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 9), dtype=np.uint8)
    data = loaded(tmp_path, X=x, y=np.arange(40) % 2)
    assert data.is_images
    assert (data.channels, data.input_size) == (1, (8, 9))
    trained = data.train.images  # type: ignore[attr-defined]
    assert (data.mean, data.std) == mean_and_std(trained)
    batch, _ = next(data.evaluation_batches(data.train, 40))
    assert abs(float(batch.mean())) < 1e-5
    rows = loaded(tmp_path, X=x[:, 0], y=np.arange(40) % 2)
    assert not rows.is_images
    batch, _ = next(rows.evaluation_batches(rows.train, 40))
    assert abs(batch.mean(0)).max() < 1e-5


@pytest.mark.parametrize("sides", [(), (5,), (3, 4), (2, 3, 4)])
def test_statistics_of_pixels_are_of_all_samples_whatever_their_order(
    sides: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MOST_NUMBERS", 100)
    pixels = torch.randint(0, 256, (30, 2, *sides), dtype=torch.uint8)
    pixels, _ = pixels.sort(dim=0)  # as if sorted by class
    mean, std = mean_and_std(pixels)
    by_channel = (pixels.double() / 255).transpose(0, 1).reshape(2, -1)
    np.testing.assert_allclose(mean, by_channel.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std, by_channel.std(1), rtol=1e-12)
    assert mean_and_std(torch.full((4, 1), 7, dtype=torch.uint8)) == ((7 / 255,), (1e-3,))


def test_statistics_of_numbers_are_per_channel_and_exact() -> None:
    x = torch.randn(20, 3, 5) * 1e-3 + 1e4
    mean, std = mean_and_std_of_numbers(x)
    np.testing.assert_allclose(mean, x.double().mean((0, 2)))
    np.testing.assert_allclose(std, x.double().std((0, 2), correction=0))


def test_a_model_on_samples_normalises_any_number_of_axes() -> None:
    mean, std = (1e6, 0.5), (10.0, 2.0)
    for sides in ((), (5,), (4, 4)):
        x = torch.randn(3, 2, *sides) + 1e6
        channel = (1, 2, *(1 for _ in sides))
        expected = (x.double() - torch.tensor(mean).view(channel)) / torch.tensor(std).view(channel)
        torch.testing.assert_close(
            OnPixels(torch.nn.Identity(), mean, std)(x).double(), expected, rtol=1e-5, atol=1e-5
        )


def test_what_makes_no_sense_for_numbers_is_refused(tmp_path: Path) -> None:
    x, y = table()
    np.savez(tmp_path / "x.npz", X=x, y=y)
    values = {"set": "arrays", "data": str(tmp_path / "x.npz")}
    for options in ({"augmix": True}, {"augment": "crop"}, {"gaussian_aug": True}):
        chosen, _ = config.resolve(None, {**values, **options})
        with pytest.raises(UserError, match="are for images, and the data are numbers"):
            load(chosen)
    for wrong in ({"stream": True}, {"image_size": 8}):
        with pytest.raises(UserError, match="arrays are taken as they are"):
            config.resolve(None, {**values, **wrong})
    with pytest.raises(UserError, match="with the arrays X and y"):
        config.resolve(None, {"set": "arrays"})
    with pytest.raises(UserError, match="class '1' has too few images"):
        loaded(tmp_path, X=x[:3], y=np.array([0, 1, 0]))


@pytest.mark.filterwarnings("ignore:there is no compiled core")
def test_only_pixels_have_to_be_in_0_to_1() -> None:
    ticket = random_ticket(network_of("Conv2", (8, 8), num_classes=2, channels=1))
    ticket.mean, ticket.std = (1e7,), (1e3,)
    sample = np.full((1, 1, 8, 8), 1e7 + 500, np.float32)
    with pytest.raises(UserError, match=r"floats must be in 0 .. 1"):
        Engine(ticket).run(sample)
    ticket.found = {"options": {"set": "arrays"}}
    pixels = torch.from_numpy(sample)
    expected = ticket.to_model(on_pixels=True)(pixels)
    np.testing.assert_allclose(Engine(ticket).run(sample), expected.detach(), rtol=1e-3, atol=1e-4)


def test_a_deck_is_for_images(tmp_path: Path) -> None:
    cards = [random_ticket(network_of("Conv2", (8, 8), num_classes=2, channels=1)) for _ in "ab"]
    for card in cards:
        card.mean, card.std, card.found = (0.5,), (0.5,), {"options": {"set": "arrays"}}
    np.savez(tmp_path / "x.npz", X=np.zeros((40, 1, 8, 8)), y=np.arange(40) % 2)
    flags = {"data": str(tmp_path / "x.npz")}
    with pytest.raises(UserError, match="decks are for images, and the data are 2 classes"):
        build(cards, ["a.mpt", "b.mpt"], flags, Console(io.StringIO()), 1)


def test_a_file_of_arrays_is_recognised(tmp_path: Path) -> None:
    assert recognise(tmp_path / "any.NPZ") == "arrays"
    (tmp_path / "folder.npz").mkdir()
    assert recognise(tmp_path / "folder.npz") == "folder"
