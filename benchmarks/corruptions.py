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
from collections.abc import Callable, Sequence
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
Way = tuple[int, Callable[[str, int], None]]
"""Number of images, and a function of a corruption and a severity."""
Seconds = dict[str, list[float]]
"""An image takes, by corruption and round."""


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
    arrays = np.array_split(pixels[:THEIRS].permute(0, 2, 3, 1).numpy(), arguments.cores)
    with get_context("spawn").Pool(arguments.cores) as pool:

        def in_workers(name: str, severity: int) -> None:
            pool.map(one_by_one, [(part, name, severity) for part in arrays])

        def in_batches(name: str, severity: int) -> None:
            corrupt(pixels, name, severity)

        ways: list[Way] = [(THEIRS, in_workers), (OURS, in_batches)]
        theirs, ours = measure(ways, arguments.rounds)
    print(f"images/s on {arguments.cores} cores, median (range) of {arguments.rounds} rounds")
    show(theirs, ours)


def measure(ways: Sequence[Way], rounds: int) -> list[Seconds]:
    """Seconds that an image takes each way, in turns; the first round only fills caches."""
    seconds: list[Seconds] = [{name: [] for name in NAMES} for _ in ways]
    for turn in range(rounds + 1):
        for name in NAMES:
            for of_way, (count, do) in zip(seconds, ways, strict=True):
                start = time.perf_counter()
                for severity in SEVERITIES:
                    do(name, severity)
                passed = time.perf_counter() - start
                if turn:
                    of_way[name].append(passed / (count * len(SEVERITIES)))
    return seconds


def show(theirs: Seconds, ours: Seconds) -> None:
    for name in NAMES:
        print(f"{name:18} {rates(theirs[name])}   {rates(ours[name])}")
    their_means, our_means = means(theirs), means(ours)
    print(f"{'all 15':18} {rates(their_means)}   {rates(our_means)}")
    ratios = [a / b for a, b in zip(their_means, our_means, strict=True)]
    print(f"ratio {summary(ratios)}")


def means(seconds: Seconds) -> list[float]:
    """By round, over the corruptions."""
    return [statistics.mean(column) for column in zip(*seconds.values(), strict=True)]


def rates(seconds: Sequence[float]) -> str:
    return summary([1 / value for value in seconds])


def summary(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


if __name__ == "__main__":
    main()
