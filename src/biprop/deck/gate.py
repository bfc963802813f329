"""Which cards of a deck know images like these? Told by their spectrum. numpy only; docs/deck.md
has the formulas, and what else was tried.

"A Winning Hand" (arXiv 2106.09129), section 4, weights cards by the spectral similarity between
test images and each card's training augmentation, and leaves open what that is. Here it is a
posterior, and what it is worth is learned (`Gate`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Gating = Literal["batch", "image", "none"]
Floats = NDArray[np.float32]

RINGS = 12
"""Of equal width in spatial frequency, from the mean to the corner of the spectrum."""
_FLOOR = 1e-5
"""Added to the power: a quarter of a grey level's in one frequency, so that black areas do not
count.
"""
_ALIKE = 0.1
"""Images on which all cards are equally good, for each image that is seen: what is learned from few
must not silence a card.
"""
_ROUNDS = 300
"""Of expectation and maximisation: far more than two or six cards need."""


def features(pixels: NDArray[np.uint8]) -> Floats:
    """The spectrum of images in a few numbers: the mean log power by ring, of brightness and, in
    colour, of colour differences.

    Args:
        pixels: [B, C, H, W] uint8, C is 1 or 3.

    Returns:
        [B, 12 or 24] float32.
    """
    values = pixels.astype(np.float32) / np.float32(255)
    signals = [values.mean(1, keepdims=True)]
    if values.shape[1] == 3:
        red, green, blue = values[:, 0], values[:, 1], values[:, 2]
        signals.append(np.stack([red - green, blue - (red + green) / 2], axis=1))
    rings = _rings(*values.shape[2:])
    found = []
    for signal in signals:
        centred = signal - signal.mean(axis=(2, 3), keepdims=True)
        power = (np.abs(np.fft.rfft2(centred)) ** 2).sum(1) / math.prod(values.shape[2:])
        found.append(np.log(power + _FLOOR).reshape(len(values), rings.shape[0]) @ rings)
    return np.concatenate(found, axis=1).astype(np.float32)


def features_of(channels: int) -> int:
    """How many `features` images have."""
    return RINGS * (2 if channels == 3 else 1)


def _rings(height: int, width: int) -> Floats:
    """[H (W // 2 + 1), RINGS]: the share of each frequency in the mean over its ring."""
    radius = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    ).ravel() * math.sqrt(2)
    ring = np.minimum((radius * RINGS).astype(int), RINGS - 1)
    member = (ring[:, None] == np.arange(RINGS)).astype(np.float32)
    shares: Floats = member / np.maximum(member.sum(0), 1)
    return shares


@dataclass
class Gate:
    """Weights of cards for images, by the kinds of images that the cards were trained on.

    How likely each kind is: linear discriminant analysis on `features`. Under each kind they are
    distributed normally around its template, all with one covariance. Of a batch, the mean features
    count: more images make them more certain, not the answer more extreme. What the cards are worth
    on images of each kind is learned from held-out images.

    Attributes:
        templates: [kinds, F] float32, mean features of plain images, and of images changed as those
            were that cards trained on.
        precision: [F, F] float32, the inverse of the covariance.
        worth: [kinds, cards] float32, the weights of the cards for images of a kind; rows sum to 1.
        kinds: what the kinds are called.
    """

    templates: Floats
    precision: Floats
    worth: Floats
    kinds: list[str]

    @staticmethod
    def fit(
        kinds: Sequence[str], images: Sequence[NDArray[np.uint8]], right: Sequence[NDArray[Any]]
    ) -> Gate:
        """The gate for kinds of images.

        Args:
            kinds: their names.
            images: [N, C, H, W] uint8 for each kind, N at least 2: images that the cards did not
                train on, augmented.
            right: [cards, N] for each kind: the probability that each card gives to the right
                class.
        """
        found = [features(pixels).astype(np.float64) for pixels in images]
        covariance = np.mean([np.cov(one, rowvar=False) for one in found], axis=0)
        # Rings of few frequencies are hardly independent, and small images leave some empty.
        covariance += (0.01 * np.trace(covariance) / len(covariance) + 1e-6) * np.eye(
            len(covariance)
        )
        templates = np.stack([one.mean(0) for one in found])
        worth = np.stack([_mixture(of_kind) for of_kind in right])
        precision = np.linalg.inv(covariance)
        return Gate(
            templates.astype(np.float32),
            precision.astype(np.float32),
            worth.astype(np.float32),
            list(kinds),
        )

    def weights(self, pixels: NDArray[np.uint8], by: Gating) -> Floats:
        """How much each card counts for each image: [B, cards] float32, rows sum to 1.

        Args:
            pixels: [B, C, H, W] uint8.
            by: "batch": the images are of one kind, and share their weights; "image": each has its
                own; "none": all cards count alike.
        """
        cards = self.worth.shape[1]
        if by == "none" or not len(pixels):
            return np.full((len(pixels), cards), 1 / cards, dtype=np.float32)
        found = features(pixels)
        if by == "batch":
            found = found.mean(0, keepdims=True)
        apart = (found[:, None] - self.templates).astype(np.float64)
        odds = -0.5 * np.einsum("bkf,fg,bkg->bk", apart, self.precision, apart)
        likely = np.exp(odds - odds.max(1, keepdims=True))
        weights = likely / likely.sum(1, keepdims=True) @ self.worth
        return np.broadcast_to(weights, (len(pixels), cards)).astype(np.float32)


def _mixture(right: NDArray[Any]) -> NDArray[np.float64]:
    """The weights [cards] under which the mean of the cards' answers gives the right classes the
    largest likelihood, less a penalty for leaving cards out (`_ALIKE`): expectation and
    maximisation (Dempster, Laird and Rubin, 1977). What is maximised is concave: there is no other
    maximum.
    """
    given = np.maximum(right.astype(np.float64), 1e-12)
    weights = np.full(len(given), 1 / len(given))
    for _ in range(_ROUNDS):
        shares = weights[:, None] * given
        weights = ((shares / shares.sum(0)).mean(1) + _ALIKE / len(given)) / (1 + _ALIKE)
    return weights
