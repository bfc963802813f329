"""What a network computes, as a list of operations in order.

It reads the plans of `plans`, step by step as `models` does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import TicketError
from .operations import Graph, Operation
from .plans import PLAIN, RESIDUAL, PlainPlan, ResidualPlan, check, parts

Float = TypeVar("Float", np.float32, np.float64)


BATCH_NORM_EPS = 1e-5
"""Epsilon of every batch norm of the registry's networks."""


@dataclass(frozen=True)
class Node:
    """One operation on float maps: those of the registry's networks, and all that the engine has.

    Attributes:
        op: "input"; "conv", zero-padded, with a bias if the state has one; "norm", batch norm with
            its running statistics; "relu"; "sign", with sign(0) = 1; "sign0", with sign(0) = 0;
            "max_pool", whose padding never wins; "avg_pool"; "add"; "flatten", [channels, height,
            width] to channels in C order.
        inputs: indices of earlier nodes.
        shape: of the result: channels, height, width.
        name: conv, norm: prefix of their entries in the state dict. Two norms may have the same.
        kernel, stride, padding: conv and pools; an incomplete window at the end is left out.
        eps: norm.
    """

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    name: str = ""
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    eps: float = BATCH_NORM_EPS


def deviation(variance: NDArray[Float], name: str, eps: float = BATCH_NORM_EPS) -> NDArray[Float]:
    """The divisor of a batch norm: the square root of its running variance and epsilon.

    Args:
        variance: [C], float32 or float64.
        name: of the batch norm, for the message.
        eps: of the batch norm.

    Returns:
        [C], of the same dtype.

    Raises:
        TicketError: a divisor is not a positive number.
    """
    raised = variance + variance.dtype.type(eps)
    if not (raised > 0).all() or not np.isfinite(raised).all():
        raise TicketError(
            f"{name}.running_var: a variance is negative or not finite; the ticket cannot be"
            " computed"
        )
    root: NDArray[Float] = np.sqrt(raised)
    return root


def graph_of(network: Mapping[str, Any] | None) -> list[Node]:
    """The operations of a network; the last node is the output, of shape (outputs, 1, 1).

    Args:
        network: `Ticket.network`: the arguments of `biprop.models.build.build`.

    Raises:
        TicketError: a network of the user's own (None), no such network, or one whose images are
            too small for it.
    """
    if network is None:
        raise TicketError(
            "of a network that biprop does not know: pack it anew with Ticket.from_model(...,"
            " example=batch), so that the ticket holds its operations"
        )
    name = network["name"]
    try:
        check(name, network["bn_type"], network["width_mult"])
    except ValueError as e:
        raise TicketError(f"its network cannot be built: {e}") from None
    graph = _Graph(network)
    if name in PLAIN:
        graph.plain(PLAIN[name])
    else:
        graph.residual(RESIDUAL[name])
    return graph.nodes


def as_operations(nodes: list[Node], names: Collection[str]) -> Graph:
    """The nodes of a network of the registry as the operations of any network.

    Args:
        nodes: of `graph_of`.
        names: of the network's tensors: a convolution has a bias, and a batch norm a weight and a
            bias, if they are there.
    """
    operations = [_operation(node, names) for node in nodes[1:]]
    outputs = nodes[-1].shape[0]
    operations.append(Operation("reshape", (len(operations),), (), ((-1, outputs),)))
    return Graph((-1, *nodes[0].shape), tuple(operations))


def _operation(node: Node, names: Collection[str]) -> Operation:
    stride, padding = (node.stride,) * 2, (node.padding,) * 2

    def tensors(*leaves: str) -> tuple[str | None, ...]:
        keys = (f"{node.name}.{leaf}" for leaf in leaves)
        is_optional = {"weight": node.op == "norm", "bias": True}
        return tuple(
            None if is_optional.get(leaf) and key not in names else key
            for leaf, key in zip(leaves, keys, strict=True)
        )

    attributes: tuple[Any, ...]
    if node.op == "conv":
        attributes = (stride, padding, (1, 1), 1)
        return Operation("conv", node.inputs, tensors("weight", "bias"), attributes)
    if node.op == "norm":
        roles = ("weight", "bias", "running_mean", "running_var")
        return Operation("batch_norm", node.inputs, tensors(*roles), (node.eps,))
    if node.op == "max_pool":
        attributes = (node.kernel, stride, padding, (1, 1), False)
        return Operation("max_pool", node.inputs, (), attributes)
    if node.op == "avg_pool":
        attributes = (node.kernel, stride, padding, False, True)
        return Operation("avg_pool", node.inputs, (), attributes)
    if node.op == "flatten":
        return Operation("reshape", node.inputs, (), ((-1, *node.shape),))
    return Operation(node.op, node.inputs)


class _Graph:
    """A graph in the making.

    Methods append operations; where they take and return numbers, these are indices of nodes.
    """

    def __init__(self, network: Mapping[str, Any]) -> None:
        self.network = network
        height, width = network["input_size"]
        self.nodes = [Node("input", (), (network["channels"], height, width))]
        if not height or not width:
            raise self.too_small()

    def too_small(self) -> TicketError:
        height, width = self.network["input_size"]
        return TicketError(
            f"its network cannot be built: images of {height} x {width} are too small for"
            f" {self.network['name']}"
        )

    def node(self, op: str, *inputs: int, name: str = "") -> int:
        """Append an operation whose result has the shape of its first input."""
        return self.append(Node(op, inputs, self.nodes[inputs[0]].shape, name))

    def append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def windows(
        self,
        op: str,
        at: int,
        kernel: tuple[int, int],
        stride: int,
        padding: int = 0,
        *,
        channels: int = 0,
        name: str = "",
    ) -> int:
        """Append a convolution to `channels`, or a pool, which keeps the number of channels."""
        before, *sides = self.nodes[at].shape
        height, width = (
            (side + 2 * padding - length) // stride + 1
            for side, length in zip(sides, kernel, strict=True)
        )
        if height < 1 or width < 1:
            raise self.too_small()
        shape = (channels or before, height, width)
        return self.append(Node(op, (at,), shape, name, kernel, stride, padding))

    def conv(self, at: int, name: str, channels: int, kernel: int, stride: int = 1) -> int:
        """Append a convolution with a square kernel, padded by half of it."""
        padding = kernel // 2
        sides = (kernel, kernel)
        return self.windows("conv", at, sides, stride, padding, channels=channels, name=name)

    def norm(self, at: int, name: str) -> int:
        return self.node("norm", at, name=name)

    def flatten(self, at: int) -> int:
        size = math.prod(self.nodes[at].shape)
        return self.append(Node("flatten", (at,), (size, 1, 1)))

    @property
    def sign(self) -> str:
        """The binary activation: the original research code's has sign(0) = 0."""
        return "sign0" if self.network["ancestor"] else "sign"

    def plain(self, plan: PlainPlan) -> None:
        """As `models.plain.PlainNet`."""
        at = self.tokens(0, "convs", parts(plan.convs), kernel=3)
        is_flat = self.nodes[at].shape[1:] == (1, 1)
        self.tokens(at if is_flat else self.flatten(at), "linear", parts(plan.head), kernel=1)

    def tokens(
        self, at: int, prefix: str, tokens: Sequence[str | tuple[str, ...]], kernel: int
    ) -> int:
        """Append the operations of a plan's tokens, each named by its place."""
        for number, token in enumerate(tokens):
            name = f"{prefix}.{number}"
            if isinstance(token, tuple):
                at = self.node("add", self.tokens(at, name, token, kernel), at)
            else:
                at = self.token(at, name, token, kernel)
        return at

    def token(self, at: int, name: str, token: str, kernel: int) -> int:
        if token == "M":
            return self.windows("max_pool", at, (2, 2), 2)
        if token == "G":
            _, height, width = self.nodes[at].shape
            return self.windows("max_pool", at, (height, width), max(height, width))
        if token == "W":
            channels = 8 * self.nodes[at].shape[0]
            return self.windows("conv", at, (2, 2), 1, channels=channels, name=name)
        if token == "B":
            return self.norm(at, name)
        if token[0] == "c":
            return self.conv(at, name, self.width(token[1:]), kernel)
        return self.node({"R": "relu", "A": self.sign, "Z": "sign0"}[token], at)

    def width(self, digits: str) -> int:
        """Channels of a convolution: as its token has them, or else one for each class."""
        if not digits:
            return int(self.network["num_classes"])
        return int(int(digits) * self.network["width_mult"])

    def residual(self, plan: ResidualPlan) -> None:
        """As `models.resnet.ResNet`."""
        activation = self.sign if plan.binary else "relu"
        at = self.stem(plan, activation)
        at = self.stages(at, plan, activation)
        if plan.kind == "preact":
            at = self.node(activation, self.norm(at, "bn1"))
        at = self.last_pool(at, plan)
        at = self.conv(at, "fc", self.network["num_classes"], 1)
        if self.nodes[at].shape[1:] != (1, 1):
            self.flatten(at)

    def stem(self, plan: ResidualPlan, activation: str) -> int:
        kernel, stride = (7, 2) if plan.imagenet else (3, 1)
        at = self.conv(0, "conv1", plan.stem, kernel, stride)
        for token in plan.stem_order.split():
            if token == "M":
                at = self.windows("max_pool", at, (3, 3), 2, 1)
            elif token == "B":
                at = self.norm(at, "bn1")
            else:
                at = self.node(activation, at)
        return at

    def stages(self, at: int, plan: ResidualPlan, activation: str) -> int:
        block = self.preact_block if plan.kind == "preact" else self.block
        widths = zip(plan.widths, plan.blocks, strict=True)
        for stage, (width, blocks) in enumerate(widths, start=1):
            for number in range(blocks):
                stride = 2 if stage > 1 and number == 0 else 1
                at = block(at, f"layer{stage}.{number}", plan, width, stride, activation)
        return at

    def last_pool(self, at: int, plan: ResidualPlan) -> int:
        """The mean of the whole map; the original research code's of windows of 4 x 4 pixels."""
        if self.network["ancestor"] and not plan.imagenet:
            return self.windows("avg_pool", at, (4, 4), 4)
        _, height, width = self.nodes[at].shape
        return self.windows("avg_pool", at, (height, width), height)

    def block(
        self, at: int, name: str, plan: ResidualPlan, width: int, stride: int, activation: str
    ) -> int:
        """As `models.resnet.Block`."""
        convs = _convolutions(plan, width, stride)
        out = at
        for i, conv in enumerate(convs, start=1):
            out = self.conv(out, f"{name}.conv{i}", *conv)
            if i < len(convs):
                out = self.node(activation, self.norm(out, f"{name}.bn{i}"))
        if plan.last_norm != "after":
            out = self.norm(out, f"{name}.bn{len(convs)}")
        projection = "downsample" if plan.imagenet else "shortcut"
        out_width, *_ = convs[-1]
        out = self.node("add", out, self.shortcut(at, f"{name}.{projection}", out_width, stride))
        if plan.last_norm != "before":
            fourth = plan.last_norm == "both" and plan.kind == "bottleneck"
            out = self.norm(out, f"{name}.bn{4 if fourth else len(convs)}")
        return self.node(activation, out)

    def preact_block(
        self, at: int, name: str, _: ResidualPlan, width: int, stride: int, activation: str
    ) -> int:
        """As `models.resnet.PreActBlock`."""
        at = self.node(activation, self.norm(at, f"{name}.bn1"))
        out = self.conv(at, f"{name}.conv1", width, 3, stride)
        out = self.node(activation, self.norm(out, f"{name}.bn2"))
        out = self.conv(out, f"{name}.conv2", width, 3)
        return self.node("add", out, self.shortcut(at, f"{name}.shortcut", width, stride))

    def shortcut(self, at: int, name: str, width: int, stride: int) -> int:
        """The identity where the shape stays, else a projection."""
        if stride == 1 and self.nodes[at].shape[0] == width:
            return at
        return self.norm(self.conv(at, f"{name}.0", width, 1, stride), f"{name}.1")


def _convolutions(plan: ResidualPlan, width: int, stride: int) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of the convolutions of a block."""
    if plan.kind == "basic":
        return [(width, 3, stride), (width, 3, 1)]
    inner = width * plan.inner
    return [(inner, 1, 1), (inner, 3, stride), (width * 4, 1, 1)]
