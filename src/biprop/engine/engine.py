"""Runs tickets without PyTorch: `Engine(ticket).run(images)` gives logits.

Kernels: csrc/engine; how: docs/engine.md.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import native
from ..errors import UserError, integer
from ..files import replacing
from ..ticket import Ticket, TicketError
from .lower import lower
from .reference import Reference

Layout = Literal["NCHW", "NHWC"]
_TOO_LARGE, _NOT_FINITE = 6, 4  # of include/biprop.h
_MOST_THREADS = 1024
_FLOAT32 = np.dtype(np.float32)
_SMALL = 1 << 16  # bytes of images


@dataclass(frozen=True)
class Step:
    """One operation of a compiled network.

    Attributes:
        operation: kind, kernel size and stride, as in "conv 3x3/1".
        input, output: shapes, and whether they are bits or floats.
        kernel: who computes it.
        cycles: estimated for an image; what the kernel was chosen by.
        microseconds: measured for an image, on blank images.
    """

    operation: str
    input: str
    output: str
    kernel: str
    cycles: float
    microseconds: float


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instruction_sets() -> list[str]:
    """Those that this machine has and the engine was compiled for, best first; empty without a
    compiled core.
    """
    core = _core()
    return core.biprop_instruction_sets().decode().split() if core else []


class Engine:
    """A ticket that is ready to run.

    Many threads may use it at once; its results do not depend on the number of threads.

    Args:
        ticket: a ticket of one of biprop's own networks, or the path of its file.
        threads: that one call uses, at most the processors that this process may use.
        instruction_set: one of `instruction_sets()`; None takes the one that BIPROP_ISA in the
            environment names, else the best.
        calibration: images as for `run`, some dozens of the kind to come: activations that are not
            bits become 8-bit numbers for the ranges that they have on these. Faster and a little
            less exact; for MPT-1/32.

    Attributes:
        ticket: what runs.
        shape: of an image: (channels, height, width).
        outputs: how many logits an image has.
        compiled: False where there is no compiled core, or a layer is too wide for it, and numpy
            computes instead.

    Raises:
        TicketError: no such file, a damaged one, or a network that the engine does not know.
        UserError: a wrong number of threads, or an instruction set that this machine has not.
    """

    def __init__(
        self,
        ticket: Ticket | str | Path,
        threads: int = 1,
        instruction_set: str | None = None,
        calibration: NDArray[Any] | None = None,
    ) -> None:
        self._core, self._network = _core(), ctypes.c_void_p()
        self.ticket = ticket if isinstance(ticket, Ticket) else Ticket.load(ticket)
        threads = integer(threads, "threads")
        if not 1 <= threads <= min(cores(), _MOST_THREADS):
            raise UserError(
                f"threads = {threads}: must be 1 .. {cores()}, the processors that this process"
                " may use"
            )
        if instruction_set is not None and instruction_set not in instruction_sets():
            raise UserError(
                f"instruction set {instruction_set!r}: this machine has"
                f" {', '.join(instruction_sets()) or 'no compiled core'}"
            )
        try:
            self._program = lower(self.ticket)
        except TicketError as e:
            raise e if isinstance(ticket, Ticket) else TicketError(f"{ticket}: {e}") from None
        self.threads, self._instruction_set = threads, instruction_set
        self._reference: Reference | None = None
        why, self._too_large = "there is no compiled core" if self._core is None else "", ""
        if self._core:
            name = (instruction_set or "").encode()
            error = self._core.biprop_load_with(
                self._program, len(self._program), threads, name, ctypes.byref(self._network)
            )
            if error == _TOO_LARGE:
                why = self._too_large = self._core.biprop_message(error).decode()
            else:
                self._check(error)
        if why:
            warnings.warn(f"{why}: numpy runs this network, slowly", RuntimeWarning, stacklevel=2)
            self._reference = Reference(self.ticket)
        network = self.ticket.network or {}
        channels, (height, width) = network["channels"], network["input_size"]
        self.shape: tuple[int, int, int] = (channels, height, width)
        self._shapes: dict[tuple[int, ...], Layout] = {
            (height, width, channels): "NHWC",
            (channels, height, width): "NCHW",
        }
        self.outputs = self._reference.outputs if self._reference else self._outputs()
        self._row = ctypes.c_float * self.outputs
        self._calibration: tuple[NDArray[Any], Layout] | None = None  # for copies
        if calibration is not None and self._core and not self._reference:
            pixels, layout = self._pixels(np.asarray(calibration), None)
            if not len(pixels):
                raise UserError(
                    "calibration: no images; pass some dozens of the kind that the network will see"
                )
            self._calibration = pixels.copy(), layout
            pixels = (
                pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
            )
            self._check(
                self._core.biprop_calibrate(
                    self._network, pixels.ctypes.data, len(pixels), int(layout == "NHWC")
                )
            )

    @property
    def compiled(self) -> bool:
        return self._reference is None

    def run(self, images: NDArray[Any], layout: Layout | None = None) -> NDArray[np.float32]:
        """The logits of images; normalisation is the ticket's.

        Args:
            images: [B, C, H, W] or [B, H, W, C], or one image without B (one of grey also without
                C): uint8 of 0 .. 255, or floats of 0 .. 1 (any finite numbers if the ticket has no
                normalisation). B may be 0.
            layout: needed where the shape leaves it open; None looks at the shape.

        Returns:
            [B, outputs] float32.

        Raises:
            UserError: images of another shape or type, out of range, or not finite.
        """
        pixels, layout = self._pixels(np.asarray(images), layout)
        if self._reference:
            return self._reference.run(
                normalised(
                    pixels.transpose(0, 3, 1, 2) if layout == "NHWC" else pixels, self.ticket
                )
            )
        assert self._core
        count = len(pixels)
        logits = (self._row * count)()
        function = self._core.biprop_run_u8 if pixels.itemsize == 1 else self._core.biprop_run_f32
        # Beside a network of 0.1 ms, asking numpy for an address takes longer (6 microseconds) than
        # copying an image (2).
        source = pixels.tobytes() if pixels.nbytes < _SMALL else pixels.ctypes.data
        self._check(function(self._network, source, count, layout == "NHWC", logits))
        return np.ndarray((count, self.outputs), _FLOAT32, logits)  # type: ignore[arg-type]  # ctypes has buffers

    def as_bytes(self, images: NDArray[Any], layout: Layout | None = None) -> NDArray[np.uint8]:
        """Images as `run` takes them, as uint8 [B, C, H, W]; floats are rounded.

        Raises as `run` does.
        """
        pixels, layout = self._pixels(np.asarray(images), layout)
        pixels = pixels.transpose(0, 3, 1, 2) if layout == "NHWC" else pixels
        return (
            pixels
            if pixels.dtype == np.uint8
            else (pixels * 255).round().clip(0, 255).astype(np.uint8)
        )

    def explain(self, batch: int = 1) -> tuple[str, int, list[Step]]:
        """Which kernels run a batch: the instruction set, how many images go together, and the
        steps.

        Raises:
            UserError: the network is not compiled.
        """
        batch = integer(batch, "batch")
        if not self._core or self._reference:
            raise UserError("numpy runs this network: there are no kernels to explain")
        text = ctypes.create_string_buffer(
            self._core.biprop_explain(self._network, batch, None, 0) + 4096
        )
        self._core.biprop_explain(self._network, batch, text, len(text))
        head, *lines = text.value.decode().splitlines()
        name, group = head.split("\t")
        rows = [line.split("\t") for line in lines]
        return name, int(group), [Step(a, b, c, d, float(e), float(f)) for a, b, c, d, e, f in rows]

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes that the compiled network holds: in all, and of those the ones for activations
        (none before it has run).
        """
        if not self._core or self._reference:
            return 0, 0
        working = ctypes.c_size_t()
        return int(self._core.biprop_memory(self._network, ctypes.byref(working))), working.value

    def save_program(self, path: str | Path) -> int:
        """Write what the C interface (include/biprop.h) loads; returns its size in bytes.

        Raises:
            UserError: it cannot be written, or the core could not load it.
        """
        if self._too_large:
            raise UserError(f"{path}: not written, as no core could load it: {self._too_large}")
        try:
            with replacing(Path(path)) as file:
                file.write(self._program)
        except OSError as e:
            raise UserError(f"{path}: cannot be written: {e.strerror}") from None
        return len(self._program)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, pickles and processes that are spawned make an engine of their own, from the
        ticket's bytes.
        """
        return _again, (
            self.ticket.to_bytes(),
            self.threads,
            self._instruction_set,
            self._calibration,
        )

    def __del__(self) -> None:
        core, network = getattr(self, "_core", None), getattr(self, "_network", None)
        if core and network:
            core.biprop_free(network)

    def _outputs(self) -> int:
        assert self._core
        numbers = [ctypes.c_int() for _ in range(4)]
        self._core.biprop_shape(self._network, *map(ctypes.byref, numbers))
        return numbers[3].value

    def _check(self, error: int) -> None:
        if not error:
            return
        assert self._core
        message = self._core.biprop_message(error).decode()
        if error == _NOT_FINITE:
            raise UserError(f"images: {message}; every pixel must be a number")
        if error == 5:
            raise MemoryError(message)
        raise RuntimeError(message)

    def _pixels(self, images: NDArray[Any], layout: Layout | None) -> tuple[NDArray[Any], Layout]:
        """Contiguous uint8 or float32 [B, ...], and how its axes lie."""
        found = self._shapes.get(images.shape[1:]) if images.ndim == 4 else None
        if found is None or (layout is not None and layout != found):
            images, found = self._with_layout(images, layout)
        if images.dtype is not _FLOAT32 or not images.flags.c_contiguous:
            if images.dtype == np.uint8:
                return np.ascontiguousarray(images), found
            if images.dtype.kind != "f":
                raise UserError(
                    f"images of type {images.dtype}: must be uint8 (0 .. 255) or floats (0 .. 1)"
                )
            images = np.ascontiguousarray(images, dtype=_FLOAT32)
        pixels = images
        if pixels.size and self.ticket.mean:
            low, high = float(pixels.min()), float(pixels.max())
            if low < -1e-3 or high > 1 + 1e-3:
                raise UserError(
                    f"images from {low:g} to {high:g}: floats must be in 0 .. 1; pass uint8 for 0"
                    " .. 255"
                )
        if self._reference and not np.isfinite(pixels).all():
            raise UserError("images: a pixel is NaN or infinite; every pixel must be a number")
        return pixels, found

    def _with_layout(
        self, images: NDArray[Any], layout: Layout | None
    ) -> tuple[NDArray[Any], Layout]:
        """What is not obvious: single images, and a layout that the user names."""
        channels, height, width = self.shape
        if layout not in (None, "NCHW", "NHWC"):
            raise UserError(f"layout = {layout!r}: must be NCHW or NHWC")
        if images.shape == (height, width) and channels == 1:
            images = images[None]
        if images.ndim == 3 and images.shape in self._shapes:
            images = images[None]
        for shape, name in self._shapes.items():
            if images.ndim == 4 and images.shape[1:] == shape and layout in (None, name):
                return images, name
        for name in ("NCHW", "NHWC"):  # both shapes are the same: the one that is named
            if (
                images.ndim == 4
                and len(self._shapes) == 1
                and layout == name
                and images.shape[1:] == self.shape
            ):
                return images, name
        raise UserError(
            f"images of shape {images.shape}: the network takes [B, {channels}, {height}, {width}]"
            f" or [B, {height}, {width}, {channels}]"
        )


def normalised(pixels: NDArray[Any], ticket: Ticket) -> NDArray[np.float32]:
    """What the ticket's network was trained on, for whoever normalises himself.

    Args:
        pixels: [B, C, H, W], uint8 of 0 .. 255, or float32 of 0 .. 1.
        ticket: with its mean and std; without, only the scale of uint8 changes.

    Returns:
        float32 [B, C, H, W].
    """
    x = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
    if ticket.mean:
        mean, std = (
            np.array(numbers, np.float32).reshape(1, -1, 1, 1)
            for numbers in (ticket.mean, ticket.std)
        )
        x = (x - mean) / std
    return x


def _again(
    ticket: bytes,
    threads: int,
    instruction_set: str | None,
    calibration: tuple[NDArray[Any], Layout] | None,
) -> Engine:
    """A copied engine; on a machine with fewer processors, with fewer threads."""
    images, layout = calibration or (None, None)
    if images is not None and layout == "NHWC":
        images = images.transpose(0, 3, 1, 2)
    return Engine(
        Ticket.from_bytes(ticket), min(threads, cores(), _MOST_THREADS), instruction_set, images
    )


def _core() -> ctypes.CDLL | None:
    """The compiled core with the types of its engine's functions."""
    core = native.library()
    if core is None or core.biprop_run_f32.argtypes:
        return core
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    core.biprop_load.argtypes = (ctypes.c_char_p, size, number, ctypes.POINTER(pointer))
    core.biprop_free.argtypes = (pointer,)
    core.biprop_free.restype = None
    core.biprop_shape.argtypes = (pointer, *[ctypes.POINTER(number)] * 4)
    core.biprop_shape.restype = None
    core.biprop_explain.argtypes, core.biprop_explain.restype = (
        (pointer, ctypes.c_int64, ctypes.c_char_p, size),
        size,
    )
    core.biprop_memory.argtypes, core.biprop_memory.restype = (pointer, ctypes.POINTER(size)), size
    core.biprop_load_with.argtypes = (
        ctypes.c_char_p,
        size,
        number,
        ctypes.c_char_p,
        ctypes.POINTER(pointer),
    )
    core.biprop_message.restype = ctypes.c_char_p
    core.biprop_use_instruction_set.argtypes = (ctypes.c_char_p,)
    core.biprop_calibrate.argtypes = (pointer, pointer, ctypes.c_int64, number)
    for function in (core.biprop_run_u8, core.biprop_run_f32):
        function.argtypes = (pointer, pointer, ctypes.c_int64, number, pointer)
    return core
