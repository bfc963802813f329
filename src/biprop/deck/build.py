"""Cards become a deck: its gate is fitted on held-out images, plain and augmented as each card's
training images were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import config as options
from .. import data
from ..config import Config
from ..console import Console
from ..data import Recipe
from ..errors import UserError
from ..evaluation import subject
from ..ticket import Ticket
from .deck import Deck, softmax
from .gate import Gate

MOST_IMAGES = 2000
"""Limit of the images of each kind that the gate is fitted on."""
_AUGMENTATION = options.with_roles(options.Role.AUGMENTATION)
"""Options of its search that decide how a card's training images were augmented."""


def build(
    cards: Sequence[Ticket],
    names: Sequence[str],
    flags: Mapping[str, Any],
    console: Console,
    threads: int,
) -> Deck:
    """A deck with a gate, which is fitted on held-out images.

    Args:
        cards, names: as of `Deck`.
        flags: options that name the data set and its folder, where the first card does not.
        console: shows progress.
        threads: that the engine uses.

    Raises:
        TicketError: see `Deck`.
        UserError: no data, data of another task, or of no images.
    """
    deck = Deck(list(cards), list(names))
    first = subject.of_ticket(names[0], flags, cards[0])
    # Test images decide nothing here, whatever the search did with them.
    first.config = dataclasses.replace(first.config, select_on="validation")
    images = subject.load_data(first, console)
    if not images.is_images:
        raise UserError(
            f"{names[0]}: decks are for images, and the data are {first.task}, no pixels"
        )
    # Plain images are a kind whatever the cards were trained on: all of them saw some, and there
    # they help each other most.
    recipes = list(dict.fromkeys([*map(training_recipe, cards, names), Recipe("none")]))
    kinds, right = [], []
    label = "fitting the gate to kinds of training images"
    for recipe in console.track(recipes, label, len(recipes)):
        pixels, probabilities = _answers(deck, images, recipe, threads)
        kinds.append(pixels)
        right.append(probabilities)
    gate = Gate.fit([description_of(recipe) for recipe in recipes], kinds, right)
    return dataclasses.replace(deck, gate=gate)


def notes_on(cards: Sequence[Ticket], names: Sequence[str]) -> list[str]:
    """What the user should know of a gate for these cards, a line each.

    Args:
        cards, names: as of `Deck`.
    """
    trained = [
        name
        for card, name in zip(cards, names, strict=True)
        if card.found.get("selected_on") in ("test", "last")
    ]
    if not trained:
        return []
    return [
        f"the gate is fitted on images that {', '.join(trained)} trained on (--select-on test or"
        " last), where they are too accurate: for a gate, search with --select-on validation"
    ]


def _answers(
    deck: Deck, images: data.DataSet, recipe: Recipe, threads: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Held-out images augmented by a recipe, and what each card answers.

    Returns:
        [N, C, H, W] uint8, and [cards, N]: the probability of the right class.

    Raises:
        UserError: there are too few images.
    """
    augmented, labels = images.augmented(images.validation, recipe, MOST_IMAGES)
    if len(labels) < 2:
        raise UserError(f"{len(labels)} held-out images: a gate needs at least 2")
    pixels, rows, columns = augmented.numpy(), np.arange(len(labels)), labels.numpy()
    answers = [softmax(engine.run(pixels, "NCHW")) for engine in deck.engines(threads)]
    return pixels, np.stack([probabilities[rows, columns] for probabilities in answers])


def training_recipe(card: Ticket, name: str) -> Recipe:
    """How the card's training images were augmented, with all of them noisy and no plain view.

    Args:
        card: of a deck.
        name: of the card, for messages.

    Raises:
        UserError: the ticket records impossible options.
    """
    recorded = card.found.get("options")
    if not isinstance(recorded, dict):
        recorded = {}
    known = {key: value for key, value in recorded.items() if key in _AUGMENTATION}
    config = Config(**{key: options.coerce(key, value, name) for key, value in known.items()})
    return data.recipe_of(dataclasses.replace(config, augment="none", p_clean=0.0, jsd=False))


def description_of(recipe: Recipe) -> str:
    """The name of a kind of images: how they were augmented."""
    if recipe.augmix:
        return f"AugMix {recipe.augmix.severity}"
    return f"noise {recipe.gaussian[0]:g}" if recipe.gaussian else "no augmentation"
