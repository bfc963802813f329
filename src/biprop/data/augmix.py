"""AugMix on batches: operations and strengths of their own for each image, computed by tensor
operations on the images' device.

Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty",
ICLR 2020. An operation has the same result as Pillow's on one 8-bit image, rounding included.
Chains are sorted by operation before each of their steps, so that an operation works on a slice of
the batch; rotations and shears run as one resampling. Rejected: Pillow in worker processes (see
benchmarks/augment.py), every operation on every image with a mask (nine times the arithmetic), and
one table lookup for all maps of grey values (it costs more than what three of the four compute).

Shapes: B images, W chains (mixture width), D operations in the longest chain, C channels, H x W
pixels; n images in a slice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import native
from .augment import pick_columns, pick_rows
from .transfer import on_device

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
"""Drawn only with `all_operations`: they overlap with the corruptions of CIFAR-10-C and ImageNet-C.
"""

LOWEST_LEVEL = 0.1
_LUMA = (19595, 38470, 7471)  # of 65536: Pillow's weights of red, green and blue
_WHOLE = 1e-3  # added before rounding down: 6.99999 means 7


@dataclass(frozen=True)
class AugMix:
    """The distributions of the parameters.

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
        operations: [B, W, D] int64, indices into OPERATIONS + ENHANCEMENTS.
        levels: [B, W, D] float64.
        signs: [B, W, D] float64, +1 or -1; used by rotations, shears and translations.
        depths: [B, W] int64, how many of the D operations a chain has.
        weights: [B, W] float64, of the chains; they sum to 1 over W.
        mix: [B] float64 in [0, 1], weight of the chains in the result.
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
    """Draw the parameters of `count` images: operations uniform with replacement, weights
    Dirichlet(1), mix Beta(1, 1).
    """
    choices = len(OPERATIONS) + len(ENHANCEMENTS) * method.all_operations
    chains = (count, method.width)
    has_random_depth = method.depth < 0
    shape = (*chains, 3 if has_random_depth else method.depth)
    operations = generator.integers(choices, size=shape)
    levels = generator.uniform(LOWEST_LEVEL, method.severity, shape)
    signs = 1.0 - 2.0 * generator.integers(2, size=shape)
    depths = generator.integers(1, 4, chains) if has_random_depth else np.full(chains, method.depth)
    weights = generator.dirichlet(np.ones(method.width), count)
    mix = generator.uniform(size=count)
    return Draw(operations, levels, signs, depths, weights, mix)


def augmix(images: Tensor, parameters: Draw) -> Tensor:
    """Mix each image with the weighted sum of its chains, on the CPU by the compiled core where
    there is one.

    Args:
        images: [B, C, H, W] uint8.
        parameters: of these B images.

    Returns:
        [B, C, H, W] float32 in [0, 255], not rounded: (1 - m) image + m sum(w_i chain_i(image)).
    """
    core = native.library() if images.device.type == "cpu" else None
    return _by_core(core, images, parameters) if core else by_tensors(images, parameters)


def _by_core(core: ctypes.CDLL, images: Tensor, parameters: Draw) -> Tensor:
    """`augmix` by the compiled core."""
    images = images.contiguous()
    mixed = torch.empty(images.shape)
    native.run(
        core.biprop_augmix,
        [images.data_ptr(), mixed.data_ptr()],
        len(images),
        torch.get_num_threads(),
        sizes=[*images.shape[1:], *parameters.operations.shape[1:]],
        arrays=[np.ascontiguousarray(getattr(parameters, field.name)) for field in fields(Draw)],
        grain=native.IMAGES,
    )
    return mixed


def by_tensors(images: Tensor, parameters: Draw) -> Tensor:
    """`augmix` by tensor operations, on any device."""
    chains = _applied_chains(images, parameters)
    shares = parameters.weights * parameters.mix[:, None]
    clean = 1 - parameters.mix
    mixed = images * _per_image(clean.astype(np.float32), images.device)
    for chain in range(shares.shape[1]):
        share = shares[:, chain].astype(np.float32)
        mixed.addcmul_(chains(chain).float(), _per_image(share, images.device))
    return mixed


def _applied_chains(images: Tensor, parameters: Draw) -> Callable[[int], Tensor]:
    """Apply all operations of all chains.

    Rows, one for each chain of each image, stay in the order of their last sorting, and are put
    back once at the end: writing back at each step costs more than the operations.

    Returns:
        A function from the number of a chain, 0 .. W - 1, to [B, C, H, W] uint8: its results.
    """
    count, width, longest = parameters.operations.shape
    depths = parameters.depths.ravel()
    operations, levels, signs = (
        values.reshape(-1, longest)
        for values in (parameters.operations, parameters.levels, parameters.signs)
    )
    ended = len(OPERATIONS + ENHANCEMENTS)  # sorts chains that have ended behind the others
    rows, chain_of = images, np.arange(count * width)  # the chain that a row holds
    for step in range(longest):
        keys = np.where(step < depths, operations[:, step], ended)
        order = keys[chain_of].argsort(kind="stable")
        rows = rows.index_select(0, on_device(order if step else order // width, images.device))
        chain_of = chain_of[order]
        running = chain_of[: np.count_nonzero(step < depths)]
        apply(rows, operations[running, step], levels[running, step], signs[running, step])
    row_of = chain_of.argsort().reshape(count, width)
    return lambda chain: rows.index_select(0, on_device(row_of[:, chain], images.device))


def apply(images: Tensor, operations: Array, levels: Array, signs: Array) -> None:
    """Apply one operation to each of the first m images, in place.

    Args:
        images: [n, C, H, W] uint8.
        operations: [m] int64, indices into OPERATIONS + ENHANCEMENTS, ascending.
        levels, signs: [m] float64.
    """
    slices = _slices_of(operations)
    for name, function in _PIXELWISE.items():
        if name in slices:
            part = slices[name]
            images[part] = function(images[part], levels[part])
    _resample(images, operations, levels, signs)
    for name, pick, axis in (("translate_x", pick_columns, 3), ("translate_y", pick_rows, 2)):
        if name in slices:
            part, size = slices[name], images.shape[axis]
            distance = (levels[part] * size / 30).astype(np.int64)
            pixels = distance * signs[part].astype(np.int64)
            images[part] = pick(images[part], np.arange(size) + pixels[:, None])


def _slices_of(operations: Array) -> dict[str, slice]:
    """Name of an operation -> the images that it is applied to; `operations` as of `apply`."""
    names = OPERATIONS + ENHANCEMENTS
    ends = np.bincount(operations, minlength=len(names)).cumsum().tolist()
    bounds = zip(names, [0, *ends], ends, strict=False)
    return {name: slice(start, end) for name, start, end in bounds if start < end}


def _resample(images: Tensor, operations: Array, levels: Array, signs: Array) -> None:
    """The rotations and shears of `apply`, which are neighbours in `OPERATIONS`."""
    first, after = OPERATIONS.index("rotate"), OPERATIONS.index("translate_x")
    part = slice(*np.searchsorted(operations, [first, after]).tolist())
    if part.start < part.stop:
        maps = matrices(operations[part], levels[part], signs[part], images.shape[2:])
        images[part] = affine(images[part], maps)


def _per_image(values: Array, device: torch.device) -> Tensor:
    """[n] to [n, 1, 1, 1] on the device."""
    return on_device(values, device)[:, None, None, None]


def _rounded_down(images: Tensor) -> Tensor:
    """float32 in 0 .. 255 to int16, rounded as Pillow does.

    The conversion to uint8 follows from there: the direct one takes twice as long.
    """
    return images.add_(_WHOLE).to(torch.int16)


# Pixelwise operations: (images [n, C, H, W] uint8, levels [n]) -> integers in 0 .. 255, any dtype.


def autocontrast(images: Tensor, levels: Array) -> Tensor:
    """Each channel stretched to 0 .. 255."""
    flat = images.flatten(2).float()
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    is_constant = low == high  # Pillow leaves such a channel unchanged
    scale = (255 / (high - low)).masked_fill_(is_constant, 1)
    stretched = flat.sub_(low.masked_fill_(is_constant, 0)).mul_(scale)
    return _rounded_down(stretched).view_as(images)


def equalize(images: Tensor, levels: Array) -> Tensor:
    """The histogram of each channel equalised."""
    grey = images.flatten(2).long()
    histogram = _histogram(grey)
    brightest = histogram.gather(2, grey.amax(2, keepdim=True))
    step = ((grey.shape[2] - brightest) / 255).floor_()  # [n, C, 1]
    below = histogram.cumsum(2).sub_(histogram)
    table = below.add_((step / 2).floor_()).div_(step.clamp(min=1)).clamp_(max=255)
    identity = torch.arange(256.0, device=images.device)
    table = torch.where(step > 0, table, identity).to(torch.uint8)
    return table.gather(2, grey).view_as(images)


def _histogram(grey: Tensor) -> Tensor:
    """Counts of the values 0 .. 255 in each channel: [n, C, P] int64 -> [n, C, 256] float32.

    Floats are exact below 2^24, and divide twice as fast as integers.
    """
    histogram = torch.zeros(*grey.shape[:2], 256, device=grey.device)
    ones = torch.ones(1, 1, 1, device=grey.device).expand_as(grey)
    return histogram.scatter_add_(2, grey, ones)


def posterize(images: Tensor, levels: Array) -> Tensor:
    """The highest 4 - int(0.4 l) bits kept."""
    size = 2 ** (4 + (0.4 * levels).astype(np.int64))
    return images & _per_image((256 - size).astype(np.uint8), images.device)


def solarize(images: Tensor, levels: Array) -> Tensor:
    """Values from 256 - int(25.6 l) on inverted."""
    threshold = (256 - (25.6 * levels).astype(np.int64)).astype(np.int16)
    # All bits are set where the threshold is reached: three vector instructions, where torch.where
    # is ten times slower on bytes.
    below = _per_image(threshold, images.device) - 1 - images.to(torch.int16)
    reached = below.bitwise_right_shift_(15).to(torch.uint8)
    return images ^ reached


# Geometric operations.


def matrices(operations: Array, levels: Array, signs: Array, size: Sequence[int]) -> Array:
    """The affine maps of `rotate`, `shear_x` and `shear_y`, from positions in the result to
    positions in the image.

    Args:
        operations, levels, signs: [n].
        size: (H, W).

    Returns:
        [n, 2, 3] float64, in pixels from the top left corner. Rotations are about the centre, by
        int(3 l) degrees; shears have their origin in the corner, by 0.03 l.
    """
    height, width = size
    first = OPERATIONS.index("rotate")
    is_rotation, is_shear_x, is_shear_y = (operations == first + i for i in range(3))
    degrees = (3 * levels).astype(np.int64) * signs * is_rotation
    angle = -np.deg2rad(degrees)  # Pillow rotates anticlockwise
    cos, sin = np.cos(angle), np.sin(angle)
    shear = 0.03 * levels * signs
    x = (1 - cos) * width / 2 - sin * height / 2
    y = (1 - cos) * height / 2 + sin * width / 2
    rows = [cos, sin + shear * is_shear_x, x, shear * is_shear_y - sin, cos, y]
    return np.stack(rows, axis=1).reshape(-1, 2, 3)


def affine(images: Tensor, maps: Array) -> Tensor:
    """Each image resampled under a map of its own: bilinear, 0 outside.

    Args:
        images: [n, C, H, W] uint8.
        maps: [n, 2, 3], see `matrices`.

    Returns:
        [n, C, H, W] int16 in 0 .. 255.
    """
    height, width = images.shape[2:]
    grid = _grid(maps, height, width, images.device)
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    # Pillow repeats the border within half a pixel and fills with 0 beyond: where that is shows an
    # image of ones, sampled without interpolation.
    ones = torch.ones(1, 1, height, width, device=images.device).expand(len(images), -1, -1, -1)
    inside = F.grid_sample(ones, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return _rounded_down(moved.mul_(inside))


def _grid(maps: Array, height: int, width: int, device: torch.device) -> Tensor:
    """The grid of `torch.nn.functional.grid_sample` for affine maps: [n, H, W, 2] float32.

    It is a sum of two terms, not a product of matrices: that rounds by its number of rows, and an
    image must not depend on its batch.
    """
    scaled = maps * (2 / np.array([[width], [height]]))  # grid_sample counts from -1 to 1
    scaled[:, :, 2] -= 1
    x, y = np.arange(width)[:, None] + 0.5, np.arange(height)[:, None] + 0.5
    across = scaled[:, None, :, 0] * x
    down = scaled[:, None, :, 1] * y + scaled[:, None, :, 2]
    of_columns = on_device(across.astype(np.float32), device)  # [n, W, 2]
    of_rows = on_device(down.astype(np.float32), device)  # [n, H, 2]
    return of_columns[:, None] + of_rows[:, :, None]


# Enhancements: pixelwise too, between the image and a degenerate version of it.


def _enhance(images: Tensor, degenerate: Tensor, levels: Array) -> Tensor:
    """Interpolate between the degenerate version (factor 0) and the image (factor 1), or beyond,
    with factor 0.18 l + 0.1.
    """
    factor = _per_image((0.18 * levels + 0.1).astype(np.float32), images.device)
    return _rounded_down((degenerate + factor * (images - degenerate)).clamp_(0, 255))


def _grey(images: Tensor) -> Tensor:
    """Luminance, [n, 1, H, W] float32; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images.float()
    weights = on_device(np.array(_LUMA, np.float32), images.device)[:, None, None]
    return ((images * weights).sum(1, keepdim=True) + 2**15).div_(2**16).floor_()


def color(images: Tensor, levels: Array) -> Tensor:
    """From or to grey."""
    return _enhance(images, _grey(images), levels)


def contrast(images: Tensor, levels: Array) -> Tensor:
    """From or to the mean luminance."""
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    return _enhance(images, (mean + 0.5).floor_(), levels)


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
