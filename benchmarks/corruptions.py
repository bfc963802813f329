"""Corrupted images per second: biprop's batches against the package imagecorruptions-imaug, image
by image in worker processes.

    pip install imagecorruptions-imaug
    python benchmarks/corruptions.py --data DIR [--rounds 7] [--cores 2]

CIFAR-10's first test images, 32 x 32, the 15 corruptions of the score, all five severities; both
have all cores, and take turns. The package has the parameters of 224 x 224 only, and is measured
with them. A rate is that of the mean time an image over the 15.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is loaded

import numpy as np
import torch
from numpy.typing import NDArray

from biprop.data import cifar
from biprop.robustness.corruptions import corrupt
from biprop.robustness.severities import NAMES, SEVERITIES

OURS, THEIRS = 1000, 32
"""Images of each corruption and severity in a round."""


def one_by_one(task: tuple[NDArray[np.uint8], str, int]) -> None:
    """What a worker does with its share of images [N, H, W, 3]."""
    from imagecorruptions import corrupt as corrupt_one

    images, name, severity = task
    for image in images:
        corrupt_one(image, severity, name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.cores)
    test = cifar.cifar(arguments.data, "CIFAR10").test
    (pixels,) = (images for images, _ in test.batches([np.arange(OURS)], None))
    arrays = pixels[:THEIRS].permute(0, 2, 3, 1).numpy()

    with get_context("spawn").Pool(arguments.cores) as pool:
        ways: dict[str, tuple[int, Callable[[str, int], object]]] = {
            "imagecorruptions-imaug": (
                THEIRS,
                lambda name, severity: pool.map(
                    one_by_one,
                    [(part, name, severity) for part in np.array_split(arrays, arguments.cores)],
                ),
            ),
            "biprop": (OURS, lambda name, severity: corrupt(pixels, name, severity)),
        }
        seconds: dict[str, dict[str, list[float]]] = {
            way: {name: [] for name in NAMES} for way in ways
        }
        for turn in range(arguments.rounds + 1):
            for name in NAMES:
                for way, (count, do) in ways.items():
                    start = time.perf_counter()
                    for severity in SEVERITIES:
                        do(name, severity)
                    if turn:  # the first imports, compiles and fills caches
                        seconds[way][name].append(
                            (time.perf_counter() - start) / (count * len(SEVERITIES))
                        )

    theirs, ours = seconds.values()
    print(f"images/s on {arguments.cores} cores, median (range) of {arguments.rounds} rounds")
    for name in NAMES:
        print(
            f"{name:18} {told([1 / s for s in theirs[name]])}   {told([1 / s for s in ours[name]])}"
        )
    means = [
        [statistics.mean(column) for column in zip(*way.values(), strict=True)]
        for way in (theirs, ours)
    ]
    print(f"{'all 15':18} {told([1 / s for s in means[0]])}   {told([1 / s for s in means[1]])}")
    print(f"ratio {told([a / b for a, b in zip(*means, strict=True)])}")


def told(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


if __name__ == "__main__":
    main()
