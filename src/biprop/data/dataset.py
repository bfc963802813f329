"""The data set of a run: splits, and augmented, normalised batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import rng
from ..distributed import ALONE, Group
from ..errors import UserError
from ..names import MAX_CHARACTERS, escaped, is_name
from . import augment, augmix
from .augmix import AugMix
from .sources import Images, Source, Split, mean_and_std, mean_and_std_of_numbers
from .splits import ENOUGH_TO_CHOOSE, ENOUGH_TO_TRUST, VALIDATION_LAYER, stratified, validation_size
from .transfer import on_device

WATCHED_IMAGES = 2000
"""Test images that a search looks at after each epoch where no images choose one, at most."""
_LOW_DATA_LAYER, _ONE_BATCH_LAYER = 2, 3
"""Numbers of the generator's streams, besides those of `splits`."""
Batches = Iterator[tuple[Tensor, Tensor]]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """The augmentation of training images.

    Attributes:
        augment: "auto" (the default of the data set), "none", "crop", "flip" or "crop+flip".
        augmix: mix each image with chains of operations.
        gaussian: (standard deviation of the noise, of pixels in [0, 1]; probability that an image
            stays clean), or None.
        jsd: three views of each image, for the Jensen-Shannon consistency loss: one without and two
            with AugMix or noise.
        crop_padding: pixels added to each side of an image before its random crop.
        crop_padding_mode: their values: "zeros" or "reflect".
    """

    augment: str = "auto"
    augmix: AugMix | None = None
    gaussian: tuple[float, float] | None = None
    jsd: bool = False
    crop_padding: int = 4
    crop_padding_mode: str = "zeros"

    @property
    def changes_pixels(self) -> bool:
        """Whether there is augmentation beside crops and flips."""
        return bool(self.augmix or self.gaussian or self.jsd)


class DataSet:
    """Images for training, validation and test, with their classes and statistics.

    Args:
        source: the images as read.
        select_on: "validation" holds out training images, the same share of every class whatever
            the seed, or takes those of a validation part; with "test" nothing is held out and
            `validation` is the test set, as in the papers; with "last" it is a sample of the test
            set, to watch a search by, and chooses nothing.
        recipe: augmentation of training images.
        low_data: fraction of the training images to use, the same ones for every seed.

    Raises:
        UserError: a class has too few images to hold one out, or a name that no ticket can store;
            or augmentation of what is no image.

    Attributes:
        train, validation, test: `Split`.
        classes: names, in the order of the labels; unprintable characters are escaped, as in
            tickets.
        mean, std: per channel, of pixels in [0, 1], or of numbers as they are.
        is_pixels: images have values 0 .. 255; other samples are numbers, taken as they are.
        validation_chooses: whether validation images choose the best epoch: they are to, and are
            enough for it. Otherwise the last epoch is kept.
        about: what was recognised in a folder of files; empty for the data sets with names.
        notes: for the user, on the images, a line each.
        search_notes: for the user, before a search that selects on `validation`, a line each.
    """

    def __init__(
        self,
        source: Source,
        select_on: str = "validation",
        recipe: Recipe | None = None,
        low_data: float = 1.0,
    ) -> None:
        self.classes = _printable(source.classes)
        self.about, self.notes = source.about, list(source.notes)
        self.is_pixels = source.is_pixels
        self.test = source.test
        self.search_notes: list[str] = []
        if select_on == "test":
            self.train, self.validation = source.train, source.test
            self.validation_chooses = True
        elif select_on == "last":
            self.train, self.validation = source.train, sample(source.test, WATCHED_IMAGES)
            self.validation_chooses = False
        else:
            held_out = source.held_out if source.held_out is not None else _held_out(source)
            self.train = source.train.subset(~held_out)
            self.validation = source.train.subset(held_out)
            self.validation_chooses = len(self.validation) >= ENOUGH_TO_CHOOSE
            self.search_notes = _notes_on_few(len(self.validation))
        self.mean, self.std = _statistics(source, self.train)
        if low_data < 1:
            count = len(self.train)
            wanted = max(2, round(low_data * count))
            self.train = self.train.subset(_random_mask(count, wanted, _LOW_DATA_LAYER))
        self.recipe = recipe or Recipe()
        self.augment = source.augment if self.recipe.augment == "auto" else self.recipe.augment
        self._check_augmentation()

    def _check_augmentation(self) -> None:
        """Raise UserError where the samples are no images, or too small to be reflected so far."""
        if not self.is_images:
            if self.augment != "none" or self.recipe.changes_pixels:
                raise UserError(
                    "crops, flips, AugMix and noise are for images, and the data are numbers: leave"
                    " out --augment, --augmix, --gaussian-aug and --jsd"
                )
            return
        side = min(self.input_size)
        if self.recipe.crop_padding_mode == "reflect" and self.padding >= side:
            raise UserError(
                f"--crop-padding {self.padding} with --crop-padding-mode reflect: must be below the"
                f" images' smaller side, which is {side} pixels"
            )

    @property
    def is_images(self) -> bool:
        """Whether samples are images: pixels [1 or 3 channels, height, width]."""
        shape = self.test.shape
        return self.is_pixels and len(shape) == 3 and shape[0] in (1, 3)

    @property
    def noun(self) -> str:
        """What samples are called, for the user."""
        return "images" if self.is_images else "samples"

    @property
    def channels(self) -> int:
        """Channels of the images: 1 or 3; of series; features of a table."""
        return self.train.shape[0]

    @property
    def input_size(self) -> tuple[int, ...]:
        """(H, W) of the images in pixels; (length,) of series, () of tables."""
        return self.train.shape[1:]

    @property
    def padding(self) -> int:
        """Pixels added to each side of a training image before its random crop; 0: no crop."""
        crops = "crop" in self.augment and not self.train.crops
        return self.recipe.crop_padding if crops else 0

    @property
    def views(self) -> int:
        """Number of images in `training_batches` for each label: 3 with JSD, else 1."""
        return 3 if self.recipe.jsd else 1

    def to(self, device: torch.device) -> DataSet:
        """Move all images to `device`, or have streamed batches put there; in place."""
        self.train, self.validation, self.test = (
            split.to(device) for split in (self.train, self.validation, self.test)
        )
        return self

    def keep_one_batch(self, batch_size: int) -> None:
        """Reduce the training images to one batch, the same for every seed."""
        count = len(self.train)
        mask = _random_mask(count, min(batch_size, count), _ONE_BATCH_LAYER)
        self.train = self.train.subset(mask)

    def training_batches(
        self, batch_size: int, seed: int, epoch: int, group: Group = ALONE, first: int = 0
    ) -> Batches:
        """The batches of an epoch, shuffled and augmented.

        Order and augmentation follow from (seed, epoch, step) alone: each of several processes gets
        its share of what one alone would get. A last batch with a single image for a process is
        left out: batch norm cannot train on it.

        Args:
            batch_size: of all processes together.
            seed: of the run.
            epoch: from 0.
            group: the processes.
            first: number of the first batch, to go on within an epoch.

        Yields:
            Images [V B, C, H, W] float32, normalised, and labels [B] int64. V is `views`: with JSD
            the first B images are the plain ones, the next two times B their augmented versions.
        """
        batches = self._shuffled(batch_size, seed, epoch, group)
        own = _shares(batches[first:], group)
        crop_seed = rng.derive(seed, rng.Stream.CUT, epoch)
        steps = enumerate(self.train.batches(own, crop_seed), start=first)
        for step, (images, labels) in steps:
            generator = _generator(seed, rng.Stream.AUGMENT, epoch, step)
            yield self._augmented(images, len(batches[step]), group, generator), labels

    def training_indices(
        self, batch_size: int, seed: int, epoch: int, group: Group = ALONE, first: int = 0
    ) -> list[Indices]:
        """Which images of `train` each of the `training_batches` of the same arguments has."""
        return _shares(self._shuffled(batch_size, seed, epoch, group)[first:], group)

    def _shuffled(self, batch_size: int, seed: int, epoch: int, group: Group) -> list[Indices]:
        """Indices into `train` of each batch of an epoch, of all processes together."""
        order = self.train.order(_generator(seed, rng.Stream.SHUFFLE, epoch))
        batches = slices(order, batch_size)
        if len(batches) > 1 and len(batches[-1]) < 2 * group.size:
            batches.pop()
        return batches

    def _augmented(
        self, images: Tensor, count: int, group: Group, generator: np.random.Generator
    ) -> Tensor:
        """One process's share of a batch, augmented and normalised.

        Parameters are drawn for the whole batch and used for the share.

        Args:
            images: [B, C, H, W] uint8, the share.
            count: images in the whole batch.
            group: the processes.
            generator: of this step.

        Returns:
            [V B, C, H, W] float32.
        """
        if not self.is_images:
            return self.normalise(images)
        share = group.share_of(count)
        flip = "flip" in self.augment
        padding = self.padding
        height, width = self.input_size
        size = (height, width)
        rows, columns = augment.draw_crop_and_flip(count, size, padding, flip, generator)
        if self.recipe.crop_padding_mode == "reflect":
            rows, columns = augment.reflected(rows, height), augment.reflected(columns, width)
        if padding or flip:
            images = augment.pick(images, rows[share], columns[share])
        mixed = [
            _mixed(images, self.recipe, count, share, generator)
            for _ in range(2 if self.recipe.jsd else 1)
        ]
        return self.normalise(torch.cat([images, *mixed]) if self.recipe.jsd else mixed[0])

    def augmented(self, split: Split, recipe: Recipe, count: int) -> tuple[Tensor, Tensor]:
        """Images spread evenly over a split, with AugMix or noise but neither crop nor flip: the
        same at every call.

        Args:
            split: where the images are from.
            recipe: the augmentation.
            count: at most how many images.

        Returns:
            images [n, C, H, W] uint8 and labels [n] int64, n at most `count`.
        """
        images, labels = [], []
        batches = split.batches(slices(spread(len(split), count), 500), None)
        for step, (batch, batch_labels) in enumerate(batches):
            generator = _generator(0, rng.Stream.AUGMENT, 0, step)
            mixed = _mixed(batch, recipe, len(batch), slice(None), generator)
            images.append(mixed.round().clamp(0, 255).to(torch.uint8))
            labels.append(batch_labels)
        return torch.cat(images), torch.cat(labels)

    def evaluation_batches(
        self, split: Split, batch_size: int, group: Group = ALONE, normalised: bool = True
    ) -> Batches:
        """All images of a split in order, or this process's share.

        Yields:
            Images [B, C, H, W], float32 normalised or else uint8 as they are, and labels [B] int64.
        """
        share = np.arange(len(split))[group.share_of(len(split))]
        for images, labels in split.batches(slices(share, batch_size), None):
            yield self.normalise(images) if normalised else images, labels

    def training_sample(self, max_pixels: int) -> Tensor:
        """Training images [N, C, H, W], normalised and not augmented, the same share of each class.

        Args:
            max_pixels: of all of them together; at least one image is taken.
        """
        images = sample(self.train, max(1, max_pixels // math.prod(self.input_size)))
        batch, _ = next(self.evaluation_batches(images, len(images)))
        return batch

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or float [B, C, H, W] in 0 .. 255 to float32: (pixel / 255 - mean) / std; numbers
        [B, C, ...] to (x - mean) / std.
        """
        channel = (1, -1, *(1,) * (images.dim() - 2))
        mean, std = (
            on_device(np.array(values, np.float32), images.device).view(channel)
            for values in (self.mean, self.std)
        )
        if not self.is_pixels:
            return (images - mean).div_(std)
        return (images * (1 / (255 * std))).sub_(mean / std)


def sample(split: Split, wanted: int) -> Split:
    """`wanted` images of a split (or all), the same share of every class: always the same ones."""
    if wanted >= len(split):
        return split
    by_class = torch.argsort(split.labels.cpu(), stable=True)
    places = torch.from_numpy(spread(len(split), wanted))
    mask = torch.zeros(len(split), dtype=torch.bool)
    mask[by_class[places]] = True
    return split.subset(mask)


def spread(count: int, wanted: int) -> Indices:
    """Indices of `wanted` of `count` images (all, if there are fewer), evenly spaced: data sets may
    be sorted by class.
    """
    wanted = min(count, wanted)
    return np.arange(wanted) * count // max(1, wanted)


def _mixed(
    images: Tensor, recipe: Recipe, count: int, share: slice, generator: np.random.Generator
) -> Tensor:
    """The images with AugMix or noise, or as they are.

    Args:
        images: [B, C, H, W] uint8, a process's share of a batch.
        recipe: the augmentation.
        count: images in the whole batch.
        share: which of them these are.
        generator: of this step.
    """
    if recipe.augmix:
        return augmix.augmix(images, augmix.draw(count, recipe.augmix, generator)[share])
    if recipe.gaussian:
        std, p_clean = recipe.gaussian
        noisy, noise_seed = augment.draw_noisy(count, p_clean, generator)
        return augment.gaussian_noise(images, std, noisy, noise_seed, share)
    return images


def _generator(seed: int, stream: rng.Stream, epoch: int, step: int = 0) -> np.random.Generator:
    return np.random.default_rng(rng.derive(seed, stream, epoch, step))


def _shares(batches: Sequence[Indices], group: Group) -> list[Indices]:
    """This process's share of each batch."""
    return [batch[group.share_of(len(batch))] for batch in batches]


def slices(order: Indices, size: int) -> list[Indices]:
    """Consecutive parts of `size` indices; the last may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def _random_mask(count: int, chosen: int, layer: int) -> Tensor:
    """Mask [count] of `chosen` random images, from the generator's stream `layer` of seed 0."""
    order = np.argsort(rng.words(0, layer, count, rng.Stream.SPLIT), kind="stable")
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.from_numpy(order[:chosen])] = True
    return mask


def _statistics(source: Source, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: the source's, or else those of the images that train."""
    if source.mean:
        return source.mean, source.std
    assert isinstance(train, Images)
    if not source.is_pixels:
        return mean_and_std_of_numbers(train.images)
    return mean_and_std(train.images)


def _held_out(source: Source) -> Tensor:
    """Which training images are for validation: bool [N]."""
    labels = source.train.labels.cpu().numpy()
    mask = stratified(labels, validation_size(len(labels)), VALIDATION_LAYER, source.classes)
    return torch.from_numpy(mask)


def _notes_on_few(count: int) -> list[str]:
    """What the user should know if there are only few validation images."""
    if count < ENOUGH_TO_CHOOSE:
        return [
            f"only {count} validation images: too few to choose an epoch by, so the last one is"
            f" kept; from {ENOUGH_TO_CHOOSE} on they choose (a tenth of the training images, or a"
            " validation part)"
        ]
    if count < ENOUGH_TO_TRUST:
        return [
            f"only {count} validation images choose the epoch: one is {100 / count:.1f} %, and the"
            " best accuracy partly luck"
        ]
    return []


def _printable(classes: Sequence[str]) -> list[str]:
    """The names as a ticket can store them, unprintable characters escaped.

    Raises:
        UserError: a name is too long, or two are escaped alike.
    """
    names = [escaped(name) for name in classes]
    for name in names:
        if not is_name(name):
            raise UserError(
                f"the class {name[:40]}...: its name has {len(name):,} characters, more than"
                f" {MAX_CHARACTERS:,}"
            )
    if len(set(names)) < len(set(classes)):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two classes are both written {twice!r}: rename one of them")
    return names


def other_classes(made_for: Sequence[str], given: Sequence[str]) -> str | None:
    """The first class in which two lists of names differ, in words; None if they agree, or one of
    them has numbers only.
    """
    there, here = list(map(escaped, made_for)), list(map(escaped, given))
    if there == here or _are_numbers(there) or _are_numbers(here):
        return None
    for number, (name_there, name_here) in enumerate(zip(there, here, strict=False)):
        if name_there != name_here:
            return f"class {number} is {name_there!r} there and {name_here!r} here"
    return f"{len(there)} there and {len(here)} here"


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether classes are named "0", "1", ..."""
    return list(names) == list(map(str, range(len(names))))
