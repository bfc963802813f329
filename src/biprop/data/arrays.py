"""Tables, series and other arrays of a .npz file as a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import npz
from ..names import TEST, TRAIN, VALIDATION
from .sources import Expect, Images, Source, expect_nothing
from .splits import TEST_LAYER, stratified


def arrays(file: Path, expect: Expect = expect_nothing) -> Source:
    """The samples and labels of a .npz file.

    uint8 arrays are pixels, 0 .. 255; all other numbers are taken as they are, in float32.

    Args:
        file: the .npz file.
        expect: gets the number of classes and the shape of a sample before X is read.

    Raises:
        UserError: no such file, a damaged one, other arrays, labels that are no classes, or too
            large for the memory.
    """
    with npz.Npz(file) as content:
        parts = content.parts()
        view = content.view(parts)
        names, labels = npz.classes_of(content, parts)
        expect(len(names), view.shape)
        samples = {
            part: content.samples(headers[npz.INPUTS], view) for part, headers in parts.items()
        }
        about = f"{len(names)} classes, {content.described(parts)}{view.about}"
    train, test, held_out = _split(samples, labels, names)
    return Source(
        train,
        test,
        names,
        mean=(),
        std=(),
        augment="none",
        held_out=held_out,
        about=about,
        notes=content.notes,
        is_pixels=train.images.dtype == torch.uint8,
    )


def _split(
    samples: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> tuple[Images, Images, Tensor | None]:
    """Training and test part, and which of the training part is for validation.

    Without a test part the validation part is it, or else a fixed fifth of each class.

    Raises:
        UserError: a class has too few rows.
    """
    parts = {
        part: Images(torch.from_numpy(own), torch.from_numpy(labels[part]))
        for part, own in samples.items()
    }
    train, validation, test = (parts.get(part) for part in (TRAIN, VALIDATION, TEST))
    assert train
    if test is None and validation is not None:
        return train, validation, None
    if test is None:
        size = max(1, len(train) // 5)
        is_test = torch.from_numpy(stratified(labels[TRAIN], size, TEST_LAYER, names))
        return train.subset(~is_test), train.subset(is_test), None
    if validation is None:
        return train, test, None
    joined = Images(
        torch.cat([train.images, validation.images]), torch.cat([train.labels, validation.labels])
    )
    return joined, test, torch.arange(len(joined)) >= len(train)
