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
from numpy.typing import NDArray

from ..ticket import Ticket
from .engine import Engine, normalised

TURN = 0.05  # seconds
FEWEST, MOST = 5, 100_000  # runs
Run = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Milliseconds that a batch takes: the median and the quartiles of n runs."""

    median: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True)
class Row:
    """The speed with `batch` images a call and `threads` threads.

    Attributes:
        engine: from uint8 pixels to logits.
        torch: from normalised float32 pixels, which it is given, to logits; None where PyTorch is
            not measured.
        same: number of images of the batch to which both give the same class.
    """

    batch: int
    threads: int
    engine: Timing
    torch: Timing | None = None
    same: int | None = None

    @property
    def images_per_second(self) -> float:
        """Of the engine."""
        return 1000 * self.batch / self.engine.median

    @property
    def ratio(self) -> float | None:
        """How many times as fast as PyTorch the engine is."""
        return self.torch.median / self.engine.median if self.torch else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        derived = {"images_per_second": self.images_per_second, "ratio": self.ratio}
        return {**dataclasses.asdict(self), **derived}


def has_torch() -> bool:
    """Whether PyTorch is installed; it is not loaded."""
    return importlib.util.find_spec("torch") is not None


def interleaved(runs: Mapping[str, Run], seconds: float) -> dict[str, Timing]:
    """Time functions in turns, so that all see the same machine.

    A turn of short runs begins with one that does not count: caches hold what the other used, and
    its threads may still wait actively.

    Args:
        runs: functions by name.
        seconds: that each of them runs in all, at least `FEWEST` and at most `MOST` times.

    Returns:
        Timings by the same names.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    while _is_unfinished(list(times.values()), seconds):
        for name, run in runs.items():
            if not times[name] or times[name][-1] < TURN:
                run()
            times[name] += _turn(run, min(TURN, seconds))
    return {name: _timing(runtimes) for name, runtimes in times.items()}


def _is_unfinished(times: Sequence[Sequence[float]], seconds: float) -> bool:
    too_few = any(sum(runtimes) < seconds or len(runtimes) < FEWEST for runtimes in times)
    return too_few and all(len(runtimes) < MOST for runtimes in times)


def _turn(run: Run, seconds: float) -> list[float]:
    """The seconds that each run takes, until they have taken that long in all; at least one."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        times.append(end - start)
        if end > until:
            return times


def _timing(seconds: Sequence[float]) -> Timing:
    quartiles = np.quantile(seconds, (0.25, 0.5, 0.75))
    lower, median, upper = (1000 * float(quartile) for quartile in quartiles)
    return Timing(median, lower, upper, len(seconds))


def measure(
    engine: Engine, batches: Sequence[int], seconds: float, beside: Any = None
) -> Iterator[Row]:
    """The speed for each batch size, with the engine's number of threads, on random pixels.

    Args:
        engine: that is measured.
        batches: numbers of images that a call gets.
        seconds: how long each is measured, for each batch.
        beside: the same network in PyTorch (`Ticket.to_model`), if it is measured, too.
    """
    for batch in batches:
        pixels = _random_pixels(engine, batch)
        if beside is None:
            run = functools.partial(engine.run, pixels)
            timing = interleaved({"engine": run}, seconds)["engine"]
            yield Row(batch, engine.threads, timing)
        else:
            yield _beside_torch(engine, pixels, beside, seconds)


def _random_pixels(engine: Engine, batch: int) -> NDArray[Any]:
    """A batch for the engine; for a network that embeds whole numbers, of zeros, which all have."""
    shape = (batch, *engine.shape)
    if engine.ticket.graph and engine.ticket.graph.indices:
        return np.zeros(shape, np.int64)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _beside_torch(engine: Engine, pixels: NDArray[Any], model: Any, seconds: float) -> Row:
    run = functools.partial(engine.run, pixels)
    with _torch(engine.threads) as torch:
        is_pixels = pixels.dtype == np.uint8
        images = torch.from_numpy(normalised(pixels, engine.ticket) if is_pixels else pixels)
        classes, expected = run().argmax(1), model(images).argmax(1).numpy()
        same = (expected == classes).reshape(len(pixels), -1).all(axis=1)
        runs = {"engine": run, "torch": functools.partial(model, images)}
        timings = interleaved(runs, seconds)
    count = int(same.sum())
    return Row(len(pixels), engine.threads, timings["engine"], timings["torch"], count)


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
    """Bytes that the network's weights and other numbers take in float32."""
    return 4 * (ticket.weights + sum(value.size for value in ticket.state.values()))
