"""Spectra as features; kinds of images told apart; what cards are worth."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop.deck.gate import Gate, features, features_of

RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before() -> None:
    RANDOM.bit_generator.state = START


def smooth(count: int, channels: int = 3, noise: float = 0.0) -> np.ndarray:  # type: ignore[type-arg]
    """Images of soft waves, [count, channels, 16, 16] uint8, with noise of so many grey levels."""
    place = np.arange(16) / 16 * 2 * np.pi
    phase = RANDOM.uniform(0, 6, (count, channels, 1, 1, 2))
    waves = np.sin(place[:, None] + phase[..., 0]) * np.cos(place + phase[..., 1])
    pixels = 128 + 50 * waves + noise * RANDOM.standard_normal((count, channels, 16, 16))
    return pixels.round().clip(0, 255).astype(np.uint8)


@given(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_features_are_finite_for_images_of_any_size(
    channels: int, height: int, width: int, count: int
) -> None:
    pixels = RANDOM.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    spectrum = features(pixels)
    assert spectrum.shape == (count, features_of(channels))
    assert spectrum.dtype == np.float32
    assert np.isfinite(spectrum).all()


def test_features_do_not_see_where_things_are_nor_how_bright_it_is() -> None:
    pixels = smooth(4) // 2
    assert np.allclose(features(pixels), features(np.roll(pixels, (3, 5), (2, 3))), atol=1e-4)
    assert np.allclose(features(pixels), features(pixels + 40), atol=1e-4)


def test_white_noise_has_the_same_power_in_every_ring() -> None:
    pixels = (128 + 20 * RANDOM.standard_normal((200, 1, 32, 32))).round().astype(np.uint8)
    rings = features(pixels).mean(0)[1:]  # the mean of an image is no noise
    # the mean of the logarithm of an exponential variable is that of its mean less Euler's constant
    assert np.abs(rings - (np.log((20 / 255) ** 2) - 0.5772)).max() < 0.1


def fitted() -> Gate:
    """Card 0 knows smooth images, card 1 noisy ones."""
    right = [np.array([[0.9] * 400, [0.3] * 400]), np.array([[0.2] * 400, [0.8] * 400])]
    return Gate.fit(["smooth", "noisy"], [smooth(400), smooth(400, noise=20)], right)


@pytest.mark.parametrize("by", ["batch", "image"])
def test_the_card_that_knows_the_images_answers(by: Literal["batch", "image"]) -> None:
    gate = fitted()
    assert (gate.worth[[0, 1], [0, 1]] > 0.9).all()
    assert np.allclose(gate.weights(smooth(20), by), gate.worth[0], atol=0.01)
    assert np.allclose(gate.weights(smooth(20, noise=20), by), gate.worth[1], atol=0.01)


def test_a_batch_shares_its_weights_and_images_have_their_own() -> None:
    gate, mixed = fitted(), np.concatenate([smooth(3), smooth(1, noise=20)])
    by_image, by_batch = gate.weights(mixed, "image"), gate.weights(mixed, "batch")
    assert by_image[:, 0].round().tolist() == [1, 1, 1, 0]
    assert (by_batch == by_batch[0]).all()
    assert np.allclose(by_batch, gate.weights(mixed[::-1], "batch"))
    assert (gate.weights(mixed, "none") == 0.5).all()
    assert np.allclose(gate.weights(mixed[:1], "batch"), by_image[:1])
    assert gate.weights(mixed[:0], "batch").shape == (0, 2)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_weights_are_shares(kinds: int, cards: int, count: int) -> None:
    images = [smooth(5, noise=10 * kind) for kind in range(kinds)]
    gate = Gate.fit(["a"] * kinds, images, [RANDOM.random((cards, 5)) for _ in range(kinds)])
    for by in ("batch", "image", "none"):
        weights = gate.weights(smooth(count, noise=5), by)  # type: ignore[arg-type]
        assert weights.shape == (count, cards)
        assert (weights >= 0).all()
        assert np.allclose(weights.sum(1), 1, atol=1e-5)


def test_the_mixture_has_the_largest_likelihood() -> None:
    right = RANDOM.uniform(0.05, 1, (2, 500))
    (worth,) = Gate.fit(["one"], [smooth(2)], [right]).worth.astype(float)
    prior = 0.1 * 500 / 2  # a tenth more images, on which both are equally good
    places = np.arange(1, 1000) / 1000
    likelihoods = [
        np.log(w * right[0] + (1 - w) * right[1]).sum() + prior * np.log(w * (1 - w))
        for w in places
    ]
    assert abs(worth[0] - places[np.argmax(likelihoods)]) < 2e-3


def test_cards_that_are_never_right_do_no_harm() -> None:
    gate = Gate.fit(["one"], [smooth(3)], [np.zeros((2, 3))])
    assert np.allclose(gate.worth, 0.5)
