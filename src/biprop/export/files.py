"""Writes exported files, after it has compared them with the ticket."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.reference import Reference
from ..errors import TicketError, UserError, one_line
from ..ticket import Ticket, container
from .samples import check_difference, input_kind, random_samples, relative

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        size: in bytes.
        input: what the network takes, in a few words.
        difference: greatest difference between the logits of the file and those of the ticket for
            random images, over the spread of the logits; None where no runtime is installed.
    """

    size: int
    input: str
    difference: float | None


def save_onnx(ticket: Ticket, path: str | Path, on_pixels: bool | None = None) -> Exported:
    """Write a ticket as an ONNX model, with five masked weights a byte.

    It is checked by ONNX's checker and, where onnxruntime is installed, compared with the ticket.

    Args:
        ticket: of one of biprop's networks (`biprop list networks`), or with a graph.
        path: of the file.
        on_pixels: the model takes pixels in [0, 1] and normalises them itself; else it takes what
            was normalised by the ticket's mean and standard deviation. None: where the ticket has
            them.

    Raises:
        TicketError: the ticket cannot be computed, or has no normalisation for `on_pixels`.
        UserError: onnx is not installed; the model computes something else than the ticket; the
            file cannot be written.
    """
    is_on_pixels = _on_pixels(ticket, on_pixels)
    if not is_installed("onnx"):
        raise UserError("onnx is not installed: pip install 'biprop[onnx]'")
    from .model import content_of, make_model

    reference = Reference(ticket)
    model = make_model(ticket, reference, is_on_pixels)
    difference = None
    if is_installed("onnxruntime"):
        from . import check

        difference = check.difference(model, ticket, reference, is_on_pixels)
        check_difference(difference)
    return Exported(
        container.save(path, content_of(model.proto)), input_kind(ticket, is_on_pixels), difference
    )


def save_pt2(ticket: Ticket, path: str | Path, on_pixels: bool | None = None) -> Exported:
    """Write a ticket as a program of `torch.export`, with float32 weights, for any batch size.

    It is loaded again and compared with `Ticket.to_model` before it is written.

    Args:
        ticket: of one of biprop's networks (`biprop list networks`), or with a graph.
        path: of the file, which `torch.export.load` reads.
        on_pixels: as for `save_onnx`.

    Raises:
        TicketError: the ticket cannot be computed, or has no normalisation for `on_pixels`.
        UserError: PyTorch cannot export the network, or the program computes something else; the
            file cannot be written.
    """
    import torch

    is_on_pixels = _on_pixels(ticket, on_pixels)
    model = ticket.to_model(on_pixels=is_on_pixels)
    samples = torch.from_numpy(random_samples(ticket, Reference(ticket), is_on_pixels))
    content = _program(model, samples[:2])
    with torch.no_grad():
        module = torch.export.load(io.BytesIO(content)).module()
        logits, expected = module(samples), model(samples)
    difference = relative(logits.numpy(), expected.numpy())
    check_difference(difference)
    return Exported(container.save(path, content), input_kind(ticket, is_on_pixels), difference)


def _program(model: nn.Module, batch: Tensor) -> bytes:
    """The bytes of an exported program."""
    import torch

    content = io.BytesIO()
    try:
        with torch.no_grad():
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(model, (batch,), dynamic_shapes=shapes, strict=False)
        torch.export.save(program, content)
    except Exception as e:  # whatever PyTorch raises
        raise UserError(f"PyTorch cannot export the network: {one_line(e)}") from None
    return content.getvalue()


def is_installed(package: str) -> bool:
    """Whether a package is installed; it is not loaded."""
    return importlib.util.find_spec(package) is not None


def _on_pixels(ticket: Ticket, on_pixels: bool | None) -> bool:
    """Whether the exported network normalises its input."""
    takes_indices = ticket.graph is not None and ticket.graph.indices
    has_normalisation = bool(ticket.mean) and not takes_indices
    if on_pixels and not has_normalisation:
        raise TicketError("the ticket has no normalisation: leave on_pixels out")
    return has_normalisation if on_pixels is None else on_pixels
