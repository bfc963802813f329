"""Decks whose gate is fitted on real images."""

import io

import numpy as np
import pytest
import torch
from conftest import network_of, random_ticket

from biprop import Ticket, UserError, native
from biprop.console import Console
from biprop.data import DataSet, Recipe, digits
from biprop.data.augmix import AugMix
from biprop.deck import build
from biprop.deck.gate import features

DIGITS = DataSet(digits.digits())


def card(seed: int, **options: object) -> Ticket:
    ticket = random_ticket(network_of("Conv2Wide", channels=1, width_mult=0.0625), seed=seed)
    ticket.mean, ticket.std, ticket.classes = DIGITS.mean, DIGITS.std, DIGITS.classes
    ticket.found = {"options": {"set": "digits", **options}}
    return ticket


def test_each_way_of_training_is_a_kind_and_the_gate_tells_them_apart() -> None:
    noise, mix = (
        {"gaussian_aug": True, "std_gauss": 0.2, "p_clean": 0.5},
        {"augmix": True, "jsd": True},
    )
    cards = [card(0, **noise), card(1, **mix), card(2, **noise)]
    deck = build.build(cards, ["a", "b", "c"], {}, Console(io.StringIO()), 1)
    threads = min(2, native.cores())
    assert deck.gate
    assert deck.gate.kinds == ["noise 0.2", "AugMix 3", "no augmentation"]
    assert deck.gate.worth.shape == (3, 3)
    plain = DIGITS.test.images[:100]  # type: ignore[attr-defined]
    noise_of = torch.from_numpy(np.random.default_rng(0).standard_normal(plain.shape))
    noisy = (plain + 51 * noise_of).clamp(0, 255).byte()
    for pixels, kind in ((noisy, 0), (plain, 2)):
        assert np.allclose(
            deck.card_weights(pixels.numpy(), "batch"), deck.gate.worth[kind], atol=0.1
        )
    assert (
        deck.to_bytes()
        == build.build(cards, ["a", "b", "c"], {}, Console(io.StringIO()), threads).to_bytes()
    )


def test_what_cards_were_trained_on() -> None:
    assert build.training_recipe(card(0), "a") == Recipe("none")
    assert build.training_recipe(card(0, gaussian_aug=True), "a") == Recipe(
        "none", None, (0.1, 0.0)
    )
    mixed = build.training_recipe(card(0, augmix=True, aug_severity=5, jsd=True), "a")
    assert mixed == Recipe("none", AugMix(severity=5))
    assert build.description_of(Recipe("none")) == "no augmentation"
    untold = card(0)
    untold.found = {}
    assert build.training_recipe(untold, "a") == Recipe("none")
    with pytest.raises(UserError, match="aug_severity"):
        build.training_recipe(card(0, augmix=True, aug_severity="x"), "a")


def test_cards_that_have_seen_the_images_of_the_gate_are_named() -> None:
    cards = [card(0), card(1), card(2)]
    for one, selected_on in zip(cards, ("last", "validation", "test"), strict=True):
        one.found["selected_on"] = selected_on
    (note,) = build.notes_on(cards, ["a", "b", "c"])
    assert note.startswith("the gate is fitted on images that a, c trained on")
    assert build.notes_on(cards[1:2], ["b"]) == []


def test_test_images_decide_nothing() -> None:
    """A search that chose its epoch on test images holds out none; the gate's come from the
    training images all the same.
    """
    decks = [
        build.build(
            [card(0, gaussian_aug=True, select_on=on)], ["a"], {}, Console(io.StringIO()), 1
        )
        for on in ("test", "validation")
    ]
    assert [deck.gate for deck in decks if deck.gate]
    assert np.array_equal(decks[0].gate.templates, decks[1].gate.templates)  # type: ignore[union-attr]
    plain = features(DIGITS.validation.images.numpy())  # type: ignore[attr-defined]
    assert np.allclose(decks[0].gate.templates[1], plain.mean(0), atol=1e-4)  # type: ignore[union-attr]
