"""Accuracy under corruptions: a network, or the cards of a deck and their common answers, on images
corrupted here or published.

Scores: accuracy for each corruption and severity; its mean over the 15 corruptions of
`severities.NAMES`; and mCE, the mean over corruptions of the errors summed over severities, divided
by a reference's (Hendrycks and Dietterich, ICLR 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
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
        names: what they are called.
        deck: tells how they answer together; None for one network alone.
    """

    networks: list[Network]
    names: list[str]
    deck: Deck | None = None

    @property
    def answers(self) -> list[str]:
        """What `classes` gives, in order: each network, and the ways in which a deck can answer."""
        return [*self.names, *(name for name, _ in self._ways())]

    def _ways(self) -> list[tuple[str, Gating]]:
        if self.deck is None:
            return []
        gated: list[tuple[str, Gating]] = [
            ("deck, gated by batch", "batch"),
            ("deck, gated by image", "image"),
        ]
        return [("deck, mean", "none"), *(gated if self.deck.gate else [])]

    def classes(self, pixels: Tensor) -> Tensor:
        """[answers, B] int64 of pixels [B, C, H, W] uint8."""
        logits = [network(pixels) for network in self.networks]
        found = [one.argmax(1).cpu() for one in logits]
        if self.deck:
            answers = np.stack([softmax(one.float().cpu().numpy()) for one in logits])
            seen = pixels.cpu().numpy()
            for _, gating in self._ways():
                found.append(
                    torch.from_numpy(
                        together(answers, self.deck.card_weights(seen, gating)).argmax(1)
                    )
                )
        return torch.stack(found)


def measure(
    classifier: Classifier,
    clean: Batches,
    corrupted: Corrupted,
    cells: Sequence[Cell],
    device: torch.device,
    progress: Progress,
) -> list[Scores]:
    """The scores of each of the classifier's answers.

    Args:
        classifier: what is measured.
        clean: batches of images as they are.
        corrupted: where the others come from.
        cells: which of them.
        device: where the networks are.
        progress: is told of each cell.
    """
    scores = [Scores(name) for name in classifier.answers]
    for cell in progress([None, *cells], "measuring", 1 + len(cells)):
        batches = clean if cell is None else corrupted.batches(*cell)
        counted = _count(classifier, batches, device)
        for one, counts in zip(scores, counted, strict=True):
            if cell is None:
                one.clean = counts
            else:
                one.cells[cell] = counts
    return scores


@torch.no_grad()
def _count(classifier: Classifier, batches: Batches, device: torch.device) -> list[Counts]:
    counts = [Counts() for _ in classifier.answers]
    for pixels, labels in batches:
        for one, classes in zip(counts, classifier.classes(pixels.to(device)), strict=True):
            one.images += len(labels)
            one.right += int((classes == labels.cpu()).sum())
    return counts
