"""The engine in place of a ticket's PyTorch model, for the evaluation code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import DataSet
from ..engine import Engine


class Packed(nn.Module):
    """The engine in place of a ticket's model: pixels [B, C, H, W], uint8, to logits.

    Args:
        engine: of the ticket.
        images: the data that the pixels are from; they normalise for whoever does not do it
            himself.
        beside: the ticket's model in double precision, if predictions are to be compared: in deep
            networks with binary activations, PyTorch's float32 turns signs near 0, and then
            disagrees with its own float64.

    Attributes:
        differing, compared: how many images got another class from `beside`, of how many.
    """

    def __init__(self, engine: Engine, images: DataSet, beside: nn.Module | None = None) -> None:
        super().__init__()
        self.engine, self.images, self.beside = engine, images, beside
        self.differing = self.compared = 0
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        # A ticket that tells no normalisation was made for pixels that are normalised already.
        taken = pixels if self.engine.ticket.mean else self.images.normalise(pixels)
        logits = torch.from_numpy(self.engine.run(taken.numpy(), "NCHW"))
        if self.beside is not None:
            # Normalised as the engine does it, in float32: then a product of pixel and gain is
            # exact in float64, and sums that cancel (as many +gain as -gain on a black border) are
            # 0 for both, not 1e-17, whose sign is chance.
            expected = self.beside(self.images.normalise(pixels).double())
            self.differing += int((expected.argmax(1) != logits.argmax(1)).sum())
            self.compared += len(pixels)
        return logits
