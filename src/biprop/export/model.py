"""A ticket as an ONNX model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper

from .. import __version__
from ..engine.reference import Reference
from ..errors import UserError, one_line
from ..models.operations import Operation, Shape
from ..ticket import Ticket
from .builder import INPUT, OUTPUT, Builder, Step
from .convert import CONVERTERS
from .samples import input_kind

OPSET = 17
"""Version of ONNX's operators: the first with LayerNormalization."""
_IR_VERSION = 8
"""Version of the file format that came with it."""
_MOST_BYTES = (1 << 31) - 1
"""Limit of protobuf."""
_BATCH = "batch"


@dataclass
class Model:
    """A ticket as an ONNX model.

    Attributes:
        proto: the model, `onnx.ModelProto`.
        signs: names of the values that are results of binary activations, by the number of their
            operation in the ticket's graph, from 1.
    """

    proto: Any
    signs: dict[int, str]


def content_of(proto: Any) -> bytes:
    """The bytes of a model's file.

    Raises:
        UserError: they are more than a file of this kind can have.
    """
    if (size := proto.ByteSize()) > _MOST_BYTES:
        raise UserError(f"the model takes {size:,} bytes: an ONNX file has at most 2 GiB")
    return bytes(proto.SerializeToString(deterministic=True))


def make_model(ticket: Ticket, reference: Reference, on_pixels: bool) -> Model:
    """The ONNX model of a ticket, which the checker of ONNX accepts.

    Its input "images" is float32 (int64, where the network embeds whole numbers) [batch, ...], its
    output "logits" float32 [batch, ...].

    Args:
        ticket: of a network of the registry, or with a graph.
        reference: of the ticket.
        on_pixels: the model takes pixels in [0, 1], and normalises them by the ticket's mean and
            standard deviation.

    Raises:
        UserError: an operation has no converter, or the model is too large.
    """
    b = Builder(ticket)
    names = add_network(b, reference, on_pixels)
    takes = tensor_info(INPUT, reference.graph.input, reference.graph.indices)
    gives = tensor_info(OUTPUT, reference.shapes[-1])
    name_output(b, names[-1], OUTPUT)
    proto = checked_proto(b, "ticket", takes, gives, _metadata(ticket, on_pixels))
    return Model(proto, signs_of(reference, [*names[:-1], OUTPUT]))


def signs_of(reference: Reference, names: list[str]) -> dict[int, str]:
    """Names of the results of binary activations, by the number of their operation.

    Args:
        reference: of a ticket.
        names: of the values of its graph, from `add_network`.
    """
    operations = enumerate(reference.graph.operations, start=1)
    return {number: names[number] for number, o in operations if o.op in ("sign", "sign0")}


def name_output(b: Builder, value: str, output: str) -> None:
    """Rename the last value, which no node reads, to that of the model's output."""
    if b.nodes[-1].output[0] != value:
        b.add("Identity", value)
    b.nodes[-1].output[0] = output


def checked_proto(b: Builder, name: str, takes: Any, gives: Any, metadata: dict[str, str]) -> Any:
    """The model of what a builder collected, after ONNX's checker has accepted it.

    Args:
        b: has all nodes.
        name: of the graph.
        takes, gives: input and output, from `tensor_info`.
        metadata: entries of metadata_props.

    Raises:
        UserError: the checker refuses it, or it is too large.
    """
    graph = helper.make_graph(b.nodes, name, [takes], [gives], b.initialisers)
    opsets = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(graph, opset_imports=opsets, producer_name="biprop")
    proto.ir_version, proto.producer_version = _IR_VERSION, __version__
    helper.set_model_props(proto, metadata)
    content_of(proto)
    try:
        checker.check_model(proto, full_check=True)
    except Exception as e:  # of several kinds, also of shape inference
        raise UserError(f"ONNX's checker refuses the model: {one_line(e)}") from None
    return proto


def add_network(b: Builder, reference: Reference, on_pixels: bool) -> list[str]:
    """Add the nodes of all operations of a ticket; returns the names of its graph's values.

    Args:
        b: of the ticket.
        reference: of the ticket.
        on_pixels: normalise the input before.

    Raises:
        UserError: an operation has no converter.
    """
    names = [_normalised(b, len(reference.graph.input)) if on_pixels else INPUT]
    shapes = reference.shapes
    for number, operation in enumerate(reference.graph.operations, start=1):
        b.place = f"{number}.{_module_of(operation)}"
        inputs = [names[i] for i in operation.inputs]
        step = Step(operation, inputs, [shapes[i] for i in operation.inputs], shapes[number])
        if operation.op not in CONVERTERS:
            raise UserError(f"operation {number}, {operation.op}: it cannot be exported to ONNX")
        names.append(CONVERTERS[operation.op](b, step))
    return names


def _module_of(operation: Operation) -> str:
    """The name of the module that an operation belongs to, as far as its tensors say; else what it
    computes.
    """
    names = [name.rpartition(".")[0] for name in operation.tensors if name]
    return next(iter(names), "") or operation.op


def _normalised(b: Builder, axes: int) -> str:
    """Pixels in [0, 1], normalised as the network was trained."""
    b.place = "normalisation"
    shape = (-1, *(1,) * (axes - 2))
    mean, std = (
        b.floats(np.asarray(numbers, np.float32).reshape(shape), f"normalisation.{name}")
        for name, numbers in (("mean", b.ticket.mean), ("std", b.ticket.std))
    )
    return b.add("Div", b.add("Sub", INPUT, mean), std)


def tensor_info(name: str, shape: Shape, is_whole: bool = False) -> Any:
    """The type of an input or output whose first axis is the batch."""
    kind = TensorProto.INT64 if is_whole else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, [_BATCH, *shape[1:]])


def _metadata(ticket: Ticket, on_pixels: bool) -> dict[str, str]:
    """Entries of metadata_props: JSON, but for the words of "input"."""
    named = {"classes": ticket.classes, "mean": ticket.mean, "std": ticket.std}
    about = {"input": input_kind(ticket, on_pixels)}
    if ticket.network:
        about["network"] = ticket.network["name"]
    return about | {name: json.dumps(list(value)) for name, value in named.items()}
