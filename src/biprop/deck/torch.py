"""A deck as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CardWeights = Callable[[NDArray[Any]], NDArray[Any]]


class DeckModel(nn.Module):
    """A deck on pixels, in RobustBench's convention: the cards' modules normalise them.

    For gradients, the gate's weights count as constants.

    Args:
        cards: modules from pixels to logits.
        card_weights: from pixels [B, C, H, W] uint8 to how much each card counts for each image:
            [B, cards].
    """

    def __init__(self, cards: Iterable[nn.Module], card_weights: CardWeights) -> None:
        super().__init__()
        self.cards, self.card_weights = nn.ModuleList(cards), card_weights
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """The logarithms [B, classes] of the deck's probabilities for pixels [B, C, H, W]: floats
        in [0, 1], or uint8.
        """
        weights = torch.from_numpy(self.card_weights(_as_bytes(pixels).cpu().numpy()))
        log_weights = weights.to(pixels.device)[..., None].log()
        answers = torch.stack([card(pixels).log_softmax(1) for card in self.cards], dim=1)
        return (answers + log_weights).logsumexp(1)


def _as_bytes(pixels: Tensor) -> Tensor:
    """uint8 of 0 .. 255, from uint8 or from floats in [0, 1]."""
    if pixels.dtype == torch.uint8:
        return pixels
    return (pixels.detach() * 255).round().clamp(0, 255).to(torch.uint8)
