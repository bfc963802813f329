from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared, write_cifar_parquet, write_image_folder

from biprop import UserError, config, data
from biprop.cli import command_line
from biprop.data import dataset


def load(**values: Any) -> data.DataSet:
    return data.load(config.override(config.Config(prune_rate=0.2, set="digits"), values))


def test_splits_are_disjoint_and_fixed() -> None:
    a, b = load(), load(seed=5)
    assert [len(s) for s in (a.train, a.validation, a.test)] == [1257, 180, 360]
    images = [
        torch.cat([x for x, _ in a.evaluation_batches(s, 100)])
        for s in (a.train, a.validation, a.test)
    ]
    assert torch.equal(images[1], next(b.evaluation_batches(b.validation, 200))[0])
    assert (a.channels, a.input_size, len(a.classes)) == (1, (32, 32), 10)
    assert len(torch.cat(images).flatten(1).unique(dim=0)) == 1797


@pytest.mark.parametrize(("select_on", "chooses"), [("test", True), ("last", False)])
def test_select_on_test_and_last_hold_nothing_out(select_on: str, chooses: bool) -> None:
    images = load(select_on=select_on)
    assert len(images.train) == 1437
    assert images.validation is images.test
    assert images.validation_chooses == chooses


def test_where_no_images_choose_a_sample_of_the_test_images_is_watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(dataset, "WATCHED_IMAGES", 100)
    images = load(select_on="last")
    assert (len(images.train), len(images.validation), len(images.test)) == (1437, 100, 360)
    share = 100 / 360 * images.test.labels.bincount()
    assert (images.validation.labels.bincount() - share).abs().max() <= 1
    assert len(load(select_on="test").validation) == 360
    options = ["--epochs", "1", "--low-data", "0.05", "--log-dir", str(tmp_path)]
    assert command_line.main(["find", "--select-on", "last", *options]) == 0
    out = capsys.readouterr().out
    assert "360 test images, of which 100 are looked at after each epoch)" in out
    assert "of 360 images; epoch 1, the last; no image was held out" in out


def test_a_tenth_is_held_out_whatever_the_seed(tmp_path: Path) -> None:
    write_cifar_parquet(tmp_path, train=69)
    images = load(set="CIFAR10", data=tmp_path.as_posix())
    assert (len(images.train), len(images.validation), len(images.test)) == (59, 10, 20)
    assert sorted(images.validation.labels.tolist()) == list(range(10))  # one of each class
    assert images.augment == "crop+flip"
    assert load(set="CIFAR10", data=tmp_path.as_posix(), augment="none").augment == "none"


def test_low_data_and_one_batch_are_the_same_images_for_every_seed() -> None:
    few = load(low_data="0.1")
    assert len(few.train) == 126
    assert few.train.labels.bincount(minlength=10).min() > 0
    assert torch.equal(few.train.labels, load(low_data="0.1", seed=3).train.labels)
    assert [len(s) for s in (few.validation, few.test)] == [180, 360]
    one = load(one_batch=True, batch_size=32)
    assert [len(y) for _, y in one.training_batches(32, 0, 0)] == [32]
    assert torch.equal(one.train.labels, load(one_batch=True, batch_size=32, seed=3).train.labels)


def test_another_number_of_classes_is_refused() -> None:
    assert len(load(num_classes=10).classes) == 10
    with pytest.raises(UserError, match="--num-classes 7: but the data have 10 classes"):
        load(num_classes=7)


def test_batches_are_normalised_shuffled_and_repeatable() -> None:
    images = load(augment="none")
    epoch = list(images.training_batches(100, seed=1, epoch=0))
    assert [len(y) for _, y in epoch] == [100] * 12 + [57]
    x = torch.cat([x for x, _ in epoch])
    assert x.dtype == torch.float32
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05
    again, other = (list(images.training_batches(100, seed=1, epoch=e)) for e in (0, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(epoch, again, strict=True))
    assert not torch.equal(epoch[0][1], other[0][1])
    assert torch.equal(
        torch.cat([y for _, y in epoch]).sort().values, images.train.labels.sort().values
    )


def test_normalisation_is_pixel_minus_mean_by_deviation() -> None:
    images = load()
    pixels = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    expected = (pixels / 255 - images.mean[0]) / images.std[0]
    torch.testing.assert_close(images.normalise(pixels), expected)
    torch.testing.assert_close(images.normalise(pixels.float()), expected)


def test_augmentation_differs_between_steps_and_epochs() -> None:
    images = load(augment="crop")
    a, b = (next(images.training_batches(1257, seed=1, epoch=e))[0] for e in (0, 1))
    assert not torch.equal(a.sort(dim=0).values, b.sort(dim=0).values)


def test_images_too_small_to_be_reflected_are_refused() -> None:
    with pytest.raises(UserError, match=r"--crop-padding 32 .* below the images' smaller side"):
        load(crop_padding=32, crop_padding_mode="reflect")
    load(crop_padding=31, crop_padding_mode="reflect")


def test_a_last_batch_of_one_image_is_left_out() -> None:
    images = load()
    assert [len(y) for _, y in images.training_batches(628, seed=0, epoch=0)] == [628, 628]
    assert sum(len(y) for _, y in images.evaluation_batches(images.test, 359)) == 360


@pytest.mark.parametrize(
    "how", [{"augmix": True}, {"gaussian_aug": True, "p_clean": "0.3"}], ids=["augmix", "gaussian"]
)
def test_views_are_the_plain_images_and_two_different_augmented_ones(how: dict[str, Any]) -> None:
    plain, one, three = (
        load(augment="none"),
        load(augment="none", **how),
        load(augment="none", jsd=True, **how),
    )
    assert (plain.views, one.views, three.views) == (1, 1, 3)
    batches = [next(d.training_batches(64, seed=1, epoch=0)) for d in (plain, one, three)]
    assert [len(x) for x, _ in batches] == [64, 64, 192]
    assert [len(y) for _, y in batches] == [64, 64, 64]
    clean, a, b = batches[2][0].split(64)
    torch.testing.assert_close(clean, batches[0][0])
    for changed in (batches[1][0], a, b):
        differs = (changed - clean).abs().flatten(1).amax(1) > 1e-3
        assert 25 < int(differs.sum()) <= 64
    assert not torch.equal(a, b)
    again = next(load(augment="none", jsd=True, **how).training_batches(64, seed=1, epoch=0))
    assert torch.equal(again[0], batches[2][0])


def test_test_images_are_never_augmented() -> None:
    changed = load(augmix=True)
    a, b = (next(d.evaluation_batches(d.test, 360))[0] for d in (load(), changed))
    assert torch.equal(a, b)


def test_image_folders_train_on_their_own_statistics(tmp_path: Path) -> None:
    images = load(set="folder", data=write_image_folder(tmp_path / "pets").as_posix())
    assert (len(images.train), len(images.validation), len(images.test)) == (14, 2, 4)
    assert images.classes == ["cat", "dog"]
    batch, _ = next(images.evaluation_batches(images.train, 14))
    assert batch.mean((0, 2, 3)).abs().max() < 1e-5
    assert (batch.std((0, 2, 3)) - 1).abs().max() < 1e-4


def test_a_few_validation_images_are_told_of_and_choose_nothing(tmp_path: Path) -> None:
    for count, note, chooses in (
        (10, "only 2 validation images: too few to choose", False),
        (150, "only 24 validation", True),
    ):
        folder = write_image_folder(tmp_path / str(count), count=count, side=4)
        images = load(set="folder", data=folder.as_posix())
        assert images.search_notes[0].startswith(note)
        assert images.validation_chooses == chooses
        assert (
            images.validation.labels.bincount().min() == images.validation.labels.bincount().max()
        )
        assert images.test.labels.bincount().tolist() == [count // 5] * 2
        assert load(set="folder", data=folder.as_posix(), select_on="test").search_notes == []
    assert load().search_notes == []


def test_a_validation_part_is_held_out_as_it_is(tmp_path: Path) -> None:
    for part, count in (("train", 8), ("val", 3), ("test", 2)):
        write_image_folder(tmp_path / part, count=count, side=4)
    images = load(set="folder", data=tmp_path.as_posix())
    assert [len(s) for s in (images.train, images.validation, images.test)] == [16, 6, 4]
    streamed = load(set="folder", data=tmp_path.as_posix(), stream=True, workers=0, image_size=4)
    assert [len(s) for s in (streamed.train, streamed.validation, streamed.test)] == [16, 6, 4]
    on_test = load(set="folder", data=tmp_path.as_posix(), select_on="test")
    assert (len(on_test.train), len(on_test.test)) == (22, 4)


def test_class_names_are_those_that_a_ticket_can_hold(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pets", ("caf\u00e9\u00a0noir", "dog"), side=4)
    assert load(set="folder", data=(tmp_path / "pets").as_posix()).classes == [
        "caf\u00e9\\xa0noir",
        "dog",
    ]
    write_image_folder(tmp_path / "twins", ("a\u3000", "a\\u3000"), side=4)
    with pytest.raises(UserError, match=r"two classes are both written"):
        load(set="folder", data=(tmp_path / "twins").as_posix())


@pytest.mark.parametrize(
    ("made_for", "found", "difference"),
    [
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], ["b", "a"], "class 0 is 'a' there and 'b' here"),
        (["a\\xa0", "b"], ["a\u00a0", "b"], None),
        (["0", "1"], ["cat", "dog"], None),
        ([], ["cat", "dog"], None),
    ],
)
def test_classes_of_other_data(
    made_for: list[str], found: list[str], difference: str | None
) -> None:
    assert data.other_classes(made_for, found) == difference


@pytest.mark.slow
def test_the_real_cifar10() -> None:
    images = load(set="CIFAR10", data=shared("data/cifar10/plain_text").parents[1].as_posix())
    assert [len(s) for s in (images.train, images.validation, images.test)] == [
        45_000,
        5_000,
        10_000,
    ]
    assert images.train.shape == (3, 32, 32)
    assert images.test.labels.bincount().tolist() == [1000] * 10
    train = torch.cat([x for x, _ in images.evaluation_batches(images.train, 5000)])
    torch.testing.assert_close(train.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "labels", [torch.arange(1000) % 10, torch.arange(1000) // 100, torch.arange(1000) % 7], ids=str
)
def test_a_sample_has_its_share_of_every_class(labels: torch.Tensor) -> None:
    split = data.sources.Images(torch.zeros(1000, 1, 2, 2, dtype=torch.uint8), labels)
    share = data.sample(split, 100)
    counts, wanted = torch.bincount(share.labels), torch.bincount(labels) / 10
    assert len(share) == 100
    assert (counts - wanted).abs().max() < 1
    assert torch.equal(share.labels, data.sample(split, 100).labels)
    assert data.sample(split, 1000) is split
