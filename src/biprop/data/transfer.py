"""From numpy to the training device, without making the CPU wait for a GPU."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def on_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor of the same shape and dtype on a device.

    Where that is a GPU, the values are copied to page-locked memory first: a copy from ordinary
    memory waits until the GPU has done all its work. PyTorch holds the page-locked memory until the
    copy is done.
    """
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
