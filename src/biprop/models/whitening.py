"""A fixed first layer that decorrelates pixels, computed from training images.

The filters are the principal components of all 2x2 patches, each divided by its standard deviation,
and their negatives, so that a ReLU behind them loses nothing. They do not train and are not masked;
a ticket stores them as they are (8 C filters of 4 C numbers for C channels: 288 for colour images).
A search starts on uncorrelated inputs of one scale with them. Source: K. Jordan, "94% on CIFAR-10
in 3.29 seconds on a single GPU", arXiv 2404.00498, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError

WINDOW = 2
MAX_PIXELS = 5000 * 32 * 32
"""Of all images together: enough for a covariance of a dozen numbers."""
EPSILON = 5e-4
"""Added to every variance: directions in which patches hardly differ, all of them where images are
constant, are not blown up."""


@torch.no_grad()
def whitening_filters(images: Tensor) -> Tensor:
    """The weights of the whitening convolution.

    Args:
        images: [N, C, H, W] float, normalised as the network gets them; N at least 1, H and W at
            least 2.

    Returns:
        [8 C, C, 2, 2] float32: the 4 C principal components by rising variance, and their
        negatives.

    Raises:
        UserError: the images are smaller than the window, or hold a number that is not finite.
    """
    channels, height, width = images.shape[1:]
    if min(height, width) < WINDOW:
        raise UserError(
            f"images of {height}x{width}: a whitening layer needs {WINDOW}x{WINDOW} pixels or more"
        )
    patches = images.unfold(2, WINDOW, 1).unfold(3, WINDOW, 1)  # [N, C, H-1, W-1, 2, 2]
    rows = patches.movedim(1, 3).reshape(-1, channels * WINDOW * WINDOW).double()
    if not bool(rows.isfinite().all()):
        raise UserError("a whitening layer needs finite images")
    variances, components = torch.linalg.eigh(rows.T @ rows / len(rows))
    scaled = components / (variances.clamp(min=0) + EPSILON).sqrt()
    filters = scaled.T.reshape(-1, channels, WINDOW, WINDOW).float()
    return torch.cat([filters, -filters])


class Whitening(nn.Conv2d):
    """The convolution itself: no bias, no padding, and weights that do not train.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, WINDOW, bias=False)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the filters that whiten these images; see `whitening_filters`."""
        self.weight.copy_(whitening_filters(images))


def fit_whitening(model: nn.Module, sample: Callable[[int], Tensor]) -> None:
    """Fit the whitening layers of a model, if it has any.

    Args:
        model: any module.
        sample: from a number of pixels to training images [N, C, H, W], normalised, that together
            have at most so many, but at least one image.
    """
    layers = [module for module in model.modules() if isinstance(module, Whitening)]
    if layers:
        images = sample(MAX_PIXELS)
        for layer in layers:
            layer.fit(images)
