"""What a run records of its epochs: metrics.jsonl and TensorBoard."""

from __future__ import annotations
import csv
import errno
import glob
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from .. import screen
from ..errors import UserError
from ..errors import one_line
from ..files import replace_text
from ..files import replacing
from ..files import sync_folder
from .folder import METRICS
from .folder import read_metrics
from ..screen import printable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Pace:
    """How fast steps are since it was made, before `step` more were done."""

    def __init__(self, step: int) -> None:
        self._step, self._started = step, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def so_far(self, step: int, images: int) -> dict[str, float]:
        """Seconds a step and images a second, at `images` a step."""
        seconds = self.seconds / max(1, step - self._step)
        return {"seconds_per_step": seconds, "images_per_second": images / max(seconds, 1e-9)}


def memory_peak(device: Any) -> int:
    """Bytes that this process had at most: on a GPU of its memory, else of the machine's; 0 where the system does not say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


class RunLog:
    """The numbers of a run: TensorBoard events and metrics.jsonl (one JSON object a line) in `folder`."""

    def __init__(self, folder: Path, epochs_done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what a resumed run does again.
        self._writer = SummaryWriter(
            str(folder), purge_step=epochs_done + 1 if epochs_done else None
        )
        self._lines = (folder / METRICS).open("a", encoding="utf-8")

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the named numbers of an epoch (counted from 1)."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._lines.write(json.dumps({"epoch": epoch, **values}) + "\n")
        self._lines.flush()
        self._writer.flush()

    def histograms(self, epoch: int, parameters: Iterable[tuple[str, Parameter]]) -> None:
        """Record how scores, weights and their gradients of the last step are distributed, in TensorBoard only.

        Args:
            epoch: counted from 1.
            parameters: as of `named_parameters`: LAYER.scores becomes scores/LAYER and gradients/LAYER.scores.
        """
        for name, parameter in parameters:
            layer, _, leaf = name.rpartition(".")
            tag = f"{leaf if leaf == 'scores' else 'weights'}/{layer if leaf in ('scores', 'weight') else name}"
            self._histogram(epoch, tag, parameter)
            if parameter.grad is not None:
                self._histogram(epoch, f"gradients/{name}", parameter.grad)

    def _histogram(self, epoch: int, tag: str, values: Tensor) -> None:
        self._writer.add_histogram(tag, values.detach().float().cpu(), epoch)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        self._lines.close()


def forget_after(folder: Path, epoch: int) -> None:
    """Cut metrics.jsonl back to the epochs up to `epoch`, for a run that goes on from there.

    Damaged lines go too.
    """
    path = folder / METRICS
    if path.is_file():
        kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["epoch"] <= epoch]
        replace_text(path, "".join(kept))
