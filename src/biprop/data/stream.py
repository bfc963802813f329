"""Data sets that do not fit in memory: worker processes decode and crop images while the network
trains.

The workers return uint8 images; flips, further augmentation and normalisation happen on whole
batches on the device. A crop follows from (seed, image), not from the worker that computes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError, one_line
from ..images import as_mode, centre_crop, opened, pixels, upright_size
from ..native import cores
from .items import Items
from .sources import Batches, Indices

if TYPE_CHECKING:
    from PIL import Image

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
"""Ranges of the random crop: fraction of the image's area, and width / height (Szegedy et al.,
2015; PyTorch's recipe).
"""
ATTEMPTS = 10
"""Draws of a random crop before the largest centred one is taken."""
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


def random_box(width: int, height: int, generator: np.random.Generator) -> Box:
    """A random crop of an image of this size; where `ATTEMPTS` draws do not fit, the centre."""
    for _ in range(ATTEMPTS):
        area = width * height * generator.uniform(*AREA)
        aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(width - w + 1))
            top = int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_resized_crop(
    image: Image.Image, size: int, generator: np.random.Generator
) -> Image.Image:
    """A random crop, scaled to size x size pixels (torchvision's RandomResizedCrop).

    A JPEG is decoded at a half, a quarter or an eighth where the crop still has at least `size`
    pixels a side: up to several times faster, with nearly the same result (the decoder averages).
    """
    from PIL import Image as Pillow

    full = upright_size(image)
    box = random_box(*full, generator)
    shrink = size / min(box[2] - box[0], box[3] - box[1])
    if shrink < 1:
        width, height = image.size
        image.draft("RGB", (math.ceil(width * shrink), math.ceil(height * shrink)))
    upright = as_mode(image, "RGB")
    scales = (upright.size[0] / full[0], upright.size[1] / full[1]) * 2
    limits = upright.size * 2
    scaled = tuple(
        min(side * scale, limit) for side, scale, limit in zip(box, scales, limits, strict=True)
    )
    return upright.resize((size, size), Pillow.Resampling.BILINEAR, box=scaled)  # type: ignore[arg-type]


class _CroppedImages(Dataset[Any]):
    """Image number -> uint8 [3, size, size] and label, for a worker process; a UserError is
    returned as its text.

    Args:
        items, labels: of the whole part.
        size: side of a crop in pixels.
        seed: of random crops; None for centre crops.
    """

    def __init__(self, items: Items, labels: Tensor, size: int, seed: int | None) -> None:
        self.items, self.labels, self.size, self.seed = items, labels, size, seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | str:
        try:
            with opened(self.items.read(index), self.items.name(index)) as image:
                crop = self._crop(image, index)
                return torch.from_numpy(pixels(crop).copy()), self.labels[index]
        except UserError as e:
            return str(e)

    def _crop(self, image: Image.Image, index: int) -> Image.Image:
        if self.seed is None:
            return centre_crop(as_mode(image, "RGB"), self.size)
        return random_resized_crop(image, self.size, np.random.default_rng([self.seed, index]))


def _collate(samples: list[Any]) -> tuple[Tensor, Tensor] | str:
    """A batch of `_CroppedImages`, or the first error in it."""
    if error := next((sample for sample in samples if isinstance(sample, str)), None):
        return error
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def reader_death(error: BaseException) -> UserError | None:
    """The error to report if an exception means that a worker died, else None.

    It can be raised at any moment, not only while a batch is loaded.
    """
    # Which type: how far the worker was in sending. Nothing else in a search uses Python's pipes.
    is_death = isinstance(error, ConnectionError | EOFError) or (
        isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
    )
    if not is_death:
        return None
    return UserError(
        f"a process that reads images died, perhaps for want of memory: {one_line(error)}"
    )


class Streamed:
    """A split whose images are read as they are needed; has the methods of `sources.Images`.

    Args:
        items, labels: of the whole part, N of them.
        size: side of a crop in pixels.
        workers: number of processes; 0 decodes in this one.
        chosen: [n] int64, which of the N belong to this split; all by default.
    """

    crops = True

    def __init__(
        self,
        items: Items,
        labels: Tensor,
        size: int,
        workers: int,
        chosen: Indices | None = None,
    ) -> None:
        self.items, self.all_labels, self.size, self.workers = items, labels, size, workers
        self.chosen = np.arange(len(items)) if chosen is None else chosen
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> Tensor:
        """[n] int64, of the images that belong to this split."""
        return self.all_labels[self.chosen]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, size, size): of a crop, whatever the sizes of the images."""
        return 3, self.size, self.size

    def subset(self, mask: Tensor) -> Streamed:
        """Those where `mask` [n] is true."""
        chosen = self.chosen[mask.numpy()]
        return Streamed(self.items, self.all_labels, self.size, self.workers, chosen)

    def to(self, device: torch.device) -> Streamed:
        """Batches will be given out on `device`."""
        self.device = device
        return self

    def order(self, generator: np.random.Generator) -> Indices:
        """A random order in which few groups of images are open at a time: whole groups are
        shuffled, then pools of them.
        """
        groups = self.items.groups[self.chosen]
        shuffled = generator.permutation(int(self.items.groups[-1]) + 1)[groups]
        pool = shuffled // self.items.pool
        return np.lexsort((generator.random(len(groups)), pool))

    def batches(self, batches: Iterable[Indices], seed: int | None) -> Batches:
        """Batches of the images with these indices in the split: uint8 [B, 3, size, size], int64
        [B].

        Args:
            batches: indices, one array a batch.
            seed: of random crops; None for centre crops.

        Raises:
            UserError: an image cannot be read, or a worker died.
        """
        loader = DataLoader(
            _CroppedImages(self.items, self.all_labels, self.size, seed),
            batch_sampler=[self.chosen[batch].tolist() for batch in batches],
            num_workers=min(self.workers, cores()),
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )
        try:
            for batch in loader:
                if isinstance(batch, str):
                    raise UserError(batch)
                images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
                yield images, labels
        except (RuntimeError, OSError, EOFError) as e:
            raise reader_death(e) or e from None
