"""The numbers of a run's epochs: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..files import write_text_atomically
from .folder import METRICS, read_metrics

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Pace:
    """The speed of optimizer steps since this object was made, when `step` of them were done."""

    def __init__(self, step: int) -> None:
        self._step, self._started = step, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the pace was started."""
        return time.monotonic() - self._started

    def so_far(self, step: int, images: int) -> dict[str, float]:
        """ "seconds_per_step" and "images_per_second", at `images` a step and `step` steps done."""
        seconds = self.seconds / max(1, step - self._step)
        return {"seconds_per_step": seconds, "images_per_second": images / max(seconds, 1e-9)}


def memory_peak(device: Any) -> int:
    """Peak memory of this process in bytes: the GPU's where `device` is one, else main memory; 0
    where the system does not report it.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class RunLog:
    """Writes TensorBoard events and metrics.jsonl (one JSON object a line) into `folder`.

    `epochs_done`: epochs before the first that is recorded here. TensorBoard hides what a run that
    was killed had recorded after them.
    """

    def __init__(self, folder: Path, epochs_done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = epochs_done + 1 if epochs_done else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._lines = (folder / METRICS).open("a", encoding="utf-8")

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the named numbers of an epoch (counted from 1)."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._lines.write(json.dumps({"epoch": epoch, **values}) + "\n")
        self._lines.flush()
        self._writer.flush()

    def histograms(self, epoch: int, parameters: Iterable[tuple[str, Parameter]]) -> None:
        """Record histograms of scores, weights and their gradients of the last step, in TensorBoard
        only.

        Args:
            epoch: counted from 1.
            parameters: as of `named_parameters`: LAYER.scores becomes scores/LAYER and
                gradients/LAYER.scores.
        """
        for name, parameter in parameters:
            self._histogram(epoch, _tag(name), parameter)
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


def _tag(parameter: str) -> str:
    """The name of a parameter's histogram: scores/LAYER, weights/LAYER or weights/LAYER.bias."""
    layer, _, leaf = parameter.rpartition(".")
    group = "scores" if leaf == "scores" else "weights"
    return f"{group}/{layer if leaf in ('scores', 'weight') else parameter}"


def forget_after(folder: Path, epoch: int) -> None:
    """Remove the lines after `epoch` from metrics.jsonl, for a run that continues from there.

    Damaged lines are removed too.
    """
    path = folder / METRICS
    if path.is_file():
        kept = [line for line in read_metrics(path) if line["epoch"] <= epoch]
        write_text_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
