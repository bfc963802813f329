"""Which training images are held out: a share of every class, the same whatever the seed of the
search.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..errors import UserError

MOST_HELD_OUT = 10_000
ENOUGH_TO_TRUST, ENOUGH_TO_CHOOSE = 100, 20
"""Validation images below which the accuracy of the best epoch is partly luck, and below which they
choose no epoch.
"""
TEST_LAYER, VALIDATION_LAYER = 1, 0
"""Numbers of the generator's streams for the two splits."""


def validation_size(count: int) -> int:
    """How many of `count` training images are held out: a tenth, at most `MOST_HELD_OUT`."""
    return min(max(1, count // 10), MOST_HELD_OUT)


def stratified(
    labels: NDArray[np.int64], size: int, layer: int, classes: Sequence[str]
) -> NDArray[np.bool_]:
    """Choose images so that every class has the same share of them, and at least one.

    Args:
        labels: [N] of all images.
        size: how many to choose, about: never fewer than one a class, never all of a class.
        layer: of the generator's stream, whose seed is always 0.
        classes: names, for the message.

    Returns:
        Which are chosen, [N] bool.

    Raises:
        UserError: a class has one image only, which cannot be on both sides.
    """
    counts = np.bincount(labels, minlength=len(classes))
    lonely = np.flatnonzero(counts == 1)
    if len(lonely):
        name = classes[int(lonely[0])]
        raise UserError(
            f"class {name!r} has too few images: each needs one to train on, one for validation"
            " (unless --select-on test) and one for the test, where there is no test part"
        )
    quotas = _quotas(counts, size)
    words = rng.words(0, layer, len(labels), rng.Stream.SPLIT)
    by_class = np.lexsort((words, labels))
    first = np.concatenate([[0], counts.cumsum()])[:-1]
    place_in_class = np.arange(len(labels)) - first[labels[by_class]]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[by_class] = place_in_class < quotas[labels[by_class]]
    return chosen


def _quotas(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many of each class: proportional, the remainder to the largest fractions (of equals to
    the first).
    """
    ideal = size * counts / max(1, counts.sum())
    fewest, most = np.minimum(counts, 1), np.maximum(counts - 1, 0)
    quotas: NDArray[np.int64] = np.clip(np.floor(ideal).astype(np.int64), fewest, most)
    for label in np.argsort(np.floor(ideal) - ideal, kind="stable"):
        if quotas.sum() >= size:
            break
        quotas[label] += int(quotas[label] < counts[label] - 1)
    return quotas
