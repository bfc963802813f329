"""Accuracy under corruptions, of a network, or of a deck and each of its cards, on images corrupted
here or published.

Scores: accuracy for each corruption and severity; its mean over the 15 corruptions of
`severities.NAMES`; and mCE, the mean over corruptions of the errors summed over severities, divided
by a reference's (Hendrycks and Dietterich, ICLR 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Progress
from ..deck import Deck, softmax, together
from ..deck.gate import Gating
from ..evaluation.counts import Counts
from .images import Batches, Corrupted
from .scores import Cell, Scores

Network = Callable[[Tensor], Tensor]
"""Pixels [B, C, H, W] uint8 to logits [B, classes]."""


@dataclass
class Classifier:
    """Networks that are measured in one pass, each for itself and together as a deck.

    Attributes:
        networks: one, or those of the deck's cards.
        names: of the networks.
        deck: combines their answers; None for a single network.
    """

    networks: list[Network]
    names: list[str]
    deck: Deck | None = None

    @property
    def answers(self) -> list[str]:
        """Names of what `classes` gives, in order: the networks, and the gatings of the deck."""
        return [*self.names, *(name for name, _ in self._gatings())]

    def _gatings(self) -> list[tuple[str, Gating]]:
        """(name, gating) of the ways in which the deck can answer."""
        if self.deck is None:
            return []
        mean: list[tuple[str, Gating]] = [("deck, mean", "none")]
        gated: list[tuple[str, Gating]] = [
            ("deck, gated by batch", "batch"),
            ("deck, gated by image", "image"),
        ]
        return mean + gated if self.deck.gate else mean

    def classes(self, pixels: Tensor) -> Tensor:
        """The classes that are answered: [answers, B] int64 of pixels [B, C, H, W] uint8."""
        logits = [network(pixels) for network in self.networks]
        classes = [of_network.argmax(1).cpu() for of_network in logits]
        if self.deck:
            classes += self._of_deck(self.deck, logits, pixels.cpu().numpy())
        return torch.stack(classes)

    def _of_deck(
        self, deck: Deck, logits: Sequence[Tensor], pixels: NDArray[np.uint8]
    ) -> Iterator[Tensor]:
        """The classes [B] that the deck answers with each of its gatings."""
        answers = np.stack([softmax(of_card.float().cpu().numpy()) for of_card in logits])
        for _, gating in self._gatings():
            probabilities = together(answers, deck.card_weights(pixels, gating))
            yield torch.from_numpy(probabilities.argmax(1))


def count(
    classifier: Classifier,
    clean: Batches,
    corrupted: Corrupted,
    cells: Sequence[Cell],
    device: torch.device,
    progress: Progress,
) -> list[Scores]:
    """The scores of each of the classifier's answers.

    Args:
        classifier: that is measured.
        clean: batches of images as they are.
        corrupted: source of the corrupted images.
        cells: corruptions and severities to measure.
        device: of the networks.
        progress: shows the progress through the cells.

    Returns:
        In the order of `classifier.answers`.
    """
    scores = [Scores(name) for name in classifier.answers]
    for cell in progress([None, *cells], "measuring", 1 + len(cells)):
        batches = clean if cell is None else corrupted.batches(*cell)
        counts = _count(classifier, batches, device)
        for of_answer, counted in zip(scores, counts, strict=True):
            if cell is None:
                of_answer.clean = counted
            else:
                of_answer.cells[cell] = counted
    return scores


@torch.no_grad()
def _count(classifier: Classifier, batches: Batches, device: torch.device) -> list[Counts]:
    """How many images each of the classifier's answers gets right."""
    counts = [Counts() for _ in classifier.answers]
    for pixels, labels in batches:
        answers = classifier.classes(pixels.to(device))
        for counted, classes in zip(counts, answers, strict=True):
            counted.images += len(labels)
            counted.right += int((classes == labels.cpu()).sum())
    return counts
