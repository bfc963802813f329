"""What each operation of `models.operations` computes, in numpy, float32.

Maps have PyTorch's order of axes: (batch, channels, sides ...). Functions take the inputs, the
tensors by role, and the attributes by name; see docs/ticket-format.md for the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Array = NDArray[np.float32]
Tensors = Mapping[str, Any]
Attributes = Mapping[str, Any]
Compute = Callable[[Sequence[Any], Tensors, Attributes], Any]

_PAD_MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def _padded(x: Array, borders: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """Maps with borders (before, after) along each of their sides."""
    if not any(map(any, borders)):
        return x
    return np.pad(x, [(0, 0), (0, 0), *borders], constant_values=value)


def _windows(
    x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Array:
    """The windows that a kernel moves over.

    Args:
        x: [B, C, sides ...], padded.
        kernel, stride, dilation: a number for each side.

    Returns:
        A view [B, C, positions ..., kernel ...].
    """
    axes = len(kernel)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + axes)))
    positions = tuple(slice(None, None, step) for step in stride)
    taps = tuple(slice(None, None, step) for step in dilation)
    return windows[(slice(None), slice(None), *positions, *taps)]


def _finished(out: Array, tensors: Tensors) -> Array:
    """Outputs [O, ...] times the gain of a masked layer, which has only signs, plus the bias."""
    if "gain" in tensors:
        out *= tensors["gain"]
    if "bias" in tensors:
        out += tensors["bias"].reshape(-1, *(1,) * (out.ndim - 1))
    return out


def conv(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """A convolution as one product of matrices for each group."""
    weight, groups = tensors["weight"], a["groups"]
    axes = weight.ndim - 2
    x = _padded(inputs[0], [(p, p) for p in a["padding"]])
    windows = _windows(x, weight.shape[2:], a["stride"], a["dilation"])
    sides = windows.shape[2 : 2 + axes]
    taps_first = (1, *range(2 + axes, 2 + 2 * axes), 0, *range(2, 2 + axes))
    columns = windows.transpose(taps_first).reshape(groups, math.prod(weight.shape[1:]), -1)
    out = weight.reshape(groups, -1, columns.shape[1]) @ columns
    out = _finished(out.reshape(weight.shape[0], len(x), *sides), tensors)
    return out.swapaxes(0, 1)


def conv_transpose(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """A transposed convolution: each input adds its multiple of the kernel to the output."""
    x, weight, groups = inputs[0], tensors["weight"], a["groups"]
    sides, kernel, batch = x.shape[2:], weight.shape[2:], len(x)
    taps = weight.reshape(groups, len(weight) // groups, -1).swapaxes(1, 2)
    columns = taps @ x.swapaxes(0, 1).reshape(groups, len(weight) // groups, -1)
    columns = columns.reshape(-1, *kernel, batch, *sides)
    reach = [
        (side - 1) * s + d * (k - 1) + 1 + more
        for side, s, d, k, more in zip(
            sides, a["stride"], a["dilation"], kernel, a["output_padding"], strict=True
        )
    ]
    out = np.zeros((len(columns), batch, *reach), np.float32)
    for tap in np.ndindex(*kernel):
        places = (
            slice(i * d, i * d + (side - 1) * s + 1, s)
            for i, d, side, s in zip(tap, a["dilation"], sides, a["stride"], strict=True)
        )
        out[(slice(None), slice(None), *places)] += columns[(slice(None), *tap)]
    inner = (slice(p, size - p) for p, size in zip(a["padding"], reach, strict=True))
    out = out[(slice(None), slice(None), *inner)]
    return _finished(out, tensors).swapaxes(0, 1)


def linear(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """x @ weight.T, times a gain and plus a bias where there are."""
    out: Array = inputs[0] @ tensors["weight"].T
    if "gain" in tensors:
        out = out * tensors["gain"]
    if "bias" in tensors:
        out = out + tensors["bias"]
    return out


def embedding(inputs: Sequence[Any], tensors: Tensors, a: Attributes) -> Array:
    """Rows of the weight at the given indices."""
    weight, at = tensors["weight"], inputs[0]
    if at.size and not 0 <= at.min() <= at.max() < len(weight):
        raise UserError(
            f"inputs from {at.min()} to {at.max()}: the network's embedding takes 0 .."
            f" {len(weight) - 1}"
        )
    rows: Array = weight[at]
    return rows


def batch_norm(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """With the scale and the shift that follow from the running statistics."""
    shape = (-1, *(1,) * (inputs[0].ndim - 2))
    out: Array = inputs[0] * tensors["scale"].reshape(shape) + tensors["shift"].reshape(shape)
    return out


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    normalised: Array = centred / np.sqrt(variance + np.float32(eps))
    return normalised


def group_norm(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """Normalised over the channels of each group and all places; affine where there is a weight."""
    x, groups = inputs[0], a["groups"]
    grouped = x.reshape(len(x), groups, -1)
    out = _normalised(grouped, (2,), a["eps"]).reshape(x.shape)
    return _affine(out, tensors, (-1, *(1,) * (x.ndim - 2)))


def layer_norm(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """Normalised over the last axes; affine where there is a weight."""
    x, count = inputs[0], a["count"]
    out = _normalised(x, tuple(range(x.ndim - count, x.ndim)), a["eps"])
    return _affine(out, tensors, x.shape[-count:])


def _affine(x: Array, tensors: Tensors, shape: tuple[int, ...]) -> Array:
    if "weight" in tensors:
        x = x * tensors["weight"].reshape(shape)
    if "bias" in tensors:
        x = x + tensors["bias"].reshape(shape)
    return x


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, np.float32(0))


def sign(x: Array) -> Array:
    """The sign, with sign(0) = 1; np.where takes ten times as long."""
    signs: Array = np.float32(2) * (x >= 0) - np.float32(1)
    return signs


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):
        result: Array = np.float32(1) / (np.float32(1) + np.exp(-x))
    return result


def _hardsigmoid(x: Array) -> Array:
    return np.clip(x / 6 + np.float32(0.5), 0, 1)


_erf = np.frompyfunc(math.erf, 1, 1)


def gelu(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """x times the normal distribution function, or by `tanh` nearly so (arXiv 1606.08415)."""
    x = inputs[0]
    if a["tanh"]:
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        approximate: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
        return approximate
    exact: Array = np.float32(0.5) * x * (1 + _erf(x / math.sqrt(2)).astype(np.float32))
    return exact


def elu(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """x where it is above 0, else alpha (exp(x) - 1)."""
    x = inputs[0]
    return np.where(x > 0, x, np.float32(a["alpha"]) * np.expm1(np.minimum(x, 0)))


def leaky_relu(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """x where it is above 0, else slope x."""
    return np.where(inputs[0] > 0, inputs[0], np.float32(a["slope"]) * inputs[0])


def clamp(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """x limited to [low, high]; None leaves a side open."""
    low = -np.inf if a["low"] is None else a["low"]
    high = np.inf if a["high"] is None else a["high"]
    return np.clip(inputs[0], np.float32(low), np.float32(high))


def scale(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """factor x + shift, both fixed numbers."""
    return inputs[0] * np.float32(a["factor"]) + np.float32(a["shift"])


def softmax(x: Array, axis: int) -> Array:
    """exp(x) over its sum along an axis."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def log_softmax(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """The logarithm of the softmax along an axis."""
    x, axis = inputs[0], a["axis"]
    shifted = x - x.max(axis=axis, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return result


def _borders(x: Any, a: Attributes) -> list[tuple[int, int]]:
    """Padding before and after each side; after it also what the last window reaches, where a pool
    counts windows that are not complete.
    """
    dilation = a.get("dilation", (1,) * len(a["kernel"]))
    borders = []
    rows = zip(x.shape[2:], a["kernel"], a["stride"], a["padding"], dilation, strict=True)
    for side, kernel, stride, padding, step in rows:
        reach = step * (kernel - 1) + 1
        more = 0
        if a["ceil"]:
            count = -(-(side + 2 * padding - reach) // stride) + 1
            count -= (count - 1) * stride >= side + padding
            more = max(0, (count - 1) * stride + reach - side - 2 * padding)
        borders.append((padding, padding + more))
    return borders


def max_pool(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """The maximum over the positions of the kernel; `.max` over two axes takes 20 times as long."""
    x = _padded(inputs[0], _borders(inputs[0], a), -np.inf)
    windows = _windows(x, a["kernel"], a["stride"], a["dilation"])
    return reduce(np.maximum, (windows[(..., *tap)] for tap in np.ndindex(*a["kernel"])))


def avg_pool(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """The sum of each window over the number of its positions that count."""
    x, kernel = inputs[0], a["kernel"]
    axes = tuple(range(-len(kernel), 0))
    borders, ones = _borders(x, a), (1,) * len(kernel)
    inside = np.ones((1, 1, *x.shape[2:]), np.float32)
    if a["count_padding"]:
        inside = _padded(inside, [(p, p) for p in a["padding"]], 1.0)
        ends = [(0, after - p) for (_, after), p in zip(borders, a["padding"], strict=True)]
        inside = _padded(inside, ends)
    else:
        inside = _padded(inside, borders)
    counts = _windows(inside, kernel, a["stride"], ones).sum(axis=axes)
    sums = _windows(_padded(x, borders), kernel, a["stride"], ones).sum(axis=axes)
    mean: Array = sums / counts
    return mean


def _adaptive(x: Array, sizes: Sequence[int], combine: Callable[..., Any]) -> Array:
    """Combine windows that divide each side evenly: i n / size .. (i + 1) n / size, rounded
    outwards. The sides are combined one after the other.
    """
    for axis, size in enumerate(sizes, start=2):
        n = x.shape[axis]
        windows = (
            x.take(range(i * n // size, -(-(i + 1) * n // size)), axis=axis) for i in range(size)
        )
        x = np.stack([combine(window, axis=axis) for window in windows], axis=axis)
    return x


def attention(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """softmax(query key' scale + mask) value; causal: a query sees the keys up to its own place."""
    query, key, value = inputs[:3]
    factor = 1 / math.sqrt(query.shape[-1]) if a["scale"] is None else a["scale"]
    scores = query @ key.swapaxes(-1, -2) * np.float32(factor)
    if len(inputs) == 4:
        scores = scores + inputs[3]
    if a["causal"]:
        seen = np.tril(np.ones(scores.shape[-2:], np.bool_))
        scores = np.where(seen, scores, np.float32(-np.inf))
    return softmax(scores, -1) @ value


def pad(inputs: Sequence[Array], tensors: Tensors, a: Attributes) -> Array:
    """Padded at both ends of each axis, by zeros, reflection or repetition of the border."""
    pads = list(zip(a["pads"][::2], a["pads"][1::2], strict=True))
    mode: Any = _PAD_MODES[a["mode"]]
    if mode == "constant":
        return np.pad(inputs[0], pads, constant_values=a["value"])
    return np.pad(inputs[0], pads, mode=mode)


def cut(inputs: Sequence[Any], tensors: Tensors, a: Attributes) -> Any:
    """The operation `slice`."""
    every = (slice(None),) * a["axis"]
    return inputs[0][(*every, slice(a["start"], a["stop"], a["step"]))]


def _of_one(function: Callable[[Array], Array]) -> Compute:
    return lambda inputs, tensors, a: function(inputs[0])


def _reduction(function: Any) -> Compute:
    return lambda inputs, tensors, a: function(inputs[0], axis=a["axes"], keepdims=a["keep"])


COMPUTE: dict[str, Compute] = {
    "tensor": lambda inputs, tensors, a: tensors["weight"],
    "conv": conv,
    "conv_transpose": conv_transpose,
    "linear": linear,
    "embedding": embedding,
    "batch_norm": batch_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "relu": _of_one(relu),
    "sign": _of_one(sign),
    "sign0": _of_one(np.sign),
    "silu": _of_one(lambda x: x * sigmoid(x)),
    "sigmoid": _of_one(sigmoid),
    "tanh": _of_one(np.tanh),
    "hardswish": _of_one(lambda x: x * _hardsigmoid(x)),
    "hardsigmoid": _of_one(_hardsigmoid),
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "clamp": clamp,
    "scale": scale,
    "softmax": lambda inputs, tensors, a: softmax(inputs[0], a["axis"]),
    "log_softmax": log_softmax,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": lambda inputs, tensors, a: _adaptive(inputs[0], a["sizes"], np.mean),
    "adaptive_max_pool": lambda inputs, tensors, a: _adaptive(inputs[0], a["sizes"], np.max),
    "add": lambda inputs, tensors, a: inputs[0] + inputs[1],
    "mul": lambda inputs, tensors, a: inputs[0] * inputs[1],
    "div": lambda inputs, tensors, a: inputs[0] / inputs[1],
    "concat": lambda inputs, tensors, a: np.concatenate(inputs, axis=a["axis"]),
    "reshape": lambda inputs, tensors, a: inputs[0].reshape(a["shape"]),
    "expand": lambda inputs, tensors, a: np.broadcast_to(inputs[0], a["shape"]),
    "permute": lambda inputs, tensors, a: inputs[0].transpose(a["axes"]),
    "slice": cut,
    "pad": pad,
    "mean": _reduction(np.mean),
    "sum": _reduction(np.sum),
    "max": _reduction(np.max),
    "matmul": lambda inputs, tensors, a: inputs[0] @ inputs[1],
    "attention": attention,
}
"""Operation -> function; shapes among the attributes are those of the batch."""
