"""PyTorch's operations (ATen) in those of `operations`: one converter each, for `trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from .operations import Operation, Shape

_SMALLEST = -1e30
"""In the place of -inf, as in attention masks: its weight is 0 as well, and a file can hold it."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that depends on no input; `name` is its name in the state dict, if it is there."""

    value: Any
    name: str = ""


@dataclass(frozen=True)
class Value:
    """The result of an operation of the graph."""

    number: int


@dataclass(frozen=True)
class AtLeastZero:
    """x >= 0: the first part of a binary activation."""

    value: Any


class RefusedError(Exception):
    """An operation that a ticket's graph does not have; the text names it."""


@dataclass
class Builder:
    """A graph in the making.

    Attributes:
        prefix: of the names of constants.
        operations: in order; the result of the first is value 1.
        constants: tensors that are not in the state dict, by their new names; float32.
    """

    prefix: str
    operations: list[Operation] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    _read: dict[Any, Value] = field(default_factory=dict)
    _names: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def add(
        self,
        op: str,
        *inputs: Any,
        tensors: Sequence[str | None] = (),
        attributes: Sequence[Any] = (),
    ) -> Value:
        """Append an operation; its inputs are values or constants."""
        numbers = tuple(self.value(x).number for x in inputs)
        while op == "reshape" and numbers[0] and self._op(numbers[0]).op == "reshape":
            numbers = self._op(numbers[0]).inputs  # of two reshapes only the last one counts
        self.operations.append(Operation(op, numbers, tuple(tensors), tuple(attributes)))
        return Value(len(self.operations))

    def _op(self, number: int) -> Operation:
        """The operation that gives a value other than the input."""
        return self.operations[number - 1]

    def value(self, x: Any) -> Value:
        """A value of the graph, for a value or a constant."""
        if isinstance(x, Value):
            return x
        name = self.tensor(x)
        if name not in self._read:
            self.operations.append(Operation("tensor", (), (name,)))
            self._read[name] = Value(len(self.operations))
        return self._read[name]

    def tensor(self, x: Any) -> str | None:
        """The name of a parameter, a buffer or a new constant; None for None."""
        if x is None:
            return None
        if not isinstance(x, Constant):
            raise RefusedError("an operation with a weight or size that depends on the input")
        if x.name:
            return x.name
        key = id(x.value)
        if key not in self._names:
            name = f"{self.prefix}.{len(self.constants)}"
            self.constants[name] = _as_finite_float(x.value)
            self._names[key] = name, x.value  # which keeps the value, and so its id, alive
        return self._names[key][0]


def _as_finite_float(value: Tensor) -> Tensor:
    floats = value.detach().float()
    return torch.where(floats == -torch.inf, _SMALLEST, floats).contiguous()


def shape_of(node: fx.Node) -> Shape:
    """The shape of a node's result, the batch as negative numbers.

    Raises:
        RefusedError: a size that is no multiple of the batch.
    """
    return tuple(map(_size, node.meta["val"].shape))


def _size(size: Any) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    if len(symbols) == 1:
        factor = expression.subs(symbols[0], 1)
        if factor.is_Integer and factor > 0 and expression == factor * symbols[0]:
            return -int(factor)
    raise RefusedError(f"a size of {expression}, which is no multiple of the batch")


def number(x: Any) -> float:
    """A number of the arguments as a float.

    Raises:
        RefusedError: it is a tensor, or depends on the batch.
    """
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise RefusedError("an operation with a tensor in the place of a number")
    return float(x)


# Converters: each appends the operations of one of PyTorch's, and returns its result.

Converter = Callable[[Builder, fx.Node, dict[str, Any]], Any]
CONVERTERS: dict[str, Converter] = {}


def _converts(*names: str) -> Callable[[Converter], Converter]:
    def register(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(names, function))
        return function

    return register


def _ints(values: Any, count: int) -> tuple[int, ...]:
    """A list of numbers, or one for all axes."""
    numbers = [values] if isinstance(values, int) else list(values)
    return tuple(numbers * count if len(numbers) == 1 else numbers)


def _dims(node: fx.Node) -> int:
    """Spatial axes of a node's result."""
    return len(node.meta["val"].shape) - 2


def _first(node: fx.Node) -> Shape:
    """The shape of a node's first input."""
    return shape_of(node.args[0])  # type: ignore[arg-type]


@_converts("conv1d", "conv2d", "conv3d")
def _conv(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    axes, x = _dims(node), a["input"]
    padding, dilation = a["padding"], _ints(a["dilation"], axes)
    if padding == "same":
        kernel = shape_of(node.args[1])[2:]  # type: ignore[arg-type]
        x, padding = _padded_same(t, x, kernel, dilation)
    if padding == "valid":
        padding = 0
    attributes = (_ints(a["stride"], axes), _ints(padding, axes), dilation, a["groups"])
    tensors = (t.tensor(a["weight"]), t.tensor(a["bias"]))
    return t.add("conv", x, tensors=tensors, attributes=attributes)


def _padded_same(
    t: Builder, x: Any, kernel: Shape, dilation: tuple[int, ...]
) -> tuple[Any, tuple[int, ...]]:
    """The input, and the padding on both sides that keeps the size of maps; where these differ, the
    input is padded itself.
    """
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if all(more % 2 == 0 for more in total):
        return x, tuple(more // 2 for more in total)
    pads = [0, 0, 0, 0]
    for more in total:
        pads += [more // 2, more - more // 2]
    return t.add("pad", x, attributes=(tuple(pads), "constant", 0.0)), (0,) * len(total)


@_converts("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    names = ("stride", "padding", "output_padding", "dilation")
    attributes = [_ints(a[name], _dims(node)) for name in names]
    tensors = (t.tensor(a["weight"]), t.tensor(a["bias"]))
    return t.add(
        "conv_transpose", a["input"], tensors=tensors, attributes=(*attributes, a["groups"])
    )


@_converts("linear")
def _linear(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("linear", a["input"], tensors=(t.tensor(a["weight"]), t.tensor(a["bias"])))


@_converts("embedding")
def _embedding(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("embedding", a["indices"], tensors=(t.tensor(a["weight"]),))


@_converts("batch_norm")
def _batch_norm(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    if a["training"] or a["running_mean"] is None:
        raise RefusedError("batch norm without running statistics")
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = [t.tensor(a[name]) for name in names]
    return t.add("batch_norm", a["input"], tensors=tensors, attributes=(a["eps"],))


@_converts("group_norm")
def _group_norm(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    tensors = (t.tensor(a["weight"]), t.tensor(a["bias"]))
    return t.add("group_norm", a["input"], tensors=tensors, attributes=(a["num_groups"], a["eps"]))


@_converts("instance_norm")
def _instance_norm(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    if not a["use_input_stats"]:
        names = ("weight", "bias", "running_mean", "running_var")
        statistics = [t.tensor(a[name]) for name in names]
        return t.add("batch_norm", a["input"], tensors=statistics, attributes=(a["eps"],))
    tensors = (t.tensor(a["weight"]), t.tensor(a["bias"]))
    groups = _first(node)[1]
    return t.add("group_norm", a["input"], tensors=tensors, attributes=(groups, a["eps"]))


@_converts("layer_norm")
def _layer_norm(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    tensors = (t.tensor(a["weight"]), t.tensor(a["bias"]))
    attributes = (len(a["normalized_shape"]), a["eps"])
    return t.add("layer_norm", a["input"], tensors=tensors, attributes=attributes)


@_converts("relu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid")
def _unary(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    name = node.target._schema.name.removeprefix("aten::").rstrip("_")  # type: ignore[union-attr]
    return t.add(name, a["self"])


@_converts("sign")
def _sign0(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("sign0", a["self"])


@_converts("ge")
def _ge(t: Builder, node: fx.Node, a: dict[str, Any]) -> AtLeastZero:
    if a["other"] != 0 or isinstance(a["other"], bool):
        raise RefusedError(str(node.target))
    return AtLeastZero(a["self"])


@_converts("where")
def _where(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    condition, choices = a["condition"], (a["self"], a["other"])
    if not isinstance(condition, AtLeastZero) or choices != (1, -1):
        raise RefusedError(str(node.target))
    return t.add("sign", condition.value)


@_converts("gelu")
def _gelu(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("gelu", a["self"], attributes=(a["approximate"] == "tanh",))


@_converts("leaky_relu")
def _leaky_relu(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("leaky_relu", a["self"], attributes=(number(a["negative_slope"]),))


@_converts("elu")
def _elu(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    if a["scale"] != 1 or a["input_scale"] != 1:
        raise RefusedError(str(node.target))
    return t.add("elu", a["self"], attributes=(number(a["alpha"]),))


@_converts("clamp", "hardtanh", "relu6", "clamp_min", "clamp_max")
def _clamp(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    is_relu6 = "relu6" in str(node.target)
    low = 0.0 if is_relu6 else a.get("min", a.get("min_val"))
    high = 6.0 if is_relu6 else a.get("max", a.get("max_val"))
    bounds = [None if bound is None else number(bound) for bound in (low, high)]
    return t.add("clamp", a["self"], attributes=bounds)


@_converts("softmax", "log_softmax")
def _softmax(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    name = "log_softmax" if "log_softmax" in str(node.target) else "softmax"
    return t.add(name, a["self"], attributes=(a["dim"] % len(_first(node)),))


@_converts("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    axes = _dims(node)
    kernel = _ints(a["kernel_size"], axes)
    stride = _ints(a["stride"] or kernel, axes)
    rest = (_ints(a["padding"], axes), _ints(a["dilation"], axes), a["ceil_mode"])
    return t.add("max_pool", a["self"], attributes=(kernel, stride, *rest))


@_converts("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    axes = _dims(node)
    if a.get("divisor_override") is not None:
        raise RefusedError(f"{node.target} with another divisor")
    kernel = _ints(a["kernel_size"], axes)
    stride, padding = _ints(a["stride"] or kernel, axes), _ints(a["padding"], axes)
    rest = (stride, padding, a["ceil_mode"], a["count_include_pad"])
    return t.add("avg_pool", a["self"], attributes=(kernel, *rest))


@_converts("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_avg_pool(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("adaptive_avg_pool", a["self"], attributes=(shape_of(node)[2:],))


@_converts("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(t: Builder, node: fx.Node, a: dict[str, Any]) -> list[Value]:
    return [
        t.add("adaptive_max_pool", a["self"], attributes=(_ints(a["output_size"], _axes(node)),))
    ]


def _axes(node: fx.Node) -> int:
    return len(_first(node)) - 2


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


@_converts("add", "sub", "rsub")
def _add(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    name = str(node.target)
    left, right, alpha = a["self"], a["other"], a["alpha"]
    if "rsub" in name:
        left, right = right, left
    factor = alpha if "add" in name else -alpha
    if _is_number(right):
        return t.add("scale", left, attributes=(1.0, float(factor * right)))
    if factor != 1:
        right = t.add("scale", right, attributes=(float(factor), 0.0))
    if _is_number(left):
        return t.add("scale", right, attributes=(1.0, float(left)))
    return t.add("add", left, right)


@_converts("mul", "div")
def _mul(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    is_div, right = "div" in str(node.target), a["other"]
    if a.get("rounding_mode") is not None:
        raise RefusedError(f"{node.target} with rounding")
    if _is_number(right):
        factor = 1 / right if is_div else right
        return t.add("scale", a["self"], attributes=(float(factor), 0.0))
    return t.add("div" if is_div else "mul", a["self"], right)


@_converts("neg")
def _neg(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("scale", a["self"], attributes=(-1.0, 0.0))


@_converts("cat", "concat", "concatenate")
def _cat(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("concat", *a["tensors"], attributes=(a["dim"] % len(shape_of(node)),))


@_converts("stack")
def _stack(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    shape = shape_of(node)
    axis = a["dim"] % len(shape)
    part = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [t.add("reshape", x, attributes=(part,)) for x in a["tensors"]]
    return t.add("concat", *parts, attributes=(axis,))


_RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as")
_PERMUTES = ("permute", "transpose", "swapaxes", "t", "movedim", "numpy_T", "mT")
MOVES = (*_RESHAPES, *_PERMUTES, "reshape_as", "expand", "expand_as")
"""Operations that a graph has on parameters too; of others with parameters alone it has the result.
"""
_IDENTITIES = ("alias", "detach", "contiguous", "dropout", "feature_dropout", "lift_fresh_copy")
VIEWS = (
    *MOVES,
    *_IDENTITIES,
    *("slice", "select", "chunk", "split", "split_with_sizes", "unbind", "narrow", "to"),
)
"""Operations whose result may lie in the memory of their input."""


@_converts(*_RESHAPES, "reshape_as")
def _reshape(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("reshape", a["self"], attributes=(shape_of(node),))


@_converts("expand", "expand_as")
def _expand(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    return t.add("expand", a["self"], attributes=(shape_of(node),))


@_converts("permute")
def _permute(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    axes = tuple(axis % len(a["dims"]) for axis in a["dims"])
    return t.add("permute", a["self"], attributes=(axes,))


@_converts("transpose", "swapaxes")
def _transpose(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    axes = list(range(len(shape_of(node))))
    first, second = (a[name] for name in a if name not in ("self", "out"))
    axes[first], axes[second] = axes[second], axes[first]
    return t.add("permute", a["self"], attributes=(tuple(axes),))


@_converts("t", "numpy_T", "mT")
def _turned(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    axes = list(range(len(shape_of(node))))
    last = axes[-2:] if "mT" in str(node.target) else axes
    return t.add("permute", a["self"], attributes=(tuple(axes[: -len(last)] + last[::-1]),))


@_converts("movedim")
def _movedim(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    count = len(shape_of(node))
    pairs = zip(_ints(a["destination"], 1), _ints(a["source"], 1), strict=True)
    moved = {to % count: source % count for to, source in pairs}
    rest = iter(axis for axis in range(count) if axis not in moved.values())
    axes = tuple(moved[axis] if axis in moved else next(rest) for axis in range(count))
    return t.add("permute", a["self"], attributes=(axes,))


@_converts(*_IDENTITIES, "clone", "dropout_", "alpha_dropout")
def _identity(t: Builder, node: fx.Node, a: dict[str, Any]) -> Any:
    if a.get("train"):
        raise RefusedError(f"{node.target} in training")
    return next(iter(a.values()))


@_converts("to", "_to_copy", "type_as")
def _converted(t: Builder, node: fx.Node, a: dict[str, Any]) -> Any:
    before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    if before.is_floating_point() != after.is_floating_point() or after.dtype == torch.bool:
        raise RefusedError(f"{node.target} to {after.dtype}")
    return a["self"]


def _sliced(t: Builder, x: Any, axis: int, start: int, stop: int, step: int = 1) -> Value:
    return t.add("slice", x, attributes=(axis, start, stop, step))


@_converts("slice", "narrow")
def _slice(t: Builder, node: fx.Node, a: dict[str, Any]) -> Any:
    shape = _first(node)
    axis = a["dim"] % len(shape)
    if shape == shape_of(node):
        return a["self"]
    start, step = a["start"] or 0, a.get("step", 1)
    start = max(0, start + shape[axis]) if start < 0 else start
    stop = start + (shape_of(node)[axis] - 1) * step + 1
    return _sliced(t, a["self"], axis, start, stop, step)


@_converts("select")
def _select(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    shape = _first(node)
    axis = a["dim"] % len(shape)
    at = int(number(a["index"])) % shape[axis]
    part = _sliced(t, a["self"], axis, at, at + 1)
    return t.add("reshape", part, attributes=(shape_of(node),))


@_converts("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "unbind")
def _split(t: Builder, node: fx.Node, a: dict[str, Any]) -> list[Value]:
    axis = a["dim"] % len(_first(node))
    is_unbound = "unbind" in str(node.target)
    parts, at = [], 0
    for result in node.meta["val"]:
        size = 1 if is_unbound else int(result.shape[axis])
        part = _sliced(t, a["self"], axis, at, at + size)
        if is_unbound:
            shape = tuple(map(_size, result.shape))
            part = t.add("reshape", part, attributes=(shape,))
        parts.append(part)
        at += size
    return parts


@_converts("mean", "sum", "amax")
def _reduce(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    count = len(_first(node))
    name = {"mean": "mean", "sum": "sum", "amax": "max"}[str(node.target).split(".")[1]]
    axes = _ints(a["dim"], 1) if a.get("dim") not in (None, []) else tuple(range(count))
    keep = bool(a.get("keepdim"))
    return t.add(name, a["self"], attributes=(tuple(axis % count for axis in axes), keep))


@_converts("matmul", "bmm", "mm")
def _matmul(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    left, right = (x for name, x in a.items() if name != "out")
    return t.add("matmul", left, right)


@_converts("pow", "square")
def _pow(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    if a.get("exponent", 2) != 2:
        raise RefusedError(f"{node.target} with exponent {a['exponent']}")
    return t.add("mul", a["self"], a["self"])


@_converts("scaled_dot_product_attention")
def _attention(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    if a["dropout_p"] or a["enable_gqa"]:
        raise RefusedError(f"{node.target} with dropout or groups of queries")
    inputs = [a["query"], a["key"], a["value"]]
    if a["attn_mask"] is not None:
        inputs.append(_mask(a["attn_mask"]))
    scale = None if a["scale"] is None else number(a["scale"])
    return t.add("attention", *inputs, attributes=(scale, a["is_causal"]))


def _mask(mask: Any) -> Any:
    """An attention mask that is added to the scores, of one that may be of flags."""
    if isinstance(mask, Constant) and mask.value.dtype == torch.bool:
        return Constant(torch.where(mask.value, 0.0, _SMALLEST))
    return mask


@_converts("masked_fill")
def _masked_fill(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    mask, value = a["mask"], a["value"]
    value = value.value.item() if isinstance(value, Constant) else number(value)
    if not isinstance(mask, Constant):
        raise RefusedError(f"{node.target} with a mask that depends on the input")
    kept = t.add("mul", a["self"], Constant(1.0 - mask.value.float()))
    return t.add("add", kept, Constant(torch.where(mask.value, max(value, _SMALLEST), 0.0)))


@_converts("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d")
def _pad(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    pads = a["pad"] if "pad" in a else a["padding"]
    given = [int(number(size)) for size in pads]
    if min(given) < 0:
        raise RefusedError(f"{node.target} with negative padding")
    pairs = [given[i : i + 2] for i in range(0, len(given), 2)][::-1]
    before = 2 * (len(shape_of(node)) - len(pairs))
    mode = a.get("mode", "reflect" if "reflection" in str(node.target) else "constant")
    all_pads = (*[0] * before, *(size for pair in pairs for size in pair))
    value = number(0.0 if a.get("value") is None else a["value"])
    return t.add("pad", a["self"], attributes=(all_pads, mode, value))


@_converts("pixel_shuffle")
def _pixel_shuffle(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    batch, _, height, width = _first(node)
    factor, (_, channels, *_sides) = a["upscale_factor"], shape_of(node)
    shape = (batch, channels, factor, factor, height, width)
    apart = t.add("reshape", a["self"], attributes=(shape,))
    turned = t.add("permute", apart, attributes=((0, 1, 4, 2, 5, 3),))
    return t.add("reshape", turned, attributes=(shape_of(node),))


@_converts("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _upsample_nearest(t: Builder, node: fx.Node, a: dict[str, Any]) -> Value:
    before, after = _first(node), shape_of(node)
    apart, wide = list(before[:2]), list(before[:2])
    for small, large in zip(before[2:], after[2:], strict=True):
        if large % small:
            raise RefusedError(f"{node.target} by a factor that is no whole number")
        apart += [small, 1]
        wide += [small, large // small]
    parted = t.add("reshape", a["input"], attributes=(tuple(apart),))
    repeated = t.add("expand", parted, attributes=(tuple(wide),))
    return t.add("reshape", repeated, attributes=(after,))
