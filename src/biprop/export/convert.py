"""Each operation of a ticket's graph as ONNX nodes, of version 17 of the operators.

The formulas are those of docs/ticket-format.md; engine/compute.py has them in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.reference import scale_and_shift
from ..models.operations import Shape
from .builder import Builder, Step
from .pools import adaptive_pool, avg_pool, cut, max_pool, pad

Convert = Callable[[Builder, Step], str]


def _weights(b: Builder, step: Step) -> list[str]:
    """The weight, and the bias if there is one."""
    return [b.tensor(step.tensors[role]) for role in ("weight", "bias") if role in step.tensors]


def _conv(b: Builder, step: Step) -> str:
    a = step.attributes
    more = {"output_padding": a["output_padding"]} if "output_padding" in a else {}
    return b.windows(
        "ConvTranspose" if more else "Conv",
        step.inputs[0],
        *_weights(b, step),
        strides=a["stride"],
        pads=[*a["padding"], *a["padding"]],
        dilations=a["dilation"],
        group=a["groups"],
        **more,
    )


def _linear(b: Builder, step: Step) -> str:
    (x,), (weight, *bias) = step.inputs, _weights(b, step)
    if len(step.shapes[0]) == 2:
        return b.add("Gemm", x, weight, *bias, transB=1)
    out = b.add("MatMul", x, b.add("Transpose", weight, perm=[1, 0]))
    return b.add("Add", out, *bias) if bias else out


def _embedding(b: Builder, step: Step) -> str:
    return b.add("Gather", b.tensor(step.tensors["weight"]), step.inputs[0], axis=0)


def _batch_norm(b: Builder, step: Step) -> str:
    """As scale and shift: runtimes fold them into the convolution before."""
    tensors = {role: b.array(name) for role, name in step.tensors.items()}
    shape = (-1, *(1,) * (len(step.shape) - 2))
    name = step.tensors["running_var"].removesuffix(".running_var")
    numbers = scale_and_shift(step.operation, tensors)
    scale, shift = (
        b.floats(numbers[part].reshape(shape), f"{name}.{part}") for part in ("scale", "shift")
    )
    return b.add("Add", b.add("Mul", step.inputs[0], scale), shift)


def _group_norm(b: Builder, step: Step) -> str:
    """Each group is a channel of an instance norm."""
    shape, groups = step.shapes[0], step.attributes["groups"]
    numbers = math.prod(shape[1:]) // groups
    grouped = b.reshape(step.inputs[0], (shape[0], groups, numbers))
    ones, zeros = b.floats(np.ones(groups)), b.floats(np.zeros(groups))
    eps = step.attributes["eps"]
    out = b.add("InstanceNormalization", grouped, ones, zeros, epsilon=eps)
    out = b.reshape(out, shape)
    return _affine(b, step, out, (-1, *(1,) * (len(shape) - 2)))


def _affine(b: Builder, step: Step, x: str, shape: Shape) -> str:
    for role, op in (("weight", "Mul"), ("bias", "Add")):
        if role in step.tensors:
            x = b.add(op, x, b.reshape(b.tensor(step.tensors[role]), shape))
    return x


def _layer_norm(b: Builder, step: Step) -> str:
    count = step.attributes["count"]
    shape = step.shape[-count:]
    has_weight = "weight" in step.tensors
    weight = b.tensor(step.tensors["weight"]) if has_weight else b.floats(np.ones(shape))
    bias = [b.tensor(step.tensors["bias"])] if "bias" in step.tensors else []
    eps = step.attributes["eps"]
    return b.add("LayerNormalization", step.inputs[0], weight, *bias, axis=-count, epsilon=eps)


def _sign(b: Builder, step: Step) -> str:
    """+1 at 0, which ONNX's Sign has not."""
    is_positive = b.add("GreaterOrEqual", step.inputs[0], b.floats(0))
    return b.add("Where", is_positive, b.floats(1), b.floats(-1))


def _silu(b: Builder, step: Step) -> str:
    (x,) = step.inputs
    return b.add("Mul", x, b.add("Sigmoid", x))


def _gelu(b: Builder, step: Step) -> str:
    (x,) = step.inputs
    half = b.add("Mul", x, b.floats(0.5))
    if step.attributes["tanh"]:
        cube = b.add("Mul", b.add("Mul", x, x), x)
        inner = b.add("Add", x, b.add("Mul", cube, b.floats(0.044715)))
        part = b.add("Tanh", b.add("Mul", inner, b.floats(math.sqrt(2 / math.pi))))
    else:
        part = b.add("Erf", b.add("Mul", x, b.floats(math.sqrt(0.5))))
    return b.add("Mul", half, b.add("Add", part, b.floats(1)))


def _clamp(b: Builder, step: Step) -> str:
    bounds = (step.attributes["low"], step.attributes["high"])
    names = ["" if bound is None else b.floats(bound) for bound in bounds]
    return b.add("Clip", step.inputs[0], *names)


def _scale(b: Builder, step: Step) -> str:
    a = step.attributes
    return b.add("Add", b.add("Mul", step.inputs[0], b.floats(a["factor"])), b.floats(a["shift"]))


def _expand(b: Builder, step: Step) -> str:
    """Sizes that the input has already are 1 in the shape that ONNX takes."""
    (before,) = step.shapes
    aligned = (1,) * (len(step.shape) - len(before)) + before
    shape = [1 if new == old else new for new, old in zip(step.shape, aligned, strict=True)]
    return b.add("Expand", step.inputs[0], b.sizes(tuple(shape)))


def _slice(b: Builder, step: Step) -> str:
    return cut(b, step.inputs[0], **step.attributes)


def _attention(b: Builder, step: Step) -> str:
    query, key, value, *mask = step.inputs
    axes, scale = len(step.shape), step.attributes["scale"]
    factor = 1 / math.sqrt(step.shapes[0][-1]) if scale is None else scale
    turned = b.add("Transpose", key, perm=[*range(axes - 2), axes - 1, axes - 2])
    scores = b.add("Mul", b.add("MatMul", query, turned), b.floats(factor))
    if step.attributes["causal"]:
        mask = [_causal(b, step.shapes[0][-2], step.shapes[1][-2])]
    scores = b.add("Add", scores, *mask) if mask else scores
    return b.add("MatMul", b.add("Softmax", scores, axis=-1), value)


def _causal(b: Builder, queries: int, keys: int) -> str:
    """[queries, keys]: 0 where a query sees a key, else -infinity."""
    ones = b.add("Expand", b.floats(-math.inf), b.whole(queries, keys))
    return b.add("Trilu", ones, b.constant(np.asarray(1, np.int64)), upper=1)


def _reduction(op: str) -> Convert:
    def convert(b: Builder, step: Step) -> str:
        axes, keeps = list(step.attributes["axes"]), int(step.attributes["keep"])
        if op == "ReduceSum":
            return b.add(op, step.inputs[0], b.whole(*axes), keepdims=keeps)
        return b.add(op, step.inputs[0], axes=axes, keepdims=keeps)

    return convert


def _same(op: str, **more: Any) -> Convert:
    """An operation that ONNX has as well.

    Args:
        op: its name there.
        more: attributes there: numbers, or names of the ticket's attributes.
    """

    def convert(b: Builder, step: Step) -> str:
        values = {name: step.attributes.get(v, v) for name, v in more.items()}
        return b.add(op, *step.inputs, **values)

    return convert


CONVERTERS: dict[str, Convert] = {
    "tensor": lambda b, step: b.tensor(step.tensors["weight"]),
    "conv": _conv,
    "conv_transpose": _conv,
    "linear": _linear,
    "embedding": _embedding,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "relu": _same("Relu"),
    "sign": _sign,
    "sign0": _same("Sign"),
    "silu": _silu,
    "sigmoid": _same("Sigmoid"),
    "tanh": _same("Tanh"),
    "hardswish": _same("HardSwish"),
    "hardsigmoid": _same("HardSigmoid", alpha=1 / 6, beta=0.5),
    "gelu": _gelu,
    "leaky_relu": _same("LeakyRelu", alpha="slope"),
    "elu": _same("Elu", alpha="alpha"),
    "clamp": _clamp,
    "scale": _scale,
    "softmax": _same("Softmax", axis="axis"),
    "log_softmax": _same("LogSoftmax", axis="axis"),
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": adaptive_pool,
    "adaptive_max_pool": adaptive_pool,
    "add": _same("Add"),
    "mul": _same("Mul"),
    "div": _same("Div"),
    "concat": _same("Concat", axis="axis"),
    "reshape": lambda b, step: b.reshape(step.inputs[0], step.shape),
    "expand": _expand,
    "permute": _same("Transpose", perm="axes"),
    "slice": _slice,
    "pad": pad,
    "mean": _reduction("ReduceMean"),
    "sum": _reduction("ReduceSum"),
    "max": _reduction("ReduceMax"),
    "matmul": _same("MatMul"),
    "attention": _attention,
}
"""Operation -> function that adds its nodes and returns the name of the result."""
