"""`measure`: the accuracy of any PyTorch model under common corruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import DataSet, Progress, Split, no_progress, spread
from ..data.sources import Images
from ..errors import UserError, integer, one_line
from ..evaluation.mode import evaluating
from .classifier import Classifier, count
from .images import Corrupted, Generated, published
from .scores import Cell, Scores, choose_cells

DEFAULT_BATCH = 128


def measure(
    model: Callable[[Tensor], Tensor],
    data: DataSet | tuple[Any, Any] | Iterable[tuple[Any, Any]],
    *,
    on_pixels: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    corruptions: str | Sequence[str] | None = None,
    severities: str | Sequence[int] | None = None,
    corrupted: str | Path | None = None,
    images: int | None = None,
    batch_size: int = DEFAULT_BATCH,
    seed: int = 0,
    name: str = "model",
    progress: Progress = no_progress,
) -> Scores:
    """Count a model's correct predictions on clean and on corrupted images.

    The corruptions are the 15 of CIFAR-10-C and ImageNet-C at five severities, and four more
    (Hendrycks and Dietterich, ICLR 2019). They are computed on the model's device.

    Args:
        model: any `torch.nn.Module`, or a function: images [B, C, H, W], in the model's floating
            type and on its device, to logits [B, classes]. A module is measured in evaluation mode
            and without gradients; its mode is restored.
        data: the test images: a `DataSet`, whose test part is taken; or (images, labels), tensors
            or arrays; or batches of both, such as a `torch.utils.data.DataLoader`. Images are
            [N, C, H, W], C 1 or 3, uint8 in 0 .. 255 or floats in 0 .. 1, not normalised; labels
            are whole numbers [N]. Batches are read once, and held in memory as uint8.
        on_pixels: the model takes pixels in 0 .. 1 and normalises them itself, as the models of
            RobustBench do. Otherwise it gets (pixel - mean) / std.
        mean, std: per channel, of pixels in 0 .. 1; where they are not given, those of a
            `DataSet`.
        corruptions: names, or a text such as "fog,noise"; groups are noise, blur, weather, digital,
            extra and all; None for the 15 that make up the score.
        severities: 1 .. 5, or a text such as "1,5"; None for all.
        corrupted: folder of a published benchmark (CIFAR-10-C, ImageNet-C) whose images are
            measured, in place of those computed here; the class folders of ImageNet-C need a
            `DataSet`, which knows the names of classes.
        images: at most so many test images, evenly spaced; None for all.
        batch_size: images in a batch.
        seed: of the corruptions, 0 .. 2**64 - 1.
        name: of the model, in the scores.
        progress: shows the progress, as `biprop.console.Console.track` does.

    Returns:
        The counts: `.clean.top1`, `.of("fog")`, `.mean()` and `.mce(reference)` are in percent, and
        `.cells` has the counts by (corruption, severity).

    Raises:
        UserError: data or model are none of these, or do not fit each other.
    """
    cells = choose_cells(_as_text(corruptions), _as_text(severities))
    batch = _at_least_one(batch_size, "batch_size")
    if not 0 <= integer(seed, "seed") < 2**64:
        raise UserError(f"seed = {seed}: must be in 0 .. 2**64 - 1")
    test = _test_images(data)
    limit = len(test.split) if images is None else _at_least_one(images, "images")
    device, dtype = _placement(model)
    normalise = _normalisation(test, on_pixels, mean, std, device)
    network = _Checked(model, normalise, dtype)
    numbers = spread(len(test.split), limit)
    clean = Generated(test.split, numbers, batch, seed, device)
    with evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        outputs = _outputs(network, test.split, device)
        _check_labels(test.split.labels, outputs)
        source: Corrupted = clean
        if corrupted is not None:
            source = _published(corrupted, cells, test, outputs, limit, batch)
        classifier = Classifier([network], [name])
        (scores,) = count(classifier, clean.clean(), source, cells, device, progress)
    scores.source = source.description
    return scores


def _published(
    folder: str | Path, cells: Sequence[Cell], test: _Test, outputs: int, most: int, batch: int
) -> Corrupted:
    """The images of a published benchmark, in place of those computed here."""
    classes = test.classes or list(map(str, range(outputs)))
    channels, height, width = test.split.shape
    return published(folder, cells, (channels, height, width), classes, most, batch)


def _as_text(values: str | Sequence[Any] | None) -> str | None:
    if values is None or isinstance(values, str):
        return values
    return ",".join(map(str, values))


def _at_least_one(value: int, name: str) -> int:
    if integer(value, name) < 1:
        raise UserError(f"{name} = {value}: must be 1 or more")
    return int(value)


# ---- the model ----


class _Checked:
    """A model as a function from pixels [B, C, H, W] uint8 to logits, which are checked."""

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        normalise: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
    ) -> None:
        self._model, self._normalise, self._dtype = model, normalise, dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        logits = self._model(self._normalise(pixels.float() / 255).to(self._dtype))
        if not isinstance(logits, Tensor):
            kind = type(logits).__name__
            raise UserError(
                f"the model returns a value of type {kind}: must be logits [B, classes]; pass a"
                " function that picks them, such as lambda images: model(images).logits"
            )
        if logits.dim() != 2 or len(logits) != len(pixels):
            raise UserError(
                f"the model returns {list(logits.shape)} for {len(pixels)} images: must be logits"
                " [B, classes]"
            )
        return logits


def _placement(model: Any) -> tuple[torch.device, torch.dtype]:
    """The device and the floating type of a model's tensors."""
    if isinstance(model, nn.Module):
        for tensor in chain(model.parameters(), model.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    elif not callable(model):
        raise UserError(f"model: a value of type {type(model).__name__}: must be a torch.nn.Module")
    return torch.device("cpu"), torch.float32


@torch.no_grad()
def _outputs(network: _Checked, split: Split, device: torch.device) -> int:
    """The number of the model's outputs: it sees two images before anything is corrupted.

    Raises:
        UserError: the model does not take these images.
    """
    pixels, _ = next(split.batches([np.arange(min(2, len(split)))], None))
    try:
        return network(pixels.to(device)).shape[1]
    except (RuntimeError, ValueError, TypeError, IndexError) as e:
        if isinstance(e, UserError):
            raise
        shape = " x ".join(map(str, split.shape))
        raise UserError(f"the model fails on images of {shape}: {one_line(e)}") from e


def _check_labels(labels: Tensor, outputs: int) -> None:
    highest = int(labels.max())
    if highest >= outputs:
        raise UserError(f"the labels go up to {highest}, but the model has {outputs} outputs")


# ---- the images ----


@dataclass(frozen=True)
class _Test:
    """Test images, and what their data set knows of them."""

    split: Split
    classes: list[str]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def _test_images(data: Any) -> _Test:
    if isinstance(data, DataSet):
        if not data.is_images:
            raise UserError("data: are numbers, and corruptions are of images")
        return _Test(data.test, data.classes, data.mean, data.std)
    if isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], tuple | list):
        return _Test(_as_images(*data), [])
    try:
        batches = iter(data)
    except TypeError:
        kind = type(data).__name__
        raise UserError(
            f"data: a value of type {kind}: must be a DataSet, (images, labels), or batches of them"
        ) from None
    return _Test(_joined([_as_images(*_pair(batch)) for batch in batches]), [])


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise UserError(
            f"data: a batch is a value of type {type(batch).__name__}: must be (images, labels)"
        )
    return batch[0], batch[1]


def _joined(batches: list[Images]) -> Images:
    if not batches:
        raise UserError("data: there are no images")
    sizes = {batch.shape for batch in batches}
    if len(sizes) > 1:
        raise UserError(f"data: images of different sizes: {sorted(sizes)[0]}, {sorted(sizes)[1]}")
    images = torch.cat([batch.images for batch in batches])
    return Images(images, torch.cat([batch.labels for batch in batches]))


def _as_images(images: Any, labels: Any) -> Images:
    """Images [N, C, H, W] uint8 and labels [N] int64 of tensors or arrays, on the CPU.

    Raises:
        UserError: they are of other shapes, types or values.
    """
    pixels, classes = _as_tensor(images, "images"), _as_tensor(labels, "labels")
    if pixels.dim() != 4 or pixels.shape[1] not in (1, 3) or not pixels.numel():
        raise UserError(f"data: images {list(pixels.shape)}: must be [N, 1 or 3, H, W]")
    if classes.shape != (len(pixels),) or classes.is_floating_point() or int(classes.min()) < 0:
        of = f"{classes.dtype} {list(classes.shape)}"
        raise UserError(f"data: labels are {of}: must be [{len(pixels)}] whole numbers from 0")
    return Images(_as_bytes(pixels), classes.long())


def _as_tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as e:
        raise UserError(f"data: {what}: {one_line(e)}") from None


def _as_bytes(pixels: Tensor) -> Tensor:
    """uint8 of uint8 in 0 .. 255 or floats in 0 .. 1."""
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise UserError(f"data: images are {pixels.dtype}: must be uint8, or floats in 0 .. 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"data: images from {low:.3g} to {high:.3g}: must be uint8, or floats in 0 .. 1:"
            " corruptions are of pixels; leave out Normalize, and pass mean and std"
        )
    return (pixels.float() * 255).round().to(torch.uint8)


def _normalisation(
    test: _Test,
    on_pixels: bool,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    device: torch.device,
) -> Callable[[Tensor], Tensor]:
    """What is done to images [B, C, H, W] in 0 .. 1 before the model gets them."""
    if on_pixels:
        if mean is not None or std is not None:
            raise UserError("on_pixels: the model normalises images itself: leave out mean and std")
        return lambda images: images
    means = _per_channel(mean, test.mean, test.split.shape[0], "mean").to(device)
    stds = _per_channel(std, test.std, test.split.shape[0], "std").to(device)
    if not bool((stds > 0).all()):
        raise UserError(f"std = {list(std or test.std)}: must be positive")
    return lambda images: (images - means) / stds


def _per_channel(
    given: Sequence[float] | None, known: Sequence[float], channels: int, name: str
) -> Tensor:
    """[C, 1, 1] float32."""
    values = [float(value) for value in (known if given is None else given)]
    if not values:
        raise UserError(
            f"{name}: must be given, unless the model normalises images itself (on_pixels) or data"
            " is a DataSet"
        )
    if len(values) not in (1, channels) or not all(map(np.isfinite, values)):
        raise UserError(f"{name} = {values}: must be {channels} numbers, one a channel")
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
