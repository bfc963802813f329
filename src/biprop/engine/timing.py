"""How fast a ticket runs: the engine, and PyTorch beside it where it is installed."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ticket import Ticket
from .engine import Engine, normalised

TURN = 0.05
FEWEST, MOST = 5, 100_000
Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Milliseconds that a batch takes: the median and the quartiles of n runs."""

    median: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True)
class Row:
    """Measured with `batch` images and `threads` threads.

    Attributes:
        engine: from uint8 pixels to logits.
        torch: from normalised float32 pixels, which it is given, to logits; None where it was left
            out.
        same: images of the batch to which both give the same class.
    """

    batch: int
    threads: int
    engine: Timing
    torch: Timing | None = None
    same: int | None = None

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.engine.median

    @property
    def ratio(self) -> float | None:
        """How many times as fast as PyTorch the engine is."""
        return self.torch.median / self.engine.median if self.torch else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **dataclasses.asdict(self),
            "images_per_second": self.images_per_second,
            "ratio": self.ratio,
        }


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def interleaved(runs: Mapping[str, Run], seconds: float) -> dict[str, Timing]:
    """Time functions in turns, until each has run for `seconds`, so that all see the same machine.

    A turn of short runs begins with one that does not count: caches hold what the other used, and
    its threads may still wait actively.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    while any(sum(t) < seconds or len(t) < FEWEST for t in times.values()) and all(
        len(t) < MOST for t in times.values()
    ):
        for name, run in runs.items():
            if not times[name] or times[name][-1] < TURN:
                run()
            until = time.perf_counter() + min(TURN, seconds)
            while True:
                start = time.perf_counter()
                run()
                end = time.perf_counter()
                times[name].append(end - start)
                if end > until:
                    break
    return {name: _timing(t) for name, t in times.items()}


def _timing(seconds: Sequence[float]) -> Timing:
    lower, median, upper = (1000 * float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return Timing(median, lower, upper, len(seconds))


def measure(
    engine: Engine, batches: Sequence[int], seconds: float, beside: Any = None
) -> Iterator[Row]:
    """A row for each size of batch, with the engine's number of threads, on pixels at random.

    Args:
        engine: what runs.
        batches: how many images a call gets.
        seconds: how long each is measured, for each batch.
        beside: the same network in PyTorch (`Ticket.to_model`), if it is to be measured too.
    """
    for batch in batches:
        pixels = np.random.default_rng(0).integers(0, 256, (batch, *engine.shape), dtype=np.uint8)
        if beside is None:
            yield Row(
                batch,
                engine.threads,
                interleaved({"engine": functools.partial(engine.run, pixels)}, seconds)["engine"],
            )
            continue
        with _torch(engine.threads) as torch:
            images = torch.from_numpy(normalised(pixels, engine.ticket))
            same = int((beside(images).argmax(1).numpy() == engine.run(pixels).argmax(1)).sum())
            found = interleaved(
                {
                    "engine": functools.partial(engine.run, pixels),
                    "torch": functools.partial(beside, images),
                },
                seconds,
            )
        yield Row(batch, engine.threads, found["engine"], found["torch"], same)


@contextmanager
def _torch(threads: int) -> Iterator[Any]:
    """PyTorch for inference, with that many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield torch
    finally:
        torch.set_num_threads(before)


def float32_bytes(ticket: Ticket) -> int:
    """What the network's weights and other numbers take in float32."""
    return 4 * (ticket.weights + sum(value.size for value in ticket.state.values()))
