"""An ONNX model beside the ticket: ONNX Runtime computes the same as numpy."""

from __future__ import annotations

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
    logits, signs = _run(model, images)
    inputs = normalised(images, ticket) if on_pixels else images
    expected = _Following(ticket, signs).run_once(inputs)
    return relative(logits, expected)


def _run(model: Model, images: NDArray[Any]) -> tuple[Array, dict[int, Array]]:
    """The logits of ONNX Runtime, and the results of binary activations by operation."""
    import onnxruntime
    from onnx import TensorProto, helper

    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    for name in set(model.signs.values()) - {OUTPUT}:
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
    results = dict(zip(names, values, strict=True))
    return results[OUTPUT], {number: results[name] for number, name in model.signs.items()}


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
