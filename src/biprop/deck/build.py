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
"""Of each kind that the gate is fitted on."""
_AUGMENTATION = options.with_roles(options.Role.AUGMENTATION)
"""Options of its search that decide how a card's training images were augmented."""


def build(
    cards: Sequence[Ticket],
    names: Sequence[str],
    flags: Mapping[str, Any],
    console: Console,
    threads: int,
) -> Deck:
    """A deck with a gate.

    Args:
        cards, names: as of `Deck`.
        flags: where the data are, and which, where the first card does not tell.
        console: shows progress.
        threads: that the engine uses.

    Raises:
        TicketError: see `Deck`.
        UserError: no data, or data of another task.
    """
    deck = Deck(list(cards), list(names))
    first = subject.of_ticket(names[0], flags, cards[0])
    # Test images decide nothing here, whatever the search did with them.
    first.config = dataclasses.replace(first.config, select_on="validation")
    images = subject.load_data(first, console)
    # Plain images are a kind whatever the cards were trained on: all of them saw some, and there
    # they help each other most.
    recipes = list(dict.fromkeys([*map(training_recipe, cards, names), Recipe("none")]))
    kinds: list[NDArray[np.uint8]] = []
    right = []
    for recipe in console.track(
        recipes, "fitting the gate to kinds of training images", len(recipes)
    ):
        pixels, labels = images.augmented(images.validation, recipe, MOST_IMAGES)
        if len(labels) < 2:
            raise UserError(f"{len(labels)} held-out images: a gate needs at least 2")
        kinds.append(pixels.numpy())
        answers = (softmax(engine.run(kinds[-1], "NCHW")) for engine in deck.engines(threads))
        right.append(
            np.stack([of_card[np.arange(len(labels)), labels.numpy()] for of_card in answers])
        )
    return dataclasses.replace(
        deck, gate=Gate.fit([in_words(recipe) for recipe in recipes], kinds, right)
    )


def training_recipe(card: Ticket, name: str) -> Recipe:
    """What the card's training images looked like where they were changed: all of them are noisy,
    none is the plain view.

    Raises:
        UserError: the ticket tells impossible options.
    """
    told = card.found.get("options")
    known = (
        {key: value for key, value in told.items() if key in _AUGMENTATION}
        if isinstance(told, dict)
        else {}
    )
    config = Config(**{key: options.coerce(key, value, name) for key, value in known.items()})
    return data.recipe_of(dataclasses.replace(config, augment="none", p_clean=0.0, jsd=False))


def in_words(recipe: Recipe) -> str:
    """What was done to images."""
    if recipe.augmix:
        return f"AugMix {recipe.augmix.severity}"
    return f"noise {recipe.gaussian[0]:g}" if recipe.gaussian else "no augmentation"
