"""Decks: several cards (tickets) that answer together, with or without a gate, in one file.

No PyTorch; docs/deck.md describes the method and the file.

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
from ..ticket.state import MAX_CHARACTERS, MOST_NAMES
from ..ticket.ticket import DEFAULT_MOST_WEIGHTS
from .gate import RINGS, Floats, Gate, Gating, features_of

if TYPE_CHECKING:
    from torch import nn


VERSION = 1
"""Version of the file format. Newer ones are refused; older ones are read for ever."""
MOST_CARDS, MOST_KINDS = 256, 256
_LARGEST = 1e6
"""Limit of the gate's numbers: sums of their products stay finite."""


@dataclass
class Deck:
    """Cards that answer together.

    Attributes:
        cards: tickets with the same classes and image size; each normalises images in its own way.
        names: what the cards are called.
        gate: None in a domain-agnostic deck.

    Raises:
        TicketError: the cards do not fit together, or one of them cannot be a card.
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
            _check_card(card, name, self.cards[0], self.names[0])
        if self.gate:
            shape = (self.gate.worth.shape[1], len(self.gate.precision))
            if shape != (len(self.cards), features_of(_input_shape(self.cards[0])[0])):
                raise TicketError("the gate is of other cards: build the deck anew")

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled; a copy makes engines of its own when they are needed."""
        return {**self.__dict__, "_engines": {}}

    @staticmethod
    def load(path: str | Path, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Deck:
        """Read a deck file.

        Args:
            path: of the file.
            most_weights: refuse more than so many in all cards, before memory is taken for them.

        Raises:
            TicketError: no such file, or it is damaged, hostile or of a newer version.
        """
        return container.load(path, "deck", lambda content: Deck.from_bytes(content, most_weights))

    def save(self, path: str | Path) -> int:
        """Write the deck, by an atomic write; returns its size in bytes.

        Raises:
            UserError: it cannot be written.
        """
        return container.save(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The file's content: the tickets' files one after the other, and the gate's numbers."""
        tickets = [card.to_bytes() for card in self.cards]
        sizes = map(len, tickets)
        description = {
            "cards": [[name, size] for name, size in zip(self.names, sizes, strict=True)],
            "kinds": self.gate.kinds if self.gate else [],
            "features": len(self.gate.precision) if self.gate else 0,
        }
        tensors: dict[str, tuple[str, NDArray[Any]]] = {
            "tickets": ("U8", np.frombuffer(b"".join(tickets), np.uint8)),
            "gate": ("F32", self._gate_numbers()),
        }
        return container.pack("deck", VERSION, description, tensors)

    def _gate_numbers(self) -> NDArray[Any]:
        """All numbers of the gate, flat; empty without a gate."""
        gate = self.gate
        parts = [gate.templates, gate.precision, gate.worth] if gate else []
        flat = [np.empty(0, np.float32), *(part.ravel() for part in parts)]
        return np.concatenate(flat).astype("<f4")

    @staticmethod
    def from_bytes(content: bytes, most_weights: int = DEFAULT_MOST_WEIGHTS) -> Deck:
        """The deck of a file's content; see `load`.

        Raises:
            TicketError: it is not one that this version reads.
        """
        with container.errors_as_damage():
            return _read(*container.unpack("deck", VERSION, content), most_weights)

    def predict(
        self,
        images: NDArray[Any],
        gating: Gating = "batch",
        layout: Layout | None = None,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """Probabilities of the classes, computed by the engine.

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
        pixels = engines[0].as_bytes(images, layout)
        return together(answers, self.card_weights(pixels, gating))

    def to_model(self, gating: Gating = "batch") -> nn.Module:
        """The deck in PyTorch, in RobustBench's convention.

        Returns:
            A module from pixels [B, C, H, W] in [0, 1] to log probabilities [B, classes].

        Raises:
            TicketError: the tensors of a card do not fit its network.
        """
        from .torch import DeckModel

        cards = [card.to_model(on_pixels=True) for card in self.cards]
        return DeckModel(cards, partial(self.card_weights, gating=gating))

    def card_weights(self, pixels: NDArray[np.uint8], gating: Gating) -> Floats:
        """How much each card counts for each image, see `Gate.weights`.

        Args:
            pixels: [B, C, H, W] uint8.
            gating: as of `predict`.

        Returns:
            [B, cards] float32.
        """
        if self.gate is None:
            return np.full((len(pixels), len(self.cards)), 1 / len(self.cards), dtype=np.float32)
        return self.gate.weights(pixels, gating)

    def engines(self, threads: int = 1) -> list[Engine]:
        """An engine for each card, made at the first call.

        Raises:
            UserError: a wrong number of threads.
        """
        threads = integer(threads, "threads")
        if threads not in self._engines:
            self._engines[threads] = [Engine(ticket, threads) for ticket in self.cards]
        return self._engines[threads]


def _check_card(card: Ticket, name: str, first: Ticket, first_name: str) -> None:
    """A card classifies images that it normalises, and has the images and classes of the first."""
    has_network = card.network is not None or card.graph is not None
    if not has_network or not card.mean:
        lacks = "normalisation" if has_network else "network"
        raise TicketError(f"{name}: does not tell its {lacks}, so it cannot be a card")
    if len(_input_shape(card)) != 3 or len(card.output_shape or ()) != 1:
        raise TicketError(f"{name}: does not classify images, so it cannot be a card")
    if _input_shape(card) != _input_shape(first):
        raise TicketError(
            f"{name} takes {_times(card)} images, and {first_name} {_times(first)}: they cannot be"
            " in one deck"
        )
    if (card.output_shape, card.classes) != (first.output_shape, first.classes):
        raise TicketError(f"{name} has other classes than {first_name}: they cannot be in one deck")


def _input_shape(card: Ticket) -> tuple[int, ...]:
    """(channels, height, width) of images."""
    return card.input_shape or ()


def _times(card: Ticket) -> str:
    """The shape of the images, as text."""
    return " x ".join(map(str, _input_shape(card)))


def together(answers: Floats, weights: Floats) -> Floats:
    """The weighted mean of the cards' answers.

    Args:
        answers: [cards, B, classes] probabilities.
        weights: [B, cards], rows sum to 1.

    Returns:
        [B, classes] float32.
    """
    mean: Floats = np.einsum("cbk,bc->bk", answers, weights)
    return mean.astype(np.float32, copy=False)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities [B, classes] of logits [B, classes], of the same dtype."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _read(description: Any, tensors: dict[str, NDArray[Any]], most_weights: int) -> Deck:
    has_tensors = set(tensors) == {"tickets", "gate"}
    check(isinstance(description, dict) and has_tensors, "the description of the deck")
    files, numbers = tensors["tickets"], tensors["gate"]
    check(files.dtype == np.uint8 and numbers.dtype == np.dtype("<f4"), "the types of the tensors")
    entries, kinds, count = description["cards"], description["kinds"], description["features"]
    _check_entries(entries, len(files))
    cards = _read_cards(entries, files, most_weights)
    names = [name for name, _ in entries]
    return Deck(cards, names, _read_gate(numbers, kinds, count, len(cards)))


def _check_entries(entries: Any, size: int) -> None:
    """Check the list of [name, size] of the cards, whose files have `size` bytes in all."""
    check(isinstance(entries, list) and 1 <= len(entries) <= MOST_CARDS, "the list of cards")
    for entry in entries:
        check(isinstance(entry, list) and len(entry) == 2, "the entry of a card")
        name, card_size = entry
        check(is_name(name), "the name of a card")
        check(type(card_size) is int and 0 <= card_size <= size, "the size of a card")
    are_all = sum(card_size for _, card_size in entries) == size
    check(are_all, "cards of another size than the file's")


def _read_cards(
    entries: list[list[Any]], files: NDArray[np.uint8], most_weights: int
) -> list[Ticket]:
    """The cards, within the limits of one ticket for all of them together."""
    cards: list[Ticket] = []
    at = names = characters = 0
    for name, size in entries:
        most_left = most_weights - sum(card.weights for card in cards)
        card = _read_card(name, files[at : at + size].tobytes(), most_left)
        cards.append(card)
        at += size
        names += len(card.state)
        characters += sum(map(len, card.state))
        fits = names <= MOST_NAMES and characters <= MAX_CHARACTERS
        check(fits, f"{names} names of tensors, of {characters} characters, in its cards")
    return cards


def _read_card(name: str, content: bytes, most_weights: int) -> Ticket:
    try:
        return Ticket.from_bytes(content, most_weights)
    except TicketError as e:
        raise TicketError(f"card {name}: {e}") from None


def _read_gate(numbers: NDArray[np.float32], kinds: Any, count: Any, cards: int) -> Gate | None:
    """The gate of `kinds` on `count` features, or None where there is none."""
    check(type(count) is int and count in (0, RINGS, 2 * RINGS), "the number of features")
    _check_kinds(kinds, has_features=bool(count))
    ends = np.cumsum([len(kinds) * count, count * count, len(kinds) * cards])
    check(len(numbers) == ends[-1], "the numbers of the gate")
    are_bounded = bool((np.abs(numbers) <= _LARGEST).all())
    check(are_bounded, "a number of the gate is too large, or none")
    if not kinds:
        return None
    templates, precision, worth = np.split(numbers.astype(np.float32), ends[:-1])
    worth = worth.reshape(len(kinds), cards)
    _check_worth(worth)
    return Gate(templates.reshape(len(kinds), count), precision.reshape(count, count), worth, kinds)


def _check_kinds(kinds: Any, has_features: bool) -> None:
    is_list = isinstance(kinds, list) and len(kinds) <= MOST_KINDS
    check(is_list and bool(kinds) == has_features, "the list of kinds")
    check(all(map(is_name, kinds)), "the name of a kind")


def _check_worth(worth: NDArray[np.float32]) -> None:
    sum_to_one = (np.abs(worth.sum(1) - 1) < 1e-3).all()
    are_weights = bool((worth >= 0).all() and sum_to_one)
    check(are_weights, "weights of cards that do not sum to 1")
