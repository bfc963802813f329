"""An ONNX model beside the ticket: ONNX Runtime computes the same as numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.engine import normalised
from ..engine.reference import Reference
from ..errors import UserError, one_line
from ..models.operations import Operation
from ..ticket import Ticket
from .builder import INPUT, OUTPUT
from .model import Model
from .samples import TOLERANCE, random_samples, relative

Array = NDArray[np.float32]


def difference(model: Model, ticket: Ticket, reference: Reference, on_pixels: bool) -> float:
    """The greatest difference between the logits of ONNX Runtime and numpy, over their spread.

    A sum so close to 0 that rounding turns its sign makes the logits of binary activations differ
    by far more than rounding. The reference therefore takes the signs of ONNX Runtime, after it has
    compared them with its own.

    Args:
        model: of the ticket.
        ticket: to compare with.
        reference: of the ticket.
        on_pixels: as the model was made.

    Raises:
        UserError: signs of numbers that are not close to 0 differ.
    """
    images = random_samples(ticket, reference, on_pixels)
    results = run(model.proto, images, OUTPUT, model.signs.values())
    inputs = normalised(images, ticket) if on_pixels else images
    return relative(results[OUTPUT], following(ticket, inputs, model.signs, results))


def following(
    ticket: Ticket, inputs: NDArray[Any], signs: Mapping[int, str], results: Mapping[str, Array]
) -> Array:
    """What numpy computes with the binary activations of ONNX Runtime.

    Args:
        ticket: to compute.
        inputs: normalised.
        signs: names of the results of binary activations, by the number of their operation.
        results: of `run`.

    Raises:
        UserError: signs of numbers that are not close to 0 differ.
    """
    theirs = {number: results[name] for number, name in signs.items()}
    return _Following(ticket, theirs).run_once(inputs)


def run(
    model: Any, images: NDArray[Any], output: str, more: Iterable[str] = ()
) -> dict[str, Array]:
    """What ONNX Runtime computes.

    Args:
        model: `onnx.ModelProto`.
        images: its input.
        output: the name of its output.
        more: names of other values.

    Returns:
        Arrays by name.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    proto = type(model)()
    proto.CopyFrom(model)
    for name in set(more) - {output}:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content, providers = proto.SerializeToString(), ["CPUExecutionProvider"]
    names = [value.name for value in proto.graph.output]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
        values = session.run(names, {INPUT: images})
    except Exception as e:  # of several kinds
        raise UserError(f"onnxruntime cannot run the model: {one_line(e)}") from None
    return dict(zip(names, values, strict=True))


class _Following(Reference):
    """The reference with the results of binary activations of another runtime.

    Args:
        ticket: to compute.
        signs: by the number of the operation.
    """

    def __init__(self, ticket: Ticket, signs: dict[int, Array]) -> None:
        super().__init__(ticket)
        self._signs = signs

    def run_once(self, samples: NDArray[Any]) -> Array:
        """The output for samples that were run there, all at once."""
        return self._run(samples)

    def _apply(self, number: int, inputs: list[NDArray[Any]], batch: int) -> Array:
        result = super()._apply(number, inputs, batch)
        if number not in self._signs:
            return result
        theirs = self._signs[number]
        _check_signs(self.graph.operations[number - 1], number, inputs[0], result, theirs)
        return theirs


def _check_signs(
    operation: Operation, number: int, sums: Array, ours: Array, theirs: Array
) -> None:
    is_close = np.abs(sums) <= TOLERANCE * np.abs(sums).max()
    wrong = int(np.count_nonzero((ours != theirs) & ~is_close))
    if wrong:
        raise UserError(
            f"operation {number}, {operation.op}: {wrong} of {ours.size} signs differ in ONNX"
            " Runtime"
        )
