"""Pools and borders as ONNX nodes.

The sizes of all sides are known, so that incomplete windows at the end become borders: runtimes do
not agree on `ceil_mode`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .builder import Builder, Step

_ONNX_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _ends(step: Step) -> list[int]:
    """The border after each side: its padding, and what the last window reaches beyond that."""
    a = step.attributes
    dilation = a.get("dilation", (1,) * len(a["kernel"]))
    sides, counts = step.shapes[0][2:], step.shape[2:]
    rows = zip(sides, counts, a["kernel"], a["stride"], a["padding"], dilation, strict=True)
    return [
        max(padding, (count - 1) * stride + d * (kernel - 1) + 1 - side - padding)
        for side, count, kernel, stride, padding, d in rows
    ]


def _bordered(b: Builder, x: str, begins: Sequence[int], ends: Sequence[int], value: float) -> str:
    """Maps (batch, channels, sides ...) with a border around."""
    if not any(begins) and not any(ends):
        return x
    return b.add("Pad", x, b.whole(0, 0, *begins, 0, 0, *ends), b.floats(value))


def max_pool(b: Builder, step: Step) -> str:
    """Padding never wins."""
    a, ends = step.attributes, _ends(step)
    (x,), begins = step.inputs, a["padding"]
    fits = all(end < kernel for end, kernel in zip(ends, a["kernel"], strict=True))
    if not fits:  # runtimes refuse padding as wide as the kernel
        x = _bordered(b, x, begins, ends, -math.inf)
        begins = ends = [0] * len(ends)
    windows = {"kernel_shape": a["kernel"], "strides": a["stride"], "dilations": a["dilation"]}
    return b.windows("MaxPool", x, pads=[*begins, *ends], **windows)


def avg_pool(b: Builder, step: Step) -> str:
    """The mean of each window, over the positions that count."""
    a, ends = step.attributes, _ends(step)
    (x,), begins = step.inputs, a["padding"]
    windows = {"kernel_shape": a["kernel"], "strides": a["stride"]}
    if list(begins) == ends:
        counts_padding = int(a["count_padding"])
        pads = [*begins, *ends]
        return b.windows("AveragePool", x, pads=pads, count_include_pad=counts_padding, **windows)
    x = _bordered(b, x, begins, ends, 0.0)
    mean = b.windows("AveragePool", x, pads=[], **windows)
    return b.add("Mul", mean, b.floats(_shares(step)))


def _shares(step: Step) -> NDArray[Any]:
    """[sides ...]: the positions of each window over those that count."""
    a = step.attributes
    sides, counts = step.shapes[0][2:], step.shape[2:]
    rows = zip(sides, counts, a["kernel"], a["stride"], a["padding"], strict=True)
    shares = []
    for side, count, kernel, stride, padding in rows:
        border = padding if a["count_padding"] else 0
        starts = np.arange(count) * stride - padding
        counted = np.minimum(starts + kernel, side + border) - np.maximum(starts, -border)
        shares.append(kernel / counted)
    return reduce(np.multiply.outer, shares)


def adaptive_pool(b: Builder, step: Step) -> str:
    """Windows that divide each side evenly; a pool, where all have one size."""
    is_mean = step.operation.op == "adaptive_avg_pool"
    sides, sizes = step.shapes[0][2:], step.attributes["sizes"]
    if not any(side % size for side, size in zip(sides, sizes, strict=True)):
        kernel = [side // size for side, size in zip(sides, sizes, strict=True)]
        op = "AveragePool" if is_mean else "MaxPool"
        return b.add(op, step.inputs[0], kernel_shape=kernel, strides=kernel)
    x = step.inputs[0]
    for axis, (side, size) in enumerate(zip(sides, sizes, strict=True), start=2):
        x = _adaptive(b, x, axis, side, size, "ReduceMean" if is_mean else "ReduceMax")
    return x


def _adaptive(b: Builder, x: str, axis: int, side: int, size: int, op: str) -> str:
    """One side: place i is of i n / size .. (i + 1) n / size, rounded outwards."""
    parts = []
    for i in range(size):
        start, stop = i * side // size, -(-(i + 1) * side // size)
        window = cut(b, x, axis, start, stop)
        parts.append(b.add(op, window, axes=[axis], keepdims=1))
    return b.add("Concat", *parts, axis=axis)


def cut(b: Builder, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
    """A part of an axis."""
    return b.add("Slice", x, *map(b.whole, (start, stop, axis, step)))


def pad(b: Builder, step: Step) -> str:
    """Borders along any axes, of numbers or of what the value itself has."""
    a = step.attributes
    (x,), begins, ends = step.inputs, a["pads"][::2], a["pads"][1::2]
    if a["mode"] == "circular":
        return _circular(b, x, step)
    value = [b.floats(a["value"])] if a["mode"] == "constant" else []
    return b.add("Pad", x, b.whole(*begins, *ends), *value, mode=_ONNX_MODES[a["mode"]])


def _circular(b: Builder, x: str, step: Step) -> str:
    """ONNX has this mode from version 19 on only."""
    pads = step.attributes["pads"]
    for axis, (begin, end) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        size = step.shapes[0][axis]
        before = [cut(b, x, axis, size - begin, size)] if begin else []
        after = [cut(b, x, axis, 0, end)] if end else []
        if before or after:
            x = b.add("Concat", *before, x, *after, axis=axis)
    return x
