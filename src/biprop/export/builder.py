"""An ONNX graph in the making: nodes, initialisers and their names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..models.operations import Operation, Shape
from ..ticket import Layer, Ticket
from .packing import PER_BYTE, pack, table

INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True)
class Step:
    """One operation of a ticket's graph, where its nodes are made.

    Attributes:
        operation: of the graph.
        inputs: names of the values that it reads, in the ONNX graph.
        shapes: of these values; sizes below 0 depend on the batch.
        shape: of the result.
    """

    operation: Operation
    inputs: Sequence[str]
    shapes: Sequence[Shape]
    shape: Shape

    @property
    def attributes(self) -> dict[str, Any]:
        """By name."""
        return self.operation.named

    @property
    def tensors(self) -> Mapping[str, str]:
        """Names of the ticket's tensors by their role."""
        return self.operation.tensor_of


class Builder:
    """Collects nodes and initialisers. Every method that returns a name returns that of a value.

    Args:
        ticket: whose weights the graph has.

    Attributes:
        nodes: in order, as protobuf messages.
        initialisers: as protobuf messages.
        place: the names of new nodes begin with it; empty: they have none.
    """

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self.place = ""
        self._masked = {layer.key: layer for layer in ticket.layers}
        self._names = {INPUT, OUTPUT, ""}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._tensors: dict[str, str] = {}
        self._batch = self._table = ""

    def for_card(self, ticket: Ticket) -> Builder:
        """A builder of another ticket's part of the same graph."""
        other = copy.copy(self)
        other.ticket = ticket
        other._masked = {layer.key: layer for layer in ticket.layers}
        other._tensors = {}
        return other

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        output = self._new_name(f"v{len(self.nodes)}")  # each name is in the file twice or more
        name = self._new_name(f"{self.place}/{op}") if self.place else None
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def constant(self, array: NDArray[Any], name: str = "") -> str:
        """An initialiser; equal ones are stored once."""
        key = (array.tobytes(), array.dtype.str, array.shape)
        if key not in self._constants:
            self._constants[key] = self._new_name(name or f"c{len(self.initialisers)}")
            tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
            tensor.name = self._constants[key]
            self.initialisers.append(tensor)
        return self._constants[key]

    def floats(self, numbers: Any, name: str = "") -> str:
        """An initialiser of float32."""
        return self.constant(np.asarray(numbers, np.float32), name)

    def whole(self, *numbers: int) -> str:
        """A vector of int64, as shapes and axes are."""
        return self.constant(np.asarray(numbers, np.int64))

    def windows(self, op: str, *inputs: str, pads: Sequence[int], **attributes: Any) -> str:
        """A convolution or a pool; what ONNX assumes anyway is left out: bytes.

        Args:
            op: of ONNX.
            inputs: names.
            pads: borders before all sides, then after all.
            attributes: of the operation, beside the pads.
        """
        if any(pads):
            attributes["pads"] = pads
        for name in ("strides", "dilations"):
            if name in attributes and set(attributes[name]) == {1}:
                del attributes[name]
        if attributes.get("group") == 1:
            del attributes["group"]
        return self.add(op, *inputs, **attributes)

    def tensor(self, name: str) -> str:
        """A tensor of the ticket by its name in the state dict; of a masked weight it is packed."""
        if name not in self._tensors:
            layer = self._masked.get(name)
            self._tensors[name] = (
                self.floats(self.ticket.state[name], name)
                if layer is None
                else self._unpacked(layer)
            )
        return self._tensors[name]

    def array(self, name: str) -> NDArray[np.float32]:
        """The numbers of a tensor of the ticket."""
        layer = self._masked.get(name)
        return self.ticket.state[name] if layer is None else self.ticket.weight(layer)

    def _unpacked(self, layer: Layer) -> str:
        """The weight of a masked layer. These nodes depend on no input: a runtime computes them
        once, when it loads the file.
        """
        before, self.place = self.place, ""
        packed = self.constant(pack(np.sign(self.ticket.weight(layer))), f"{layer.key}.packed")
        rows = self.add("Mul", self._rows(), self.floats(layer.gain))
        codes = self.add("Cast", packed, to=TensorProto.INT32)
        weights = self.add("Gather", rows, codes, axis=0)
        if layer.weights % PER_BYTE:
            flat = self.add("Reshape", weights, self.whole(-1))
            weights = self.add("Slice", flat, self.whole(0), self.whole(layer.weights))
        weight = self.add("Reshape", weights, self.whole(*layer.shape))
        self.place = before
        return weight

    def _rows(self) -> str:
        """[243, 5] float32: the signs of each byte."""
        if not self._table:
            self._table = self.add(
                "Cast", self.constant(table(), "signs_of_byte"), to=TensorProto.FLOAT
            )
        return self._table

    def reshape(self, x: str, shape: Shape) -> str:
        """`x` in a shape whose size below 0 depends on the batch."""
        return self.add("Reshape", x, self.whole(*(max(size, -1) for size in shape)))

    def sizes(self, shape: Shape) -> str:
        """A shape, as a vector that is computed where a size depends on the batch."""
        if min(shape, default=0) >= 0:
            return self.whole(*shape)
        if not self._batch:
            self._batch = self.add("Shape", INPUT, start=0, end=1)
        parts = [
            self.whole(size) if size >= 0 else self.add("Mul", self._batch, self.whole(-size))
            for size in shape
        ]
        return self.add("Concat", *parts, axis=0)

    def _new_name(self, name: str) -> str:
        """A name that nothing in the graph has."""
        number, unique = 1, name
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique
