import torch
from conftest import shared, write_cifar_parquet, write_image_folder

from biprop import data


def test_splits_are_disjoint_and_fixed() -> None:
    a, b = data.load("digits"), data.load("digits")
    assert [len(s) for s in (a.train, a.validation, a.test)] == [1257, 180, 360]
    assert torch.equal(a.validation.images, b.validation.images)
    assert (a.channels, a.input_size, len(a.classes)) == (1, (32, 32), 10)
    everything = torch.cat([s.images.flatten(1) for s in (a.train, a.validation, a.test)])
    assert len(everything.unique(dim=0)) == 1797


def test_select_on_test_holds_nothing_out() -> None:
    images = data.load("digits", select_on="test")
    assert len(images.train) == 1437
    assert images.validation is images.test


def test_a_tenth_is_held_out_whatever_the_seed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    images = data.load("CIFAR10", write_cifar_parquet(tmp_path))
    assert (len(images.train), len(images.validation), len(images.test)) == (54, 6, 20)
    assert images.augment == "crop+flip"
    assert data.load("CIFAR10", tmp_path, augment="none").augment == "none"


def test_batches_are_normalised_shuffled_and_repeatable() -> None:
    images = data.load("digits", augment="none")
    epoch = list(images.training_batches(100, seed=1, epoch=0))
    assert [len(y) for _, y in epoch] == [100] * 12 + [57]
    x = torch.cat([x for x, _ in epoch])
    assert x.dtype == torch.float32
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05
    again, other = (list(images.training_batches(100, seed=1, epoch=e)) for e in (0, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(epoch, again, strict=True))
    assert not torch.equal(epoch[0][1], other[0][1])
    assert torch.equal(torch.cat([y for _, y in epoch]).sort().values, images.train.labels.sort().values)


def test_augmentation_differs_between_steps_and_epochs() -> None:
    images = data.load("digits", augment="crop")
    a, b = (next(images.training_batches(1257, seed=1, epoch=e))[0] for e in (0, 1))
    assert not torch.equal(a.sort(dim=0).values, b.sort(dim=0).values)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    images = data.load("digits")
    assert [len(y) for _, y in images.training_batches(628, seed=0, epoch=0)] == [628, 628]
    assert sum(len(y) for _, y in images.evaluation_batches(images.test, 359)) == 360


def test_image_folders_train_on_their_own_statistics(tmp_path) -> None:  # type: ignore[no-untyped-def]
    images = data.load("folder", write_image_folder(tmp_path / "pets"))
    assert (len(images.train), len(images.validation), len(images.test)) == (15, 1, 4)
    assert images.classes == ["cat", "dog"]


def test_the_real_cifar10() -> None:
    images = data.load("CIFAR10", shared("data/cifar10/plain_text").parents[1])
    assert [len(s) for s in (images.train, images.validation, images.test)] == [45_000, 5_000, 10_000]
    assert images.train.images.shape[1:] == (3, 32, 32)
    assert images.test.labels.bincount().tolist() == [1000] * 10
    pixels = images.train.images.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(pixels, torch.tensor(images.mean), atol=3e-3, rtol=0)
