"""The gate of a deck: which cards know images like these, by the spectrum of the images.

numpy only; docs/deck.md has the formulas, and what else was tried.

"A Winning Hand" (arXiv 2106.09129), section 4, weights cards by the spectral similarity between
test images and each card's training augmentation, and leaves open what that is. Here it is a
posterior, and what a card is worth for it is learned (`Gate`).
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
FLOOR = 1e-5
"""Added to the power: a quarter of a grey level's in one frequency, so that the logarithm of black
areas stays moderate.
"""
_PSEUDO_COUNTS = 0.1
"""Of the Dirichlet prior of the mixture weights, for each image that is seen: what is learned from
few images must not silence a card.
"""
_ROUNDS = 300
"""Iterations of expectation and maximisation: far more than two or six cards need."""


def features(pixels: NDArray[np.uint8]) -> Floats:
    """The spectrum of images in a few numbers: the mean log power by ring.

    It is of brightness and, for images in colour, also of colour differences.

    Args:
        pixels: [B, C, H, W] uint8, C is 1 or 3.

    Returns:
        [B, F] float32; F is 12, in colour 24.
    """
    values = pixels.astype(np.float32) / np.float32(255)
    rings = ring_weights(*values.shape[2:])
    spectra = [_log_power(signal) @ rings for signal in _signals(values)]
    return np.concatenate(spectra, axis=1).astype(np.float32)


def _signals(values: Floats) -> list[Floats]:
    """Brightness [B, 1, H, W] and, in colour, colour differences [B, 2, H, W]."""
    brightness = values.mean(1, keepdims=True)
    if values.shape[1] != 3:
        return [brightness]
    red, green, blue = values[:, 0], values[:, 1], values[:, 2]
    return [brightness, np.stack([red - green, blue - (red + green) / 2], axis=1)]


def _log_power(signal: Floats) -> NDArray[Any]:
    """[B, H (W // 2 + 1)], of a signal [B, C, H, W]: summed over channels, a pixel's share."""
    centred = signal - signal.mean(axis=(2, 3), keepdims=True)
    power = (np.abs(np.fft.rfft2(centred)) ** 2).sum(1) / math.prod(signal.shape[2:])
    logarithms: NDArray[Any] = np.log(power + FLOOR)
    return logarithms.reshape(len(signal), math.prod(power.shape[1:]))


def features_of(channels: int) -> int:
    """Number of `features` of images with 1 or 3 channels."""
    return RINGS * (2 if channels == 3 else 1)


def ring_weights(height: int, width: int) -> Floats:
    """[H (W // 2 + 1), RINGS]: the weight of each frequency in the mean over its ring."""
    vertical, horizontal = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    radius = np.hypot(vertical, horizontal).ravel() * math.sqrt(2)
    ring = np.minimum((radius * RINGS).astype(int), RINGS - 1)
    member = (ring[:, None] == np.arange(RINGS)).astype(np.float32)
    weights: Floats = member / np.maximum(member.sum(0), 1)
    return weights


@dataclass
class Gate:
    """Weights of cards for images, by the kinds of images that the cards were trained on.

    The probability of each kind is found by linear discriminant analysis on `features`: under each
    kind they are distributed normally around its template, all with one covariance. Of a batch, the
    mean features count: more images make them more certain, not the answer more extreme. The
    mixture weights of the cards for each kind are learned from held-out images.

    Attributes:
        templates: [kinds, F] float32, mean features of plain images, and of images changed as those
            were that cards trained on.
        precision: [F, F] float32, the inverse of the covariance.
        worth: [kinds, cards] float32, the mixture weights of the cards for images of a kind; rows
            sum to 1.
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
        spectra = [features(pixels).astype(np.float64) for pixels in images]
        templates = np.stack([spectrum.mean(0) for spectrum in spectra])
        precision = np.linalg.inv(_covariance(spectra))
        worth = np.stack([_mixture(probabilities) for probabilities in right])
        return Gate(
            templates.astype(np.float32),
            precision.astype(np.float32),
            worth.astype(np.float32),
            list(kinds),
        )

    def weights(self, pixels: NDArray[np.uint8], by: Gating) -> Floats:
        """How much each card counts for each image.

        Args:
            pixels: [B, C, H, W] uint8.
            by: "batch": the images are of one kind, and share their weights; "image": each has its
                own; "none": all cards count alike.

        Returns:
            [B, cards] float32, rows sum to 1.
        """
        cards = self.worth.shape[1]
        if by == "none" or not len(pixels):
            return np.full((len(pixels), cards), 1 / cards, dtype=np.float32)
        spectrum = features(pixels)
        if by == "batch":
            spectrum = spectrum.mean(0, keepdims=True)
        weights = self._posterior(spectrum) @ self.worth
        return np.broadcast_to(weights, (len(pixels), cards)).astype(np.float32)

    def _posterior(self, spectrum: Floats) -> NDArray[np.float64]:
        """[B, kinds]: the probability of each kind given features [B, F], by linear discriminant
        analysis with equal priors.
        """
        differences = (spectrum[:, None] - self.templates).astype(np.float64)
        distances = np.einsum("bkf,fg,bkg->bk", differences, self.precision, differences)
        odds = -0.5 * distances
        likelihood = np.exp(odds - odds.max(1, keepdims=True))
        posterior: NDArray[np.float64] = likelihood / likelihood.sum(1, keepdims=True)
        return posterior


def _covariance(spectra: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[F, F]: the mean of the kinds' covariances, raised on the diagonal.

    Rings of few frequencies are hardly independent, and small images leave some empty.
    """
    covariances = [np.cov(spectrum, rowvar=False) for spectrum in spectra]
    covariance: NDArray[np.float64] = np.mean(covariances, axis=0)
    ridge = 0.01 * np.trace(covariance) / len(covariance) + 1e-6
    covariance += ridge * np.eye(len(covariance))
    return covariance


def _mixture(right: NDArray[Any]) -> NDArray[np.float64]:
    """The mixture weights of cards on images of one kind.

    They maximise the likelihood of the right classes under the weighted mean of the cards' answers,
    with a Dirichlet prior that keeps every card in (`_PSEUDO_COUNTS`), by expectation and
    maximisation (Dempster, Laird and Rubin, 1977). What is maximised is concave: there is no other
    maximum.

    Args:
        right: [cards, N], the probability that each card gives to the right class.

    Returns:
        [cards], sum 1.
    """
    likelihood = np.maximum(right.astype(np.float64), 1e-12)
    cards = len(likelihood)
    weights = np.full(cards, 1 / cards)
    for _ in range(_ROUNDS):
        joint = weights[:, None] * likelihood
        responsibility = (joint / joint.sum(0)).mean(1)
        weights = (responsibility + _PSEUDO_COUNTS / cards) / (1 + _PSEUDO_COUNTS)
    return weights
