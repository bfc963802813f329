"""A small vision transformer (Dosovitskiy et al., ICLR 2021), of PyTorch's own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEAD = 32
"""Width of an attention head."""


class ViT(nn.Module):
    """A vision transformer with layer norm before each block and a mean over the tokens at the end
    (as in Beyer et al., arXiv 2205.01580), instead of a class token.

    Takes [B, channels, height, width] floats, gives [B, classes] logits. All its matrices become
    masked layers in `biprop.convert`: the patches' projection, the two of each attention, the two
    of each multilayer perceptron, and the head. Positions and layer norms train.

    Args:
        channels: of the images.
        size: (height, width) of the images, multiples of `patch`.
        classes: number of logits.
        width: of the tokens, a multiple of 32, the width of an attention head.
        depth: number of encoder layers.
        patch: side of a patch in pixels.

    Raises:
        ValueError: a size that is no multiple of the patch, or a width that is none of 32.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        width: int = 96,
        depth: int = 4,
        patch: int = 4,
    ) -> None:
        super().__init__()
        height, across = size
        if height % patch or across % patch:
            raise ValueError(f"images of {height} x {across} pixels: must be multiples of {patch}")
        if width % HEAD:
            raise ValueError(f"width = {width}: must be a multiple of {HEAD}")
        tokens = (height // patch) * (across // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=False)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        layers = [_encoder_layer(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits


def _encoder_layer(width: int) -> nn.Module:
    """Attention and a perceptron twice as wide, each with a layer norm before it.

    Without biases: those of masked layers would stay random, and take bytes.
    """
    return nn.TransformerEncoderLayer(
        width,
        width // HEAD,
        2 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
        bias=False,
    )
