"""Stratified splits: the same share of every class is held out, whatever the seed of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..errors import UserError

MOST_HELD_OUT = 10_000
ENOUGH_TO_TRUST, ENOUGH_TO_CHOOSE = 100, 20
"""Numbers of validation images: below the first, the accuracy of the best epoch is partly luck;
below the second, they select no epoch.
"""
TEST_LAYER, VALIDATION_LAYER = 1, 0
"""Numbers of the generator's streams for the two splits."""


def validation_size(count: int) -> int:
    """Number of images to hold out of `count` training images: a tenth, at most `MOST_HELD_OUT`."""
    return min(max(1, count // 10), MOST_HELD_OUT)


def stratified(
    labels: NDArray[np.int64], size: int, layer: int, classes: Sequence[str]
) -> NDArray[np.bool_]:
    """Choose random images, the same share of every class, and at least one.

    Args:
        labels: [N] of all images.
        size: how many to choose, about: never fewer than one per class, never all of a class.
        layer: number of the generator's stream, whose seed is always 0.
        classes: names, for the message.

    Returns:
        Which are chosen, [N] bool.

    Raises:
        UserError: a class has one image only, which cannot be on both sides.
    """
    counts = np.bincount(labels, minlength=len(classes))
    singles = np.flatnonzero(counts == 1)
    if len(singles):
        raise UserError(
            f"class {classes[int(singles[0])]!r} has too few images: each needs one to train on,"
            " one for validation (unless --select-on test or last) and one for the test, where"
            " there is no test part"
        )
    quotas = _quotas(counts, size)
    words = rng.words(0, layer, len(labels), rng.Stream.SPLIT)
    by_class = np.lexsort((words, labels))  # random within a class
    sorted_labels = labels[by_class]
    first = counts.cumsum() - counts  # of each class
    place_in_class = np.arange(len(labels)) - first[sorted_labels]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[by_class] = place_in_class < quotas[sorted_labels]
    return chosen


def _quotas(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many images to choose of each class: the proportional number, the remainder to the
    largest fractions (of equal ones to the first).
    """
    ideal = size * counts / max(1, counts.sum())
    fewest, most = np.minimum(counts, 1), np.maximum(counts - 1, 0)
    quotas: NDArray[np.int64] = np.clip(np.floor(ideal).astype(np.int64), fewest, most)
    for label in np.argsort(np.floor(ideal) - ideal, kind="stable"):
        if quotas.sum() >= size:
            break
        quotas[label] += int(quotas[label] < counts[label] - 1)
    return quotas
