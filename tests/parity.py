"""Comparing with the original research code's numbers so that the answer is the same on every
processor.

A convolution over signs adds ±gain, and the last bit of a sum depends on the order of its terms.
Max pools, ReLUs and signs then choose between values that are equal in exact arithmetic, and
another instruction set chooses otherwise. Gains of eight bits make all such sums exact in any
order, so both sides are computed with every gain rounded to bfloat16; the gains themselves are
compared before that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from biprop.subnetwork import Subnetwork

EXACT = 1e-9
"""Relative limit for double precision, where the reference does not say that noise moves it
further.
"""
GAIN = 1e-11
"""Relative limit for unrounded gains: the rounding to bfloat16 would hide errors below 0.4 %."""


def limit(moves: float) -> float:
    """Limit in double precision for a number that relative noise of 1e-14 in every operation moves
    by `moves`.
    """
    return max(EXACT, 10 * moves)


def masks_digest(subnetwork: Subnetwork) -> str:
    """SHA-256 of all masks, one layer after the other, each packed into bits from the lowest on."""
    digest = hashlib.sha256()
    for layer in subnetwork.layers.values():
        digest.update(np.packbits(layer.mask.numpy(), bitorder="little").tobytes())
    return digest.hexdigest()


def check_masks_and_gains(subnetwork: Subnetwork, reference: Mapping[str, object]) -> None:
    """Assert that the masks are the reference's, weight by weight, and that its gains are ours to
    `GAIN`.
    """
    gains = reference["gains"]
    assert isinstance(gains, Mapping)
    assert subnetwork.kept == reference["kept"]
    assert masks_digest(subnetwork) == reference["masks_sha256"]
    assert gains.keys() == subnetwork.layers.keys()
    for name, layer in subnetwork.layers.items():
        assert abs(float(layer.gain) / gains[name] - 1) < GAIN, name


def round_gains(subnetwork: Subnetwork) -> None:
    """Round every gain to bfloat16, in place; they stay so until a score changes."""
    for layer in subnetwork.layers.values():
        layer.gain.copy_(layer.gain.to(torch.bfloat16))


def difference(ours: Tensor, theirs: object) -> float:
    """Largest difference, relative to the reference's largest value."""
    a, b = (
        torch.as_tensor(values, dtype=torch.float64).detach().flatten() for values in (ours, theirs)
    )
    return float((a - b).abs().max() / b.abs().max())


def norm_differences(ours: Mapping[str, Tensor], theirs: Mapping[str, float]) -> dict[str, float]:
    """Relative differences of gradients' norms; the norm of what is 0 but for rounding counts as a
    thousandth of the largest.
    """
    assert ours.keys() == theirs.keys()
    smallest = 1e-3 * max(map(abs, theirs.values()))
    return {
        name: abs(float(ours[name]) - norm) / max(abs(norm), smallest)
        for name, norm in theirs.items()
    }
