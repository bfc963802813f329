"""From the options of a run to its data set."""

from __future__ import annotations

from pathlib import Path

from ..config import Config
from ..errors import UserError
from . import arrays, cifar, decoding, digits, listings, mnist, tiny_imagenet
from .augmix import AugMix
from .dataset import DataSet, Recipe
from .sources import Expect, Parts, Progress, Source, expect_nothing, no_progress

_DEFAULT_WORKERS = 8


def load(
    config: Config, progress: Progress = no_progress, expect: Expect = expect_nothing
) -> DataSet:
    """The data of a run.

    Args:
        config: the options `set`, `data` and those of data and augmentation; see `config.resolve`.
        progress: shows the progress of decoding.
        expect: gets the number of classes and the shape of a sample before they are decoded; what
            it raises ends the loading.

    Returns:
        Training, validation and test images; by default the embedded digits, [N, 1, 32, 32] uint8.

    Raises:
        UserError: the data are missing, damaged, no classification task, or too large for memory.
    """
    if config.set in _KNOWN:
        expect(*_KNOWN[config.set])
    source = _source(config, progress, expect)
    data = DataSet(source, config.select_on, recipe_of(config), config.low_data)
    if config.one_batch:
        data.keep_one_batch(config.batch_size)
    if config.num_classes is not None and config.num_classes != len(data.classes):
        raise UserError(
            f"--num-classes {config.num_classes}: but the data have {len(data.classes)} classes;"
            " leave it out"
        )
    return data


_KNOWN: dict[str, tuple[int, tuple[int, ...]]] = {
    "digits": (10, (1, 32, 32)),
    "CIFAR10": (10, (3, 32, 32)),
    "CIFAR100": (100, (3, 32, 32)),
    "MNIST": (10, (1, 28, 28)),
    "TinyImageNet": (200, (3, 64, 64)),
}
"""Number of classes and shape of an image of the data sets with names."""


def _source(config: Config, progress: Progress, expect: Expect) -> Source:
    """The images of a run: the data sets with names by a reader of their own, others by their
    layout.
    """
    folder = Path(config.data)
    if config.set == "arrays":
        return arrays.arrays(folder, expect)
    if config.set == "digits":
        return digits.digits()
    if config.set in ("CIFAR10", "CIFAR100"):
        return cifar.cifar(folder, config.set, progress)
    if config.set == "MNIST":
        return mnist.mnist(folder, progress)
    if config.set == "TinyImageNet":
        return tiny_imagenet.tiny_imagenet(folder, progress)
    parts = _parts(config)
    is_streamed = config.stream or config.set == "ImageNet"
    if expect is not expect_nothing:
        shape = decoding.expected_shape(parts, config.image_size, config.channels, is_streamed)
        expect(len(parts.train.classes), shape)
    if is_streamed:
        workers = _DEFAULT_WORKERS if config.workers is None else config.workers
        return decoding.streamed(parts, config.image_size, workers)
    return decoding.in_memory(parts, config.image_size, progress, config.channels)


def _parts(config: Config) -> Parts:
    """The encoded images of a run."""
    if config.set == "hub":
        return listings.hub(config.data, config.hub_config, config.train_split, config.test_split)
    if config.set == "ImageNet":
        return listings.imagenet(Path(config.data))
    return listings.find_listings(Path(config.data))


def recipe_of(config: Config) -> Recipe:
    """The augmentation of training images that the options ask for."""
    method = None
    if config.augmix:
        method = AugMix(
            config.mixture_width,
            config.mixture_depth,
            config.aug_severity,
            config.all_augmix_augmentations,
        )
    noise = (config.std_gauss, config.p_clean) if config.gaussian_aug else None
    return Recipe(
        config.augment,
        method,
        noise,
        config.jsd,
        config.crop_padding,
        config.crop_padding_mode,
    )
