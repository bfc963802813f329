"""Runs tickets without PyTorch: `Engine(ticket).run(images)` gives logits.

Kernels: csrc/engine; how: docs/engine.md.
"""

from __future__ import annotations

import ctypes
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import native
from ..errors import UserError, integer
from ..models.operations import check_graph
from ..ticket import Ticket, TicketError, container
from .lower import lower
from .reference import Reference

Layout = Literal["NCHW", "NHWC"]
_NOT_FINITE, _NO_MEMORY, _TOO_LARGE = 4, 5, 6  # of include/biprop.h
_MOST_THREADS = 1024
_FLOAT32 = np.dtype(np.float32)
_SMALL = 1 << 16  # bytes of images
_EXPLANATION_BYTES = 1 << 16  # of text, enough for some 500 steps
_TOLERANCE = 1e-3  # by which floats may leave 0 .. 1


@dataclass(frozen=True)
class Step:
    """One operation of a compiled network.

    Attributes:
        operation: kind, kernel size and stride, as in "conv 3x3/1".
        input, output: shapes, and whether they are bits or floats.
        kernel: name of the kernel that computes it.
        cycles: estimated for an image; the kernel was chosen by this estimate.
        estimated: the same in microseconds. How long a cycle of the estimate takes is measured when
            the network is first explained, for each kind of step: the same kernel, kernel size,
            stride and forms of input and output.
        microseconds: measured for an image, on blank images.
    """

    operation: str
    input: str
    output: str
    kernel: str
    cycles: float
    estimated: float
    microseconds: float


def instruction_sets() -> list[str]:
    """The instruction sets that this machine has and the engine was compiled for, best first.

    Returns:
        Names such as "avx512vnni", "avx2", "neon" and "scalar", the fastest first; an empty list
        without a compiled core.
    """
    core = _core()
    return native.instruction_sets(core) if core else []


class Engine:
    """A ticket that is ready to run.

    Many threads may use it at once; its results do not depend on the number of threads.

    Args:
        ticket: a ticket of one of biprop's own networks, or one with a graph; or the path of its
            file.
        threads: number of threads that one call uses, at most the processors that this process may
            use.
        instruction_set: one of `instruction_sets()`; None takes the one that BIPROP_ISA in the
            environment names, else the best.
        calibration: some dozens of images as for `run`, of the kind that will be run: activations
            that are not bits are quantised to 8 bits, by the ranges that they have on these images.
            Faster and a little less exact; for MPT-1/32.

    Attributes:
        ticket: that runs.
        shape: of an image: (channels, height, width); of any other sample that a network takes.
        outputs: number of logits of an image.
        compiled: False where there is no compiled core, or a layer is too wide for it, or it lacks
            what the user's own network does, and numpy computes instead.
        fallback: why numpy computes, and that it does; empty where the network is compiled. Python
            callers get the same as a RuntimeWarning.

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
        self.threads = _checked_threads(threads)
        _check_instruction_set(instruction_set)
        self._instruction_set = instruction_set
        path = None if isinstance(ticket, Ticket) else ticket
        self._program, self._refusal = _program(self.ticket, path)
        self._refusal = self._refusal or self._load()
        self._reference: Reference | None = None
        why = self._refusal if self._core else "there is no compiled core"
        self.fallback = f"{why}: numpy runs this network, slowly" if why else ""
        if self.fallback:
            warnings.warn(self.fallback, RuntimeWarning, stacklevel=2)
            self._reference = Reference(self.ticket)
        shape = self.ticket.input_shape
        assert shape
        self.shape = shape
        self._layouts = _layouts(self.shape)
        self.outputs = self._reference.outputs if self._reference else self._outputs()
        self._result = _result_shape(self.ticket) or (self.outputs,)
        self._row = ctypes.c_float * self.outputs
        self._calibration: tuple[NDArray[Any], Layout] | None = None  # for copies
        if calibration is not None and self._core and not self._reference:
            self._calibrate(np.asarray(calibration))

    def _load(self) -> str:
        """Compile the network in the core, if there is one.

        Returns:
            Why the core cannot run it, if it is too large; else "".
        """
        if not self._core:
            return ""
        name = (self._instruction_set or "").encode()
        size, network = len(self._program), ctypes.byref(self._network)
        error = self._core.biprop_load_with(self._program, size, self.threads, name, network)
        if error == _TOO_LARGE:
            return str(self._core.biprop_message(error).decode())
        self._check(error)
        return ""

    def _calibrate(self, images: NDArray[Any]) -> None:
        assert self._core
        pixels, layout = self._pixels(images, None)
        if not len(pixels):
            raise UserError(
                "calibration: no images; pass some dozens of the kind that the network will see"
            )
        self._calibration = pixels.copy(), layout
        floats = _as_floats(pixels)
        is_nhwc = int(layout == "NHWC")
        address, count = floats.ctypes.data, len(floats)
        self._check(self._core.biprop_calibrate(self._network, address, count, is_nhwc))

    @property
    def compiled(self) -> bool:
        """Whether the compiled core runs the network, and not numpy."""
        return self._reference is None

    def run(self, images: NDArray[Any], layout: Layout | None = None) -> NDArray[np.float32]:
        """The logits of images; normalisation is the ticket's.

        A network of the user's own may take other samples, [B, ...], as its graph says, and give
        other results than logits.

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
        if self._takes_indices and (
            self._reference
            or pixels.min(initial=0) < 0
            or pixels.max(initial=0) >= self._fewest_rows()
        ):
            return (self._reference or Reference(self.ticket)).run(pixels)
        if self._reference:
            return self._reference.run(normalised(_as_nchw(pixels, layout), self.ticket))
        assert self._core
        if self._takes_indices:
            pixels = pixels.astype(np.float32)
        count = len(pixels)
        logits = (self._row * count)()
        function = self._core.biprop_run_u8 if pixels.itemsize == 1 else self._core.biprop_run_f32
        # Beside a network of 0.1 ms, asking numpy for an address takes longer (6 microseconds) than
        # copying an image (2).
        source = pixels.tobytes() if pixels.nbytes < _SMALL else pixels.ctypes.data
        self._check(function(self._network, source, count, layout == "NHWC", logits))
        return np.ndarray((count, *self._result), _FLOAT32, logits)  # type: ignore[arg-type]  # ctypes has buffers

    def as_bytes(self, images: NDArray[Any], layout: Layout | None = None) -> NDArray[np.uint8]:
        """Images as uint8 [B, C, H, W]; floats are rounded.

        Args:
            images, layout: as of `run`.

        Raises:
            UserError: as `run`.
        """
        pixels, layout = self._pixels(np.asarray(images), layout)
        pixels = _as_nchw(pixels, layout)
        if pixels.dtype == np.uint8:
            return pixels
        return (pixels * 255).round().clip(0, 255).astype(np.uint8)

    def explain(self, batch: int = 1) -> tuple[str, int, list[Step]]:
        """The kernels that run a batch.

        Args:
            batch: number of images.

        Returns:
            The instruction set, how many images are computed together, and the steps.

        Raises:
            UserError: the network is not compiled.
        """
        batch = integer(batch, "batch")
        if not self._core or self._reference:
            raise UserError("numpy runs this network: there are no kernels to explain")
        text = ctypes.create_string_buffer(_EXPLANATION_BYTES)
        size = self._core.biprop_explain(self._network, batch, text, len(text))
        if not size:
            raise MemoryError("out of memory, or of threads")
        if size >= len(text):  # each call measures all steps, so a second one is the exception
            text = ctypes.create_string_buffer(size + _EXPLANATION_BYTES)
            self._core.biprop_explain(self._network, batch, text, len(text))
        head, *lines = text.value.decode().splitlines()
        name, group = head.split("\t")
        return name, int(group), list(map(_step, lines))

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes that the compiled network holds, in all and of those the ones for activations; both
        are 0 where numpy computes, the second one before the first run.
        """
        if not self._core or self._reference:
            return 0, 0
        activations = ctypes.c_size_t()
        total = self._core.biprop_memory(self._network, ctypes.byref(activations))
        return int(total), activations.value

    def save_program(self, path: str | Path) -> int:
        """Write the program that the C interface (include/biprop.h) loads.

        Returns:
            Its size in bytes.

        Raises:
            UserError: it cannot be written, or the core could not load it.
        """
        if self._refusal:
            raise UserError(f"{path}: not written, as no core could load it: {self._refusal}")
        return container.save(path, self._program)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, pickles and spawned processes make an engine of their own, from the ticket's
        bytes.
        """
        content = self.ticket.to_bytes()
        return _rebuilt, (content, self.threads, self._instruction_set, self._calibration)

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
        """Raise for an error code of the C interface."""
        if not error:
            return
        assert self._core
        message = self._core.biprop_message(error).decode()
        if error == _NOT_FINITE:
            raise UserError(f"images: {message}; every pixel must be a number")
        if error == _NO_MEMORY:
            raise MemoryError(message)
        raise RuntimeError(message)

    def _pixels(self, images: NDArray[Any], layout: Layout | None) -> tuple[NDArray[Any], Layout]:
        """Contiguous uint8 or float32 [B, ...], and the order of its axes."""
        if self._takes_indices:
            return self._indices(images), "NCHW"
        if len(self.shape) != 3:
            images, layout = self._samples(images), "NCHW"
        from_shape = self._layouts.get(images.shape[1:])
        if from_shape is None or (layout is not None and layout != from_shape):
            images, from_shape = self._with_layout(images, layout)
        flags = images.flags
        if images.dtype is not _FLOAT32 or not (flags.c_contiguous and flags.aligned):
            if images.dtype == np.uint8:
                return np.ascontiguousarray(images), from_shape
            images = _as_float32(images)
        self._check_floats(images)
        return images, from_shape

    @property
    def _takes_indices(self) -> bool:
        """Whether the network takes whole numbers, which it embeds."""
        return self.ticket.graph is not None and self.ticket.graph.indices

    def _fewest_rows(self) -> int:
        """Whole numbers up to this, exclusive, are within every embedding; numpy checks others."""
        assert self.ticket.graph
        operations = self.ticket.graph.operations
        tables = [o.tensor_of["weight"] for o in operations if o.op == "embedding"]
        return min(self.ticket.shapes[name][0] for name in tables)

    def _samples(self, samples: NDArray[Any]) -> NDArray[Any]:
        """[B, ...] of samples that are no images; B is added to one."""
        samples = samples[None] if samples.shape == self.shape else samples
        if samples.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise UserError(f"inputs of shape {samples.shape}: the network takes [B, {wanted}]")
        return samples

    def _indices(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        """Whole numbers [B, ...] for a network that embeds them."""
        if samples.dtype.kind not in "iu":
            raise UserError(f"inputs of type {samples.dtype}: the network takes whole numbers")
        if samples.dtype == np.uint64 and samples.max(initial=0) > np.iinfo(np.int64).max:
            raise UserError(
                f"inputs up to {samples.max()}: the network takes whole numbers of int64"
            )
        return np.ascontiguousarray(self._samples(samples), dtype=np.int64)

    def _check_floats(self, pixels: NDArray[np.float32]) -> None:
        """Floats are in 0 .. 1 where the ticket normalises them. The core itself looks for what is
        not finite.
        """
        if pixels.size and self.ticket.mean and self.ticket.takes_pixels:
            low, high = float(pixels.min()), float(pixels.max())
            if low < -_TOLERANCE or high > 1 + _TOLERANCE:
                raise UserError(
                    f"images from {low:g} to {high:g}: floats must be in 0 .. 1; pass uint8 for 0"
                    " .. 255"
                )
        if self._reference and not np.isfinite(pixels).all():
            raise UserError("images: a pixel is NaN or infinite; every pixel must be a number")

    def _with_layout(
        self, images: NDArray[Any], layout: Layout | None
    ) -> tuple[NDArray[Any], Layout]:
        """As `_pixels`, for single images and where the user names a layout; any dtype."""
        channels, height, width = self.shape
        if layout not in (None, "NCHW", "NHWC"):
            raise UserError(f"layout = {layout!r}: must be NCHW or NHWC")
        if images.shape == (height, width) and channels == 1:
            images = images[None]
        if images.ndim == 3 and images.shape in self._layouts:
            images = images[None]
        if images.ndim == 4 and images.shape[1:] in self._layouts:
            from_shape = self._layouts[images.shape[1:]]
            if layout in (None, from_shape):
                return images, from_shape
            if len(self._layouts) == 1:  # both layouts have the same shape: the user chooses
                return images, layout
        raise UserError(
            f"images of shape {images.shape}: the network takes [B, {channels}, {height}, {width}]"
            f" or [B, {height}, {width}, {channels}]"
        )


def _result_shape(ticket: Ticket) -> tuple[int, ...]:
    """The shape of the output of the user's own network for one sample; else ()."""
    if ticket.graph is None:
        return ()
    return check_graph(ticket.graph, ticket.shapes)[-1][1:]


def _checked_threads(threads: int) -> int:
    """The number of threads.

    Raises:
        UserError: it is no whole number, or out of range.
    """
    threads = integer(threads, "threads")
    if not 1 <= threads <= min(native.cores(), _MOST_THREADS):
        raise UserError(
            f"threads = {threads}: must be 1 .. {native.cores()}, the processors that this process"
            " may use"
        )
    return threads


def _check_instruction_set(name: str | None) -> None:
    available = instruction_sets()
    if name is not None and name not in available:
        raise UserError(
            f"instruction set {name!r}: this machine has"
            f" {', '.join(available) or 'no compiled core'}"
        )


def _program(ticket: Ticket, path: str | Path | None) -> tuple[bytes, str]:
    """The ticket's program; or why the core has none, of a graph that numpy can compute.

    Raises:
        TicketError: neither can; the message names the file that the ticket was read from, if any.
    """
    try:
        return lower(ticket), ""
    except TicketError as e:
        if ticket.graph:
            return b"", str(e)
        raise e if path is None else TicketError(f"{path}: {e}") from None


def _layouts(shape: tuple[int, ...]) -> dict[tuple[int, ...], Layout]:
    """The layout by the shape of an image; NCHW where both layouts have the same shape, and for
    samples that are no images.
    """
    if len(shape) != 3:
        return {shape: "NCHW"}
    channels, height, width = shape
    return {(height, width, channels): "NHWC", (channels, height, width): "NCHW"}


def _step(line: str) -> Step:
    """A step, of a line of the core's explanation."""
    operation, source, result, kernel, *numbers = line.split("\t")
    return Step(operation, source, result, kernel, *map(float, numbers))


def _as_float32(images: NDArray[Any]) -> NDArray[np.float32]:
    """Contiguous and aligned float32 of images of any type of floats.

    Raises:
        UserError: they are of another type.
    """
    if images.dtype.kind != "f":
        raise UserError(
            f"images of type {images.dtype}: must be uint8 (0 .. 255) or floats (0 .. 1)"
        )
    return np.require(images, _FLOAT32, ["C_CONTIGUOUS", "ALIGNED"])


def _as_nchw(pixels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """A view as [B, C, H, W]."""
    return pixels.transpose(0, 3, 1, 2) if layout == "NHWC" else pixels


def _as_floats(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels of 0 .. 1: uint8 is divided by 255."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


def normalised(pixels: NDArray[Any], ticket: Ticket) -> NDArray[np.float32]:
    """Pixels as the ticket's network was trained on them, for callers that preprocess the input
    themselves.

    Args:
        pixels: [B, C, H, W] (or [B, C, ...]), uint8 of 0 .. 255, or float32 of 0 .. 1.
        ticket: gives mean and std; without them, only the scale of uint8 changes.

    Returns:
        float32 of the same shape.
    """
    floats = _as_floats(pixels)
    if not ticket.mean:
        return floats
    sides = (1, -1, *(1,) * (pixels.ndim - 2))
    mean = np.array(ticket.mean, np.float32).reshape(sides)
    std = np.array(ticket.std, np.float32).reshape(sides)
    return (floats - mean) / std


def _rebuilt(
    ticket: bytes,
    threads: int,
    instruction_set: str | None,
    calibration: tuple[NDArray[Any], Layout] | None,
) -> Engine:
    """A copied engine; on a machine with fewer processors, with fewer threads."""
    images = _as_nchw(*calibration) if calibration else None
    possible = min(threads, native.cores(), _MOST_THREADS)
    return Engine(Ticket.from_bytes(ticket), possible, instruction_set, images)


def _core() -> ctypes.CDLL | None:
    """The compiled core with the types of its engine's functions."""
    core = native.library()
    if core is None or core.biprop_run_f32.argtypes:
        return core
    network, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    text, count, numbers = ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p
    new_network, result = ctypes.POINTER(network), ctypes.POINTER(number)
    run = (network, numbers, count, number, numbers)
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "load": (number, (text, size, number, new_network)),
        "load_with": (number, (text, size, number, text, new_network)),
        "free": (None, (network,)),
        "shape": (None, (network, result, result, result, result)),
        "explain": (size, (network, count, text, size)),
        "memory": (size, (network, ctypes.POINTER(size))),
        "use_instruction_set": (number, (text,)),
        "calibrate": (number, (network, numbers, count, number)),
        "run_u8": (number, run),
        "run_f32": (number, run),
    }
    core.biprop_message.restype = text
    for name, (returned, arguments) in signatures.items():
        function = getattr(core, f"biprop_{name}")
        function.restype, function.argtypes = returned, arguments
    return core
