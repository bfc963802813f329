"""The engine as a PyTorch module, for the evaluation code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import DataSet
from ..engine import Engine


class Packed(nn.Module):
    """A ticket's engine as a PyTorch module: pixels [B, C, H, W] uint8 -> logits [B, classes].

    Args:
        engine: of the ticket.
        images: the data set of the pixels, which normalises them where the ticket does not.
        beside: the ticket's model in float64, if predictions are to be compared. In deep networks
            with binary activations float32 would not do: rounding flips the signs of sums near 0,
            so that PyTorch's float32 disagrees with its own float64.

    Attributes:
        differing: images to which `beside` gives another class.
        compared: images that `beside` has classified.
    """

    def __init__(self, engine: Engine, images: DataSet, beside: nn.Module | None = None) -> None:
        super().__init__()
        self.engine, self.images, self.beside = engine, images, beside
        self.differing = self.compared = 0
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes] of pixels [B, C, H, W] uint8."""
        # A ticket without mean and standard deviation takes normalised images.
        images = pixels if self.engine.ticket.mean else self.images.normalise(pixels)
        logits = torch.from_numpy(self.engine.run(images.numpy(), "NCHW"))
        if self.beside is not None:
            # Normalised in float32, as the engine does it. Then a product of pixel and gain is
            # exact in float64, and sums that cancel (as many +gain as -gain on a black border) are
            # 0 for both, not 1e-17 with an arbitrary sign.
            expected = self.beside(self.images.normalise(pixels).double())
            self.differing += int((expected.argmax(1) != logits.argmax(1)).sum())
            self.compared += len(pixels)
        return logits
