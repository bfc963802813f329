"""Images per second of AugMix on batches against the usual way: Pillow, image by image, in worker
processes.

Both crop, flip, mix (width 3, random depth, severity 3) and normalise batches of 128 images of
32x32 pixels, on all cores: here batches in as many threads, there a DataLoader with as many
workers. They take turns, so that other load on the machine affects both.

    python benchmarks/augment.py [--rounds 9] [--cores 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is loaded

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from biprop.data import DataSet, Recipe, Source
from biprop.data.augmix import AugMix
from biprop.data.cifar import CIFAR_MEAN, CIFAR_STD
from biprop.data.sources import Images

BATCH, BATCHES, SIDE, SEVERITY, WIDTH = 128, 16, 32, 3, 3
RANDOM = np.random.default_rng(0)
MakeBatches = Callable[[], Iterable[Any]]


def level() -> float:
    return float(RANDOM.uniform(0.1, SEVERITY))


def either_sign(value: float) -> float:
    return -value if RANDOM.uniform() > 0.5 else value


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )


OPERATIONS: list[Callable[[Image.Image], Image.Image]] = [
    ImageOps.autocontrast,
    ImageOps.equalize,
    lambda image: ImageOps.posterize(image, 4 - int(0.4 * level())),
    lambda image: ImageOps.solarize(image, 256 - int(25.6 * level())),
    lambda image: image.rotate(either_sign(int(3 * level())), resample=Image.Resampling.BILINEAR),
    lambda image: affine(image, 1, either_sign(0.03 * level()), 0, 0, 1, 0),
    lambda image: affine(image, 1, 0, 0, either_sign(0.03 * level()), 1, 0),
    lambda image: affine(image, 1, 0, either_sign(int(level() * SIDE / 30)), 0, 1, 0),
    lambda image: affine(image, 1, 0, 0, 0, 1, either_sign(int(level() * SIDE / 30))),
]
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))


def to_tensor(image: Image.Image) -> Tensor:
    return (
        torch.from_numpy(np.array(image))
        .permute(2, 0, 1)
        .contiguous()
        .float()
        .div_(255)
        .sub_(MEAN)
        .div_(STD)
    )


class PillowAugMix(Dataset[tuple[Tensor, int]]):
    """One image at a time, as training programs have done it."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        framed = ImageOps.expand(Image.fromarray(self.images[index]), 4)
        left, top = RANDOM.integers(9, size=2)
        image = framed.crop((left, top, left + SIDE, top + SIDE))
        if RANDOM.uniform() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        clean = to_tensor(image)
        mixed = torch.zeros_like(clean)
        for weight in RANDOM.dirichlet([1] * WIDTH):
            chain = image
            for _ in range(RANDOM.integers(1, 4)):
                chain = OPERATIONS[RANDOM.integers(len(OPERATIONS))](chain)
            mixed += float(weight) * to_tensor(chain)
        share = RANDOM.uniform()
        return (1 - share) * clean + share * mixed, 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.cores)
    pixels = smooth_images(BATCH * BATCHES)
    images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    source = Source(images, images, ["a", "b"], CIFAR_MEAN, CIFAR_STD, augment="crop+flip")
    recipe = Recipe(augmix=AugMix(WIDTH, -1, SEVERITY))
    biprop = DataSet(source, select_on="test", recipe=recipe)
    pillow = DataLoader(
        PillowAugMix(pixels), BATCH, num_workers=arguments.cores, persistent_workers=True
    )
    ways: dict[str, MakeBatches] = {
        "Pillow, worker processes": lambda: pillow,
        "biprop, batches": lambda: biprop.training_batches(BATCH, 0, 0),
    }
    report(measure(ways, len(pixels), arguments.rounds))


def smooth_images(count: int) -> Tensor:
    """[count, 3, SIDE, SIDE] uint8.

    Natural images have smooth areas and all sorts of histograms; noise would flatter neither way.
    """
    coarse = torch.rand(count, 3, 6, 6)
    large = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    return large.clamp(0, 1).mul(255).to(torch.uint8)


def measure(ways: dict[str, MakeBatches], count: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of each way in each round; `count` images make an epoch."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, batches in ways.items():
            rate = count / seconds(batches)
            if turn:  # the first one starts workers and fills caches
                rates[name].append(rate)
    return rates


def seconds(batches: MakeBatches) -> float:
    """Time of one epoch."""
    start = time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - start


def report(rates: dict[str, list[float]]) -> None:
    for name, values in rates.items():
        print(
            f"{name:26} {statistics.median(values):9,.0f} images/s  ({min(values):,.0f} to"
            f" {max(values):,.0f})"
        )
    slow, fast = rates.values()
    ratios = [b / a for a, b in zip(slow, fast, strict=True)]
    print(
        f"ratio {statistics.median(ratios):.1f} (median; {min(ratios):.1f} to {max(ratios):.1f}, n"
        f" = {len(ratios)})"
    )


if __name__ == "__main__":
    main()
