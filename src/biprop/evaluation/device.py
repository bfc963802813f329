"""The device of a run, and the batch size that its memory allows for evaluation."""

from __future__ import annotations

import math

import torch

from ..distributed import ALONE, Group
from ..errors import UserError, one_line
from ..models.network import Task


def evaluation_batch(task: Task) -> int:
    """Images in a batch of evaluation: fewer where they are large."""
    return 500 if math.prod(task.input_size) <= 64 * 64 else 128


def choose_device(name: str, group: Group = ALONE) -> torch.device:
    """The device of this process.

    `name` is one of PyTorch's; "auto" is a GPU where there is one, and "cuda" this process's own.

    Raises:
        UserError: the device is not available here.
    """
    if name == "auto":
        name = _best_device()
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise UserError(f"--device {name}: not available here: {one_line(e)}") from None
    return device


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
