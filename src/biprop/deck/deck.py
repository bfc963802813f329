"""Decks: several cards (tickets) that answer together, with or without a gate, in one file.

No PyTorch; docs/deck.md tells more.

"A Winning Hand" (arXiv 2106.09129), section 4: a domain-agnostic deck averages the cards' softmax
outputs; a domain-adaptive one weights them by the images' spectrum (`gate`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine, Layout
from ..errors import integer
from ..names import is_name
from ..ticket import Ticket, TicketError, container
from ..ticket.container import check
from ..ticket.state import MOST_CHARACTERS, MOST_NAMES
from ..ticket.ticket import DEFAULT_MOST_WEIGHTS
from .gate import RINGS, Floats, Gate, Gating, features_of

if TYPE_CHECKING:
    from torch import nn


VERSION = 1
"""Of the file format. A newer one is refused; older ones are read for ever."""
MOST_CARDS, MOST_KINDS = 256, 256
_LARGEST = 1e6
"""Of a number of the gate: sums of their products stay finite."""


@dataclass
class Deck:
    """Cards that answer together.

    Attributes:
        cards: tickets with the same classes and image size; each normalises images in its own way.
        names: what the cards are called.
        gate: None in a domain-agnostic deck.

    Raises:
        TicketError: the cards do not fit together, or one cannot be a card.
    """

    cards: list[Ticket]
    names: list[str]
    gate: Gate | None = None
    _engines: dict[int, list[Engine]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.cards) <= MOST_CARDS or len(self.cards) != len(self.names):
            raise TicketError(
                f"a deck of {len(self.cards)} cards: must be 1 .. {MOST_CARDS}, with a name each"
            )
        for card, name in zip(self.cards, self.names, strict=True):
            if card.network is None or not card.mean:
                lacks = "network" if card.network is None else "normalisation"
                raise TicketError(f"{name}: does not tell its {lacks}, so it cannot be a card")
            ours, first = _takes(card), _takes(self.cards[0])
            if ours != first:
                takes = (
                    f"{name} takes {' x '.join(map(str, ours))} images, and {self.names[0]}"
                    f" {' x '.join(map(str, first))}"
                )
                raise TicketError(f"{takes}: they cannot be in one deck")
            if _classes(card) != _classes(self.cards[0]):
                raise TicketError(
                    f"{name} has other classes than {self.names[0]}: they cannot be in one deck"
                )
        features = features_of(_takes(self.cards[0])[0])
        if self.gate and (self.gate.worth.shape[1], len(self.gate.precision)) != (
            len(self.cards),
            features,
        ):
            raise TicketError("the gate is of other cards: build the deck anew")

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: a copy makes engines of its own when it is asked."""
        return {**self.__dict__, "_engines": {}}

    @staticmethod
    def load(path: str | Path, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Deck:
        """Read a deck file.

        Args:
            path: of the file.
            most_weights: refuse more than so many in all cards, before memory is taken for them.

        Raises:
            TicketError: no such file, damaged, hostile or of a newer version.
        """
        return container.load(path, "deck", lambda content: Deck.from_bytes(content, most_weights))

    def save(self, path: str | Path) -> int:
        """Write the deck, replacing the file in one step; returns its bytes.

        Raises:
            UserError: it cannot be written.
        """
        return container.save(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's content: the tickets' files one after the other, and the gate's numbers."""
        tickets = [card.to_bytes() for card in self.cards]
        numbers = [self.gate.templates, self.gate.precision, self.gate.worth] if self.gate else []
        description = {
            "cards": [
                [name, len(ticket)] for name, ticket in zip(self.names, tickets, strict=True)
            ],
            "kinds": self.gate.kinds if self.gate else [],
            "features": len(self.gate.precision) if self.gate else 0,
        }
        tensors: dict[str, tuple[str, NDArray[Any]]] = {
            "tickets": ("U8", np.frombuffer(b"".join(tickets), np.uint8)),
            "gate": (
                "F32",
                np.concatenate(
                    [np.empty(0, np.float32), *(part.ravel() for part in numbers)]
                ).astype("<f4"),
            ),
        }
        return container.pack("deck", VERSION, description, tensors)

    @staticmethod
    def from_bytes(content: bytes, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Deck:
        """The deck of a file's content; see `load`.

        Raises:
            TicketError: it is not one that this version reads.
        """
        with container.damage_told():
            return _read(*container.unpack("deck", VERSION, content), most_weights)

    def predict(
        self,
        images: NDArray[Any],
        gating: Gating = "batch",
        layout: Layout | None = None,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """Probabilities of the classes, by the packed engine.

        Args:
            images: uint8 of 0 .. 255 or floats of 0 .. 1, as for `Engine.run`.
            gating: "batch" where all images are of one kind (from one camera, on one day), "image"
                where each may be of its own, "none" for the mean of the cards. A deck without a
                gate takes the mean in any case.
            layout: as for `Engine.run`.
            threads: as for `Engine`.

        Returns:
            [B, classes] float32.

        Raises:
            UserError: images that the cards do not take.
        """
        engines = self.engines(threads)
        answers = np.stack([softmax(engine.run(images, layout)) for engine in engines])
        return together(answers, self.card_weights(engines[0].as_bytes(images, layout), gating))

    def to_model(self, gating: Gating = "batch") -> nn.Module:
        """The deck in PyTorch: a module from pixels [B, C, H, W] in [0, 1] to log probabilities,
        RobustBench's convention.

        Raises:
            TicketError: a card is not what its network is.
        """
        from .torch import DeckModel

        cards = [card.to_model(on_pixels=True) for card in self.cards]
        return DeckModel(cards, partial(self.card_weights, gating=gating))

    def card_weights(self, pixels: NDArray[np.uint8], gating: Gating) -> Floats:
        """How much each card counts for each image [B, C, H, W] uint8: [B, cards].

        See `Gate.weights`.
        """
        if self.gate is None:
            return np.full((len(pixels), len(self.cards)), 1 / len(self.cards), dtype=np.float32)
        return self.gate.weights(pixels, gating)

    def engines(self, threads: int = 1) -> list[Engine]:
        """One a card, made when first asked for.

        Raises:
            UserError: a wrong number of threads.
        """
        threads = integer(threads, "threads")
        if threads not in self._engines:
            self._engines[threads] = [Engine(ticket, threads) for ticket in self.cards]
        return self._engines[threads]


def _takes(card: Ticket) -> tuple[int, ...]:
    """(channels, height, width) of images."""
    assert card.network
    return (card.network["channels"], *card.network["input_size"])


def _classes(card: Ticket) -> tuple[int, list[str]]:
    assert card.network
    return card.network["num_classes"], card.classes


def together(answers: Floats, weights: Floats) -> Floats:
    """The weighted mean [B, classes] of probabilities [cards, B, classes], by weights [B, cards]."""
    mean: Floats = np.einsum("cbk,bc->bk", answers, weights)
    return mean.astype(np.float32, copy=False)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities [B, classes] of logits, of the same type."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _read(described: Any, tensors: dict[str, NDArray[Any]], most_weights: int) -> Deck:
    check(
        isinstance(described, dict) and set(tensors) == {"tickets", "gate"},
        "the description of the deck",
    )
    files, numbers = tensors["tickets"], tensors["gate"]
    check(files.dtype == np.uint8 and numbers.dtype == np.dtype("<f4"), "the types of the tensors")
    entries, kinds, count = described["cards"], described["kinds"], described["features"]
    check(isinstance(entries, list) and 1 <= len(entries) <= MOST_CARDS, "the list of cards")
    for entry in entries:
        check(isinstance(entry, list) and len(entry) == 2, "the entry of a card")
        check(is_name(entry[0]), "the name of a card")
        check(type(entry[1]) is int and 0 <= entry[1] <= len(files), "the size of a card")
    check(sum(size for _, size in entries) == len(files), "cards of another size than the file's")
    cards: list[Ticket] = []
    at = names = characters = 0
    for name, size in entries:
        left = most_weights - sum(card.weights for card in cards)
        try:
            card = Ticket.from_bytes(files[at : at + size].tobytes(), left)
        except TicketError as e:
            raise TicketError(f"card {name}: {e}") from None
        cards.append(card)
        at += size
        names, characters = names + len(card.state), characters + sum(map(len, card.state))
        fits = names <= MOST_NAMES and characters <= MOST_CHARACTERS
        check(fits, f"{names} names of tensors, of {characters} characters, in its cards")
    return Deck(cards, [name for name, _ in entries], _gate(numbers, kinds, count, len(cards)))


def _gate(numbers: NDArray[np.float32], kinds: Any, count: Any, cards: int) -> Gate | None:
    check(type(count) is int and count in (0, RINGS, 2 * RINGS), "the number of features")
    check(
        isinstance(kinds, list) and len(kinds) <= MOST_KINDS and bool(kinds) == bool(count),
        "the list of kinds",
    )
    check(all(map(is_name, kinds)), "the name of a kind")
    ends = np.cumsum([len(kinds) * count, count * count, len(kinds) * cards])
    check(len(numbers) == ends[-1], "the numbers of the gate")
    check(bool((np.abs(numbers) <= _LARGEST).all()), "a number of the gate is too large, or none")
    if not kinds:
        return None
    templates, precision, worth = np.split(numbers.astype(np.float32), ends[:-1])
    worth = worth.reshape(len(kinds), cards)
    check(
        bool((worth >= 0).all() and (np.abs(worth.sum(1) - 1) < 1e-3).all()),
        "weights of cards that do not sum to 1",
    )
    return Gate(templates.reshape(len(kinds), count), precision.reshape(count, count), worth, kinds)
