"""Images that are too many for memory: worker processes decode and cut them while the network
trains.

The workers give out bytes; flips, further augmentation and normalisation happen on whole batches on
the device. Cutting follows from (seed, image), not from which worker does it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError, one_line
from ..images import as_mode, cut_middle, opened, pixels, upright_size
from .items import Items

if TYPE_CHECKING:
    from PIL import Image

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
"""Ranges of the random cut: fraction of the picture's area, and width / height (Szegedy et al.,
2015, PyTorch's recipe).
"""


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def random_box(
    width: int, height: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random part of a picture: (left, top, right, bottom) in pixels; after ten misses the
    middle.
    """
    for _ in range(10):
        area = width * height * generator.uniform(*AREA)
        aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = (
                int(generator.integers(width - w + 1)),
                int(generator.integers(height - h + 1)),
            )
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def cut_at_random(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """RandomResizedCrop: a random part, scaled to size x size.

    A JPEG is decoded at a half, a quarter or an eighth where the part still has at least `size`
    pixels a side: up to several times faster, and close to the same picture (the decoder averages).
    """
    from PIL import Image as Pillow

    full = upright_size(image)
    box = random_box(*full, generator)
    shrink = size / min(box[2] - box[0], box[3] - box[1])
    if shrink < 1:
        image.draft("RGB", (math.ceil(image.size[0] * shrink), math.ceil(image.size[1] * shrink)))
    upright = as_mode(image, "RGB")
    scale = (upright.size[0] / full[0], upright.size[1] / full[1]) * 2
    scaled = tuple(
        min(b * s, limit) for b, s, limit in zip(box, scale, upright.size * 2, strict=True)
    )
    return upright.resize((size, size), Pillow.Resampling.BILINEAR, box=scaled)  # type: ignore[arg-type]


class _Cuts(Dataset[Any]):
    """What a worker does: image number -> uint8 [3, size, size] and label; a mistake travels as its
    text.
    """

    def __init__(self, items: Items, labels: Tensor, size: int, seed: int | None) -> None:
        self.items, self.labels, self.size, self.seed = items, labels, size, seed

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | str:
        try:
            with opened(self.items.read(index), self.items.name(index)) as image:
                if self.seed is None:
                    cut = cut_middle(as_mode(image, "RGB"), self.size)
                else:
                    cut = cut_at_random(image, self.size, np.random.default_rng([self.seed, index]))
                return torch.from_numpy(pixels(cut).copy()), self.labels[index]
        except UserError as e:
            return str(e)


def _collate(samples: list[Any]) -> tuple[Tensor, Tensor] | str:
    if mistake := next((s for s in samples if isinstance(s, str)), None):
        return mistake
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def reader_death(error: BaseException) -> UserError | None:
    """The mistake to tell if an error says that a worker died.

    It can come at any moment, not only while a batch is asked for.
    """
    # Which of them: how far the worker was in sending. Nothing else in a search talks through pipes
    # of Python's.
    if isinstance(error, ConnectionError | EOFError) or (
        isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
    ):
        return UserError(
            f"a process that reads images died, perhaps for want of memory: {one_line(error)}"
        )
    return None


class Streamed:
    """A split whose images stay where they are; has the methods of `sources.Images`.

    Args:
        items, labels: of the whole part, N of them.
        size: pixels a side of what is given out.
        workers: processes; 0 decodes in this one.
        chosen: [n] int64, which of the N belong to this split; all unless given.
    """

    cuts = True  # at random, while it reads: no further crop

    def __init__(
        self,
        items: Items,
        labels: Tensor,
        size: int,
        workers: int,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        self.items, self.all_labels, self.size, self.workers = items, labels, size, workers
        self.chosen = np.arange(len(items)) if chosen is None else chosen
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> Tensor:
        return self.all_labels[self.chosen]

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def subset(self, mask: Tensor) -> Streamed:
        """Those where `mask` [n] is true."""
        return Streamed(
            self.items, self.all_labels, self.size, self.workers, self.chosen[mask.numpy()]
        )

    def to(self, device: torch.device) -> Streamed:
        """Batches will be given out on `device`."""
        self.device = device
        return self

    def order(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """A random order in which few groups of images are open at a time: whole groups are
        shuffled, then pools of them.
        """
        groups = self.items.groups[self.chosen]
        pool = generator.permutation(int(self.items.groups[-1]) + 1)[groups] // self.items.pool
        return np.lexsort((generator.random(len(groups)), pool))

    def batches(
        self, batches: Iterable[NDArray[np.int64]], seed: int | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images with these places in the split: uint8 [B, 3, size, size], int64
        [B].

        Args:
            batches: places, one array a batch.
            seed: of the random cuts; None cuts the middle.

        Raises:
            UserError: an image cannot be read, or a worker died.
        """
        loader = DataLoader(
            _Cuts(self.items, self.all_labels, self.size, seed),
            batch_sampler=[self.chosen[batch].tolist() for batch in batches],
            num_workers=min(self.workers, available_cores()),
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )
        try:
            for batch in loader:
                if isinstance(batch, str):
                    raise UserError(batch)
                images, labels = batch
                yield (
                    images.to(self.device, non_blocking=True),
                    labels.to(self.device, non_blocking=True),
                )
        except (RuntimeError, OSError, EOFError) as e:
            raise reader_death(e) or e from None
