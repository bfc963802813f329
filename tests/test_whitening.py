"""The whitening layer."""

import pytest
import torch
import torch.nn.functional as F

from biprop.errors import UserError
from biprop.models.whitening import whitening_filters


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_are_uncorrelated_and_of_one_scale(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(50, channels, 6, 6, generator=generator)
    images = F.interpolate(coarse, scale_factor=2, mode="bilinear") + coarse.mean(
        1, keepdim=True
    ).repeat_interleave(2, 2).repeat_interleave(2, 3)
    filters = whitening_filters(images)
    assert filters.shape == (8 * channels, channels, 2, 2)
    half = 4 * channels
    assert torch.equal(filters[half:], -filters[:half])
    outputs = F.conv2d(images, filters[:half]).movedim(1, 0).reshape(half, -1).double()
    covariance = outputs @ outputs.T / outputs.shape[1]
    large = covariance.diag() > 0.5  # variances far above epsilon
    assert large.sum() > half // 2
    off = covariance - covariance.diag().diag()
    assert off.abs().max() < 1e-3
    assert (covariance.diag()[large] <= 1).all()


def test_constant_images_and_small_ones() -> None:
    assert bool(whitening_filters(torch.full((3, 1, 4, 4), 0.3)).isfinite().all())
    assert bool(whitening_filters(torch.zeros(3, 3, 4, 4)).isfinite().all())
    with pytest.raises(UserError, match="images of 1x5: a whitening layer needs 2x2 pixels"):
        whitening_filters(torch.zeros(3, 3, 1, 5))
    with pytest.raises(UserError, match="finite"):
        whitening_filters(torch.full((3, 1, 4, 4), torch.nan))
