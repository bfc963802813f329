"""Image data for a run: read, split, and given out in augmented, normalised batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import rng
from ..distributed import ALONE, Group
from ..errors import UserError
from ..names import MOST_CHARACTERS, escaped, is_name
from . import augment, augmix
from .augmix import AugMix
from .sources import Source, Split
from .splits import ENOUGH_TO_CHOOSE, ENOUGH_TO_TRUST, VALIDATION_LAYER, stratified, validation_size

CROP_PADDING = 4


@dataclass(frozen=True)
class Recipe:
    """How training images are changed.

    Attributes:
        augment: "auto" (what suits the set), "none", "crop", "flip" or "crop+flip".
        augmix: mix each image with chains of operations.
        gaussian: (standard deviation of the noise, probability that an image stays clean), or None.
        jsd: give out three views of each image: without and twice with one of the two above.
    """

    augment: str = "auto"
    augmix: AugMix | None = None
    gaussian: tuple[float, float] | None = None
    jsd: bool = False


class DataSet:
    """Images for training, validation and test, with what a network must know of them.

    Args:
        source: the images as read.
        select_on: "validation" holds out training images for that, of every class the same share,
            by a rule that no seed changes, or those of a validation part; with "test" nothing is
            held out and `validation` is the test set, as in the papers.
        recipe: changes to training images.
        low_data: fraction of the training images to use, the same for every seed.

    Raises:
        UserError: a class has too few images to hold one out, or a name that no ticket can hold.

    Attributes:
        train, validation, test: `Split`.
        classes: names, in the order of the labels; what is not printable in them is escaped, as
            tickets want it.
        mean, std: per channel, of pixels in [0, 1].
        validation_chooses: whether the validation images are enough to choose the best epoch by.
        about: what was recognised in a folder of files, in words; empty for the sets with names.
        notes: what the user should know of the images, a line each.
        search_notes: what the user should know before a search that chooses on `validation`, a line
            each.
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
        if select_on == "test":
            self.train, self.validation = source.train, source.test
        else:
            held_out = source.held_out if source.held_out is not None else _held_out(source)
            self.train, self.validation = (
                source.train.subset(~held_out),
                source.train.subset(held_out),
            )
        self.validation_chooses = select_on == "test" or len(self.validation) >= ENOUGH_TO_CHOOSE
        self.search_notes = [] if select_on == "test" else _of_few(len(self.validation))
        if low_data < 1:
            count = len(self.train)
            self.train = self.train.subset(_chosen(count, max(2, round(low_data * count)), layer=2))
        self.test = source.test
        self.mean, self.std = source.mean, source.std
        self.recipe = recipe or Recipe()
        self.augment = source.augment if self.recipe.augment == "auto" else self.recipe.augment

    @property
    def channels(self) -> int:
        return self.train.shape[0]

    @property
    def input_size(self) -> tuple[int, int]:
        return self.train.shape[1:]

    @property
    def views(self) -> int:
        """How many images `training_batches` gives out for each label: 3 with JSD, else 1."""
        return 3 if self.recipe.jsd else 1

    def to(self, device: torch.device) -> DataSet:
        """Keep all images on `device`, or give out what is streamed there; in place."""
        self.train, self.validation, self.test = (
            split.to(device) for split in (self.train, self.validation, self.test)
        )
        return self

    def keep_one_batch(self, batch_size: int) -> None:
        """Reduce the training images to one batch, the same for every seed."""
        count = len(self.train)
        self.train = self.train.subset(_chosen(count, min(batch_size, count), layer=3))

    def training_batches(
        self, batch_size: int, seed: int, epoch: int, group: Group = ALONE, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch of (images [V B, C, H, W] float32 normalised, labels [B] int64), shuffled,
        augmented, from batch `first` on.

        V is `views`: with JSD the first B images are the plain ones, the next two times B their
        augmented versions. Order and augmentation follow from (seed, epoch, step) alone: of several
        processes each gets its share of what one alone would get. A last batch with a single image
        for a process is left out: batch norm cannot train on it.
        """
        order = self.train.order(_generator(seed, rng.Stream.SHUFFLE, epoch))
        batches = slices(order, batch_size)
        if len(batches) > 1 and len(batches[-1]) < 2 * group.size:
            batches.pop()
        own = [batch[group.share_of(len(batch))] for batch in batches]
        cut_seed = rng.derive(seed, rng.Stream.CUT, epoch)
        for step, (images, labels) in enumerate(
            self.train.batches(own[first:], cut_seed), start=first
        ):
            generator = _generator(seed, rng.Stream.AUGMENT, epoch, step)
            yield self._augmented(images, len(batches[step]), group, generator), labels

    def _augmented(
        self, images: Tensor, count: int, group: Group, generator: np.random.Generator
    ) -> Tensor:
        """uint8 [B, C, H, W], this process's share of `count` images, to float32 [V B, C, H, W]
        normalised.

        Parameters are drawn for all images and used for the share.
        """
        share = group.share_of(count)
        padding = CROP_PADDING if "crop" in self.augment and not self.train.cuts else 0
        flip = "flip" in self.augment
        rows, columns = augment.draw_crop_and_flip(count, self.input_size, padding, flip, generator)
        if padding or flip:
            images = augment.pick(images, rows[share], columns[share])
        changed = [
            _changed(images, self.recipe, count, share, generator)
            for _ in range(2 if self.recipe.jsd else 1)
        ]
        return self.normalise(torch.cat([images, *changed]) if self.recipe.jsd else changed[0])

    def augmented(self, split: Split, recipe: Recipe, count: int) -> tuple[Tensor, Tensor]:
        """Images of a split, spread evenly over it, changed as `recipe` says but neither cut nor
        flipped: always the same.

        Returns:
            images [n, C, H, W] uint8 and labels [n] int64, n at most `count`.
        """
        images, labels, numbers = [], [], spread(len(split), count)
        for step, (pixels, of_pixels) in enumerate(split.batches(slices(numbers, 500), None)):
            generator = _generator(0, rng.Stream.AUGMENT, 0, step)
            changed = _changed(pixels, recipe, len(pixels), slice(None), generator)
            images.append(changed.round().clamp(0, 255).to(torch.uint8))
            labels.append(of_pixels)
        return torch.cat(images), torch.cat(labels)

    def evaluation_batches(
        self, split: Split, batch_size: int, group: Group = ALONE, normalised: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of a split in order, or this process's share, as (images [B, C, H, W], labels
        [B]).

        Images are float32 normalised, or else uint8 as they are.
        """
        for images, labels in split.batches(
            slices(np.arange(len(split))[group.share_of(len(split))], batch_size), None
        ):
            yield self.normalise(images) if normalised else images, labels

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or float [B, C, H, W] in 0 .. 255 to float32: (pixel / 255 - mean) / std."""
        mean, std = (
            torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        return (images * (1 / (255 * std))).sub_(mean / std)


def sample(split: Split, wanted: int) -> Split:
    """`wanted` images of a split (or all), of every class its share: always the same ones."""
    if wanted >= len(split):
        return split
    by_class = torch.argsort(split.labels.cpu(), stable=True)
    mask = torch.zeros(len(split), dtype=torch.bool)
    mask[by_class[torch.from_numpy(spread(len(split), wanted))]] = True
    return split.subset(mask)


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Numbers of `wanted` of `count` images (all, if there are fewer), evenly spaced: data sets may
    lie sorted by class.
    """
    wanted = min(count, wanted)
    return np.arange(wanted) * count // max(1, wanted)


def _changed(
    images: Tensor, recipe: Recipe, count: int, share: slice, generator: np.random.Generator
) -> Tensor:
    """The images with AugMix or noise, or as they are: this process's share of `count`."""
    if recipe.augmix:
        return augmix.augmix(images, augmix.draw(count, recipe.augmix, generator)[share])
    if recipe.gaussian:
        std, p_clean = recipe.gaussian
        noisy, noise_seed = augment.draw_noisy(count, p_clean, generator)
        return augment.gaussian_noise(images, std, noisy, noise_seed, share)
    return images


def _generator(seed: int, stream: rng.Stream, epoch: int, step: int = 0) -> np.random.Generator:
    return np.random.default_rng(rng.derive(seed, stream, epoch, step))


def slices(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Parts of `size` numbers; the last may be shorter."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def _chosen(count: int, chosen: int, layer: int) -> Tensor:
    """Mask [count] of `chosen` images, by the generator at a fixed seed."""
    order = np.argsort(rng.words(0, layer, count, rng.Stream.SPLIT), kind="stable")
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.from_numpy(order[:chosen])] = True
    return mask


def _held_out(source: Source) -> Tensor:
    """Which training images are for validation: bool [N]."""
    labels = source.train.labels.cpu().numpy()
    return torch.from_numpy(
        stratified(labels, validation_size(len(labels)), VALIDATION_LAYER, source.classes)
    )


def _of_few(count: int) -> list[str]:
    """What the user should know of `count` validation images, if they are few."""
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
    """The names as a ticket can hold them.

    Raises:
        UserError: one that is too long, or two that are escaped alike.
    """
    names = [escaped(name) for name in classes]
    for name in names:
        if not is_name(name):
            raise UserError(
                f"the class {name[:40]}...: its name has {len(name):,} characters, more than"
                f" {MOST_CHARACTERS:,}"
            )
    if len(set(names)) < len(set(classes)):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two classes are both written {twice!r}: rename one of them")
    return names


def other_classes(made_for: Sequence[str], found: Sequence[str]) -> str | None:
    """The first class by which two lists of names differ, in words; None if none does, or one side
    has numbers only.
    """
    names = [list(map(escaped, side)) for side in (made_for, found)]
    if names[0] == names[1] or any(side == list(map(str, range(len(side)))) for side in names):
        return None
    for number, (one, other) in enumerate(zip(*names, strict=False)):
        if one != other:
            return f"class {number} is {one!r} there and {other!r} here"
    return f"{len(names[0])} there and {len(names[1])} here"
