"""AugMix on batches: every image with its own operations and strengths, computed by tensor
operations on the images' device.

Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty",
ICLR 2020. An operation does what Pillow's does to one 8-bit image, rounding included. Chains are
sorted by operation before each of their steps, so that an operation works on a slice of the batch;
rotations and shears run as one resampling. Rejected: Pillow in worker processes (see
benchmarks/augment.py), every operation on every image with a mask (nine times the arithmetic), and
one table lookup for all maps of grey levels (it costs more than what three of the four compute).

Shapes: B images, W chains (mixture width), D operations in the longest chain, C channels, H x W
pixels; n images in a slice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import native
from .augment import pick_columns, pick_rows

Array = NDArray[Any]

OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")
"""Drawn only with `all_operations`: they overlap with the corruptions of the -C test sets."""

LOWEST_LEVEL = 0.1
_LUMA = (19595, 38470, 7471)  # of 65536: Pillow's weights of red, green and blue
_WHOLE = 1e-3  # added before rounding down: 6.99999 means 7


@dataclass(frozen=True)
class AugMix:
    """What is drawn from.

    Attributes:
        width: chains per image.
        depth: operations per chain; -1 draws 1, 2 or 3 for each chain.
        severity: levels are uniform in [0.1, severity].
        all_operations: draw from `ENHANCEMENTS` too.
    """

    width: int = 3
    depth: int = -1
    severity: float = 3
    all_operations: bool = False


@dataclass(frozen=True)
class Draw:
    """The parameters of a batch.

    Arrays of numpy: on a few hundred numbers its calls take a fifth of PyTorch's time.

    Attributes:
        operations: [B, W, D] int64, places in OPERATIONS + ENHANCEMENTS.
        levels: [B, W, D] float64.
        signs: [B, W, D] float64, +1 or -1; used by what rotates, shears or translates.
        depths: [B, W] int64, how many of the D operations a chain has.
        weights: [B, W] float64, of the chains; they sum to 1 over W.
        mix: [B] float64 in [0, 1], share of the chains in the result.
    """

    operations: Array
    levels: Array
    signs: Array
    depths: Array
    weights: Array
    mix: Array

    def __getitem__(self, chosen: slice) -> Draw:
        """The parameters of some of the images."""
        return Draw(*(getattr(self, field.name)[chosen] for field in fields(self)))


def draw(count: int, method: AugMix, generator: np.random.Generator) -> Draw:
    """Parameters for `count` images: operations uniform with replacement, weights Dirichlet(1), mix
    Beta(1, 1).
    """
    choices = len(OPERATIONS) + len(ENHANCEMENTS) * method.all_operations
    chains = (count, method.width)
    shape = (*chains, 3 if method.depth < 0 else method.depth)
    return Draw(
        operations=generator.integers(choices, size=shape),
        levels=generator.uniform(LOWEST_LEVEL, method.severity, shape),
        signs=1.0 - 2.0 * generator.integers(2, size=shape),
        depths=generator.integers(1, 4, chains)
        if method.depth < 0
        else np.full(chains, method.depth),
        weights=generator.dirichlet(np.ones(method.width), count),
        mix=generator.uniform(size=count),
    )


def augmix(images: Tensor, parameters: Draw) -> Tensor:
    """Mix each image with the weighted sum of its chains, on the CPU by the compiled core where
    there is one.

    Args:
        images: [B, C, H, W] uint8.
        parameters: of B images.

    Returns:
        [B, C, H, W] float32 in [0, 255], not rounded: (1 - m) image + m sum(w_i chain_i(image)).
    """
    core = native.library() if images.device.type == "cpu" else None
    return _compiled(core, images, parameters) if core else by_tensors(images, parameters)


def _compiled(core: ctypes.CDLL, images: Tensor, parameters: Draw) -> Tensor:
    images = images.contiguous()
    mixed = torch.empty(images.shape)
    arrays = [np.ascontiguousarray(getattr(parameters, field.name)) for field in fields(parameters)]
    sizes = [*images.shape[1:], *parameters.operations.shape[1:]]
    addresses, threads = [images.data_ptr(), mixed.data_ptr()], torch.get_num_threads()
    native.run(
        core.biprop_augmix,
        addresses,
        len(images),
        threads,
        sizes=sizes,
        arrays=arrays,
        grain=native.IMAGES,
    )
    return mixed


def by_tensors(images: Tensor, parameters: Draw) -> Tensor:
    """`augmix` by tensor operations, on any device."""
    count, width, longest = parameters.operations.shape
    depths = parameters.depths.ravel()
    operations, levels, signs = (
        a.reshape(-1, longest) for a in (parameters.operations, parameters.levels, parameters.signs)
    )
    chains, place = images, np.arange(count * width)  # place: which chain a row holds
    # Chains stay in the order of their last sorting and go home once: writing back at each step
    # costs more than the operations.
    for step in range(longest):
        drawn = np.where(
            step < depths, operations[:, step], len(OPERATIONS + ENHANCEMENTS)
        )  # chains that have ended go last
        order = drawn[place].argsort(kind="stable")
        chains = chains.index_select(0, _on(images.device, order if step else order // width))
        place = place[order]
        running = place[: np.count_nonzero(step < depths)]
        apply(chains, operations[running, step], levels[running, step], signs[running, step])
    home = place.argsort().reshape(count, width)
    shares = parameters.weights * parameters.mix[:, None]
    mixed = images * _per_image((1 - parameters.mix).astype(np.float32), images.device)
    for i in range(width):
        chain = chains.index_select(0, _on(images.device, home[:, i]))
        mixed.addcmul_(chain.float(), _per_image(shares[:, i].astype(np.float32), images.device))
    return mixed


def apply(images: Tensor, operations: Array, levels: Array, signs: Array) -> None:
    """One operation on each of the first m images, in place.

    Args:
        images: [n, C, H, W] uint8.
        operations: [m] int64, ascending.
        levels, signs: [m] float64.
    """
    names = OPERATIONS + ENHANCEMENTS
    ends = [0, *np.bincount(operations, minlength=len(names)).cumsum().tolist()]
    mine = {name: slice(a, b) for name, a, b in zip(names, ends, ends[1:], strict=False) if a < b}
    for name, function in _PIXELWISE.items():
        if name in mine:
            images[mine[name]] = function(images[mine[name]], levels[mine[name]])
    turned = slice(ends[names.index("rotate")], ends[names.index("translate_x")])
    if turned.start < turned.stop:
        images[turned] = affine(
            images[turned],
            matrices(operations[turned], levels[turned], signs[turned], images.shape[2:]),
        )
    for name, size, pick in (
        ("translate_x", images.shape[3], pick_columns),
        ("translate_y", images.shape[2], pick_rows),
    ):
        if name in mine:
            pixels = (levels[mine[name]] * size / 30).astype(np.int64) * signs[mine[name]].astype(
                np.int64
            )
            images[mine[name]] = pick(images[mine[name]], np.arange(size) + pixels[:, None])


def _on(device: torch.device, values: Array) -> Tensor:
    return torch.from_numpy(values).to(device)


def _per_image(values: Array, device: torch.device) -> Tensor:
    """[n] to [n, 1, 1, 1] on the device."""
    return _on(device, values)[:, None, None, None]


def _rounded_down(images: Tensor) -> Tensor:
    """float32 in 0 .. 255 to int16 as Pillow rounds: on the way to bytes, where the direct
    conversion takes twice as long.
    """
    return images.add_(_WHOLE).to(torch.int16)


# Operations on pixels where they are: (images [n, C, H, W] uint8, levels [n]) -> whole numbers in 0
# .. 255, any dtype.


def autocontrast(images: Tensor, levels: Array) -> Tensor:
    """Each channel stretched to 0 .. 255."""
    flat = images.flatten(2).float()
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    of_one_level = low == high  # Pillow leaves such a channel as it is
    scale = (255 / (high - low)).masked_fill_(of_one_level, 1)
    return _rounded_down(flat.sub_(low.masked_fill_(of_one_level, 0)).mul_(scale)).view_as(images)


def equalize(images: Tensor, levels: Array) -> Tensor:
    """The histogram of each channel made flat."""
    grey = images.flatten(2).long()
    # Counts as floats, exact below 2^24: floats divide twice as fast as integers do.
    histogram = torch.zeros(*grey.shape[:2], 256, device=images.device)
    histogram.scatter_add_(2, grey, torch.ones(1, 1, 1, device=images.device).expand_as(grey))
    brightest = histogram.gather(2, grey.amax(2, keepdim=True))
    step = ((grey.shape[2] - brightest) / 255).floor_()  # [n, C, 1]
    below = histogram.cumsum(2).sub_(histogram)
    table = below.add_((step / 2).floor_()).div_(step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256.0, device=images.device)).to(torch.uint8)
    return table.gather(2, grey).view_as(images)


def posterize(images: Tensor, levels: Array) -> Tensor:
    """The highest 4 - int(0.4 l) bits kept."""
    size = 2 ** (4 + (0.4 * levels).astype(np.int64))
    return images & _per_image((256 - size).astype(np.uint8), images.device)


def solarize(images: Tensor, levels: Array) -> Tensor:
    """Grey levels from 256 - int(25.6 l) on inverted."""
    threshold = _per_image((256 - (25.6 * levels).astype(np.int64)).astype(np.int16), images.device)
    # All bits set where the level is reached: three vector instructions, where torch.where is ten
    # times slower on bytes.
    reached = (threshold - 1 - images.to(torch.int16)).bitwise_right_shift_(15).to(torch.uint8)
    return images ^ reached


# Operations that move pixels.


def matrices(operations: Array, levels: Array, signs: Array, size: Sequence[int]) -> Array:
    """The affine maps of `rotate`, `shear_x` and `shear_y`, from places in the result to places in
    the image.

    Args:
        operations, levels, signs: [n].
        size: (H, W).

    Returns:
        [n, 2, 3] float64, in pixels from the top left corner. Rotations are about the centre, by
        int(3 l) degrees; shears have their origin in the corner, by 0.03 l.
    """
    height, width = size
    rotated, sheared_x, sheared_y = (operations == OPERATIONS.index("rotate") + i for i in range(3))
    angle = -np.deg2rad(
        (3 * levels).astype(np.int64) * signs * rotated
    )  # Pillow turns anticlockwise
    cos, sin, shear = np.cos(angle), np.sin(angle), 0.03 * levels * signs
    x = (1 - cos) * width / 2 - sin * height / 2
    y = (1 - cos) * height / 2 + sin * width / 2
    maps = np.stack([cos, sin + shear * sheared_x, x, shear * sheared_y - sin, cos, y], axis=1)
    return maps.reshape(-1, 2, 3)


def affine(images: Tensor, maps: Array) -> Tensor:
    """Each image resampled under its own map: bilinear, 0 outside.

    Args:
        images: [n, C, H, W] uint8.
        maps: [n, 2, 3], see `matrices`.

    Returns:
        [n, C, H, W] int16 in 0 .. 255.
    """
    height, width = images.shape[2:]
    scaled = maps * (2 / np.array([[width], [height]]))  # grid_sample counts from -1 to 1
    scaled[:, :, 2] -= 1
    # A sum of two terms: a product of matrices rounds by its number of rows, and an image must not
    # depend on its batch.
    x, y = np.arange(width)[:, None] + 0.5, np.arange(height)[:, None] + 0.5
    across = scaled[:, None, :, 0] * x
    down = scaled[:, None, :, 1] * y + scaled[:, None, :, 2]
    of_columns = _on(images.device, across.astype(np.float32))  # [n, W, 2]
    of_rows = _on(images.device, down.astype(np.float32))  # [n, H, 2]
    places = of_columns[:, None] + of_rows[:, :, None]
    moved = F.grid_sample(images.float(), places, padding_mode="border", align_corners=False)
    # Pillow repeats the border within half a pixel and fills with 0 beyond: what a picture of ones,
    # read without blending, shows.
    ones = torch.ones(1, 1, height, width, device=images.device).expand(len(images), -1, -1, -1)
    inside = F.grid_sample(ones, places, mode="nearest", padding_mode="zeros", align_corners=False)
    return _rounded_down(moved.mul_(inside))


# Enhancements: pixelwise too, towards a dull version of the image.


def _enhance(images: Tensor, dull: Tensor, levels: Array) -> Tensor:
    """Between the dull version (factor 0) and the image (factor 1) or beyond, with factor 0.18 l +
    0.1.
    """
    factor = _per_image((0.18 * levels + 0.1).astype(np.float32), images.device)
    return _rounded_down((dull + factor * (images - dull)).clamp_(0, 255))


def _grey(images: Tensor) -> Tensor:
    """Luminance, [n, 1, H, W] float32; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images.float()
    weights = torch.tensor(_LUMA, device=images.device, dtype=torch.float32)[:, None, None]
    return ((images * weights).sum(1, keepdim=True) + 2**15).div_(2**16).floor_()


def color(images: Tensor, levels: Array) -> Tensor:
    """From or to grey."""
    return _enhance(images, _grey(images), levels)


def contrast(images: Tensor, levels: Array) -> Tensor:
    """From or to the mean luminance."""
    return _enhance(images, (_grey(images).mean((1, 2, 3), keepdim=True) + 0.5).floor_(), levels)


def brightness(images: Tensor, levels: Array) -> Tensor:
    """From or to black."""
    return _enhance(images, torch.zeros((), device=images.device), levels)


def sharpness(images: Tensor, levels: Array) -> Tensor:
    """From or to a smoothed version, whose outermost pixels stay."""
    channels = images.shape[1]
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    smooth = images.float()
    inner = F.conv2d(smooth, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    smooth[:, :, 1:-1, 1:-1] = inner.add_(0.5).floor_()
    return _enhance(images, smooth, levels)


_PIXELWISE = {
    function.__name__: function
    for function in (
        autocontrast,
        equalize,
        posterize,
        solarize,
        color,
        contrast,
        brightness,
        sharpness,
    )
}
