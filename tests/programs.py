"""Programs of a few operations for the tests of the engine: as bytes, as drawn at random, computed
by numpy, and run by the core.

All numbers are small multiples of a power of two, so that sums are exact in every order, and
results are compared bit for bit.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biprop.engine import engine
from biprop.engine.lower import _ACTS, _KINDS, MAGIC

Array = NDArray[np.float64]
EXACT = 1 << 24
"""Whole numbers up to this are float32."""


class InexactError(ValueError):
    """An operation whose result depends on the order of sums."""


@dataclass(frozen=True)
class Value:
    """What an operation puts out.

    Its numbers are at most `most`, and multiples of `unit`; a unit of 0: not exact.
    """

    bits: bool
    channels: int
    height: int
    width: int
    most: float = 1.0
    unit: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Op:
    """act(scale * op(source) + shift + residual_scale * residual).

    Attributes:
        kind: "conv", "max_pool" or "avg_pool".
        source, out, residual: indices of values.
        act: "", "relu", "sign" or "sign0".
        weights: of a convolution, [out, in, kernel]: int8 of -1, 0 and 1, or float32 for a dense
            one.
    """

    kind: str
    source: int
    out: int
    act: str
    kernel: tuple[int, int]
    stride: int
    padding: int
    scale: Array
    shift: Array
    residual: int | None = None
    residual_scale: Array | None = None
    weights: NDArray[Any] | None = None

    def code(self) -> bytes:
        head = struct.pack(
            "<9I",
            _KINDS[self.kind],
            self.source,
            self.out,
            0 if self.residual is None else self.residual + 1,
            _ACTS[self.act],
            *self.kernel,
            self.stride,
            self.padding,
        )
        numbers = b"".join(
            n.astype("<f8").tobytes()
            for n in (self.scale, self.shift, self.residual_scale)
            if n is not None
        )
        if self.weights is None:
            return head + numbers
        if self.weights.dtype == np.float32:
            return head + numbers + struct.pack("<I", 1) + self.weights.astype("<f4").tobytes()
        planes = (
            np.packbits(plane, bitorder="little").tobytes()
            for plane in (self.weights != 0, self.weights > 0)
        )
        return head + numbers + struct.pack("<I", 0) + b"".join(planes)

    def apply(self, x: Array, residual: Array | None, bits: bool) -> Array:
        """The truth, of [B, C, H, W]; `bits`: whether both sides are bits."""
        pad = [(0, 0), (0, 0), (self.padding, self.padding), (self.padding, self.padding)]
        padded = np.pad(x, pad, constant_values=-np.inf if self.kind == "max_pool" else 0)
        step = self.stride
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(2, 3))[
            :, :, ::step, ::step
        ]
        scale, shift = self.scale[:, None, None], self.shift[:, None, None]
        if self.kind == "max_pool":
            if bits:  # the sign came before the pool: where it turned the order, "any" became "all"
                low = np.where(np.isinf(windows), np.inf, windows).min(axis=(4, 5))
                return np.where(scale < 0, low, windows.max(axis=(4, 5)))
            y = windows.max(axis=(4, 5))
        elif self.kind == "avg_pool":
            y = windows.sum(axis=(4, 5)) / math.prod(self.kernel)
        else:
            assert self.weights is not None
            flat = self.weights.astype(np.float64).reshape(len(self.weights), -1)
            columns = windows.transpose(1, 4, 5, 0, 2, 3).reshape(flat.shape[1], -1)
            y = (
                (flat @ columns)
                .reshape(len(flat), len(x), *windows.shape[2:4])
                .transpose(1, 0, 2, 3)
            )
        y = scale * y + shift
        if residual is not None:
            assert self.residual_scale is not None
            y = y + self.residual_scale[:, None, None] * residual
        match self.act:
            case "relu":
                return np.maximum(y, 0)
            case "sign":
                return np.where(y >= 0, 1.0, -1.0)
            case "sign0":
                return np.sign(y)
        return y


@dataclass
class Program:
    """In the making: `add` and its kin append an operation and return its value.

    The last value is the output.
    """

    values: list[Value]
    ops: list[Op] = field(default_factory=list)
    mean: Sequence[float] = ()
    std: Sequence[float] = ()

    @classmethod
    def of(cls, channels: int, height: int, width: int) -> Program:
        """Of images with pixels of -8 .. 8."""
        return cls([Value(False, channels, height, width, most=8.0)])

    def __str__(self) -> str:
        def shape(i: int) -> str:
            value = self.values[i]
            return (
                f"{value.channels}x{value.height}x{value.width}"
                f" {'bits' if value.bits else 'floats'}"
            )

        return "; ".join(
            f"{op.kind} {op.kernel[0]}x{op.kernel[1]}/{op.stride}+{op.padding} {op.act}"
            f" {shape(op.source)} -> {shape(op.out)}"
            + (
                ""
                if op.weights is None
                else f" {op.weights.dtype} {np.count_nonzero(op.weights)} of {op.weights.size}"
            )
            + ("" if op.residual is None else f" residual {shape(op.residual)}")
            for op in self.ops
        )

    @property
    def last(self) -> Value:
        return self.values[-1]

    def code(self) -> bytes:
        head = MAGIC + struct.pack("<III", len(self.values), len(self.ops), len(self.mean) > 0)
        shapes = b"".join(struct.pack("<IIII", value.bits, *value.shape) for value in self.values)
        return (
            head
            + shapes
            + np.array([*self.mean, *self.std], "<f4").tobytes()
            + b"".join(op.code() for op in self.ops)
        )

    def truth(self, images: NDArray[Any]) -> Array:
        """What it gives for [B, C, H, W], already normalised."""
        made: dict[int, Array] = {0: images.astype(np.float64)}
        for op in self.ops:
            both = self.values[op.source].bits and self.values[op.out].bits
            made[op.out] = op.apply(
                made[op.source], None if op.residual is None else made[op.residual], both
            )
        return made[len(self.values) - 1]

    def pool(
        self,
        kind: str,
        bits: bool = False,
        source: int | None = None,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: int = 0,
        act: str = "",
        scale: Array | None = None,
        shift: Array | None = None,
    ) -> int:
        source = len(self.values) - 1 if source is None else source
        channels = self.values[source].channels
        scale, shift = (
            np.ones(channels) if scale is None else scale,
            np.zeros(channels) if shift is None else shift,
        )
        act = "sign" if bits else act
        area = math.prod(kernel) if kind == "avg_pool" else 1
        op = Op(kind, source, len(self.values), act, kernel, stride, padding, scale, shift)
        return self._append(
            op,
            channels,
            bits,
            unit=self.values[source].unit / area if area & (area - 1) == 0 else 0,
            sums=1,
        )

    def conv(
        self,
        bits: bool,
        weights: NDArray[Any],
        scale: Array,
        shift: Array,
        source: int | None = None,
        stride: int = 1,
        padding: int = 0,
        act: str = "",
        residual: int | None = None,
        residual_scale: Array | None = None,
    ) -> int:
        source = len(self.values) - 1 if source is None else source
        act = "sign" if bits else act
        kernel = (weights.shape[2], weights.shape[3])
        op = Op(
            "conv",
            source,
            len(self.values),
            act,
            kernel,
            stride,
            padding,
            scale,
            shift,
            residual,
            residual_scale,
            weights,
        )
        sums = float(np.abs(weights.astype(np.float64)).sum(axis=(1, 2, 3)).max())
        unit = self.values[source].unit * (0.25 if weights.dtype == np.float32 else 1)
        return self._append(op, len(weights), bits, unit, sums)

    def _append(self, op: Op, channels: int, bits: bool, unit: float, sums: float) -> int:
        source = self.values[op.source]
        sides = [
            (side + 2 * op.padding - k) // op.stride + 1
            for side, k in zip((source.height, source.width), op.kernel, strict=True)
        ]
        assert min(sides) > 0
        unit, most = (
            unit * 0.25,
            float(np.abs(op.scale).max() * sums * source.most + np.abs(op.shift).max()),
        )
        if op.residual is not None:
            assert op.residual_scale is not None
            other = self.values[op.residual]
            unit, most = (
                min(unit, 0.25 * other.unit),
                most + float(np.abs(op.residual_scale).max()) * other.most,
            )
        if sums * source.most + most > EXACT * unit:
            unit = 0.0
        if not unit and "sign" in op.act:
            raise InexactError("a sign of what is not exact: nobody knows the answer")
        if "sign" in op.act:
            unit, most = 1.0, 1.0
        self.values.append(Value(bits, channels, *sides, most, unit))
        self.ops.append(op)
        return len(self.values) - 1

    def to_bits(self) -> int:
        """Signs of the last value."""
        return self.pool("max_pool", bits=True)

    def to_floats(self) -> int:
        return self.pool("max_pool")


def factors(rng: np.random.Generator, count: int) -> Array:
    """Of both signs, and zero."""
    return rng.choice(
        [1.0, -1.0, 0.5, -0.5, 0.25, -2.0, 0.0], count, p=[0.3, 0.3, 0.1, 0.1, 0.08, 0.08, 0.04]
    )


def shifts(rng: np.random.Generator, scale: Array, spread: float) -> Array:
    """So that scale * n + shift is exactly 0 for a whole n within the spread for two channels of
    three, else a quarter beside.
    """
    n = np.round(rng.normal(0, spread, len(scale)).clip(-3 * spread, 3 * spread))
    return -scale * n + rng.choice([0, 0, 0, 0, 0.25, -0.25], len(scale))  # type: ignore[no-any-return]


def kept_weights(
    rng: np.random.Generator, shape: tuple[int, ...], density: float
) -> NDArray[np.int8]:
    """Of -1, 0 and 1; the first channel of several keeps nothing."""
    weights = rng.choice(np.array([-1, 1], np.int8), shape) * (rng.random(shape) < density).astype(
        np.int8
    )
    if shape[0] > 2 and density < 1:
        weights[0] = 0
    return weights  # type: ignore[no-any-return]


def dense_weights(
    rng: np.random.Generator, shape: tuple[int, ...], density: float
) -> NDArray[np.float32]:
    return (rng.integers(-6, 7, shape) * 0.25 * (rng.random(shape) < density)).astype(np.float32)  # type: ignore[no-any-return]


def random_pixels(rng: np.random.Generator, count: int, program: Program) -> NDArray[np.float32]:
    return rng.integers(-8, 9, (count, *program.values[0].shape)).astype(np.float32)


class Loaded:
    """A program in the core.

    Raises:
        ValueError: with the error's number, when it is not loaded.
        RuntimeError: the same when it is not run.
    """

    def __init__(
        self, program: Program | bytes, threads: int = 1, instruction_set: str = ""
    ) -> None:
        core = engine._core()
        assert core is not None
        self.core, self.network, self.program = core, ctypes.c_void_p(), program
        code = program if isinstance(program, bytes) else program.code()
        assert core.biprop_use_instruction_set(instruction_set.encode()) == 0
        error = core.biprop_load(code, len(code), threads, ctypes.byref(self.network))
        core.biprop_use_instruction_set(b"")
        if error:
            raise ValueError(error)
        numbers = [ctypes.c_int() for _ in range(4)]
        core.biprop_shape(self.network, *map(ctypes.byref, numbers))
        self.shape, self.outputs = tuple(n.value for n in numbers[:3]), numbers[3].value

    def run(self, images: NDArray[Any], layout: int = 0) -> NDArray[np.float32]:
        """[B, outputs]; behind it nothing is written."""
        images = np.ascontiguousarray(images)
        logits = np.full((len(images) + 1, self.outputs), 12345, np.float32)
        function = self.core.biprop_run_u8 if images.dtype == np.uint8 else self.core.biprop_run_f32
        if error := function(
            self.network, images.ctypes.data, len(images), layout, logits.ctypes.data
        ):
            raise RuntimeError(error)
        assert (logits[-1] == 12345).all()
        return logits[:-1]

    def calibrate(self, images: NDArray[Any]) -> None:
        images = np.ascontiguousarray(images, np.float32)
        assert self.core.biprop_calibrate(self.network, images.ctypes.data, len(images), 0) == 0

    def explained(self, batch: int) -> list[list[str]]:
        """The fields of each line: instruction set and images of a group, then the steps."""
        text = ctypes.create_string_buffer(1 << 16)
        assert 0 < self.core.biprop_explain(self.network, batch, text, len(text)) < len(text)
        return [line.split("\t") for line in text.value.decode().splitlines()]

    def kernels(self, batch: int) -> list[str]:
        return [step[3] for step in self.explained(batch)[1:]]

    def held(self) -> int:
        """Bytes of the network without its activations."""
        working = ctypes.c_size_t()
        return int(self.core.biprop_memory(self.network, ctypes.byref(working))) - working.value

    def close(self) -> None:
        self.core.biprop_free(self.network)


@contextmanager
def loaded(
    program: Program | bytes, threads: int = 1, instruction_set: str = ""
) -> Iterator[Loaded]:
    network = Loaded(program, threads, instruction_set)
    try:
        yield network
    finally:
        network.close()


def same(got: NDArray[Any], expected: Array, exact: bool, *what: object) -> None:
    expected = expected.reshape(len(expected), math.prod(expected.shape[1:]))
    most = float(np.abs(expected).max(initial=1))
    equal = (
        np.array_equal(got, expected)
        if exact
        else np.allclose(got, expected, rtol=1e-5, atol=1e-5 * most)
    )
    if not equal:
        wrong = (
            np.argwhere(got != expected)
            if exact
            else np.argwhere(~np.isclose(got, expected, rtol=1e-5, atol=1e-5 * most))
        )
        at = tuple(wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {got.size} differ, first [image, output] = {at}: {got[at]} instead of"
            f" {expected[at]}; " + ", ".join(map(str, what))
        )


def check(
    program: Program, rng: np.random.Generator, sets: Sequence[str], many: int = 65
) -> set[str]:
    """Compare all instruction sets with the truth, for 0, 1, 3 and `many` images; returns the
    kernels that ran.
    """
    images = random_pixels(rng, 5, program)
    expected, exact = program.truth(images), program.last.unit > 0
    pick = rng.integers(0, len(images), many)
    kernels = set()
    for name in sets:
        with loaded(program, instruction_set=name) as network:
            for order in (
                np.array([], int),
                np.array([0]),
                np.array([1, 2, 3]),
                pick,
                np.array([4]),
            ):
                same(
                    network.run(images[order]),
                    expected[order],
                    exact,
                    name,
                    f"{len(order)} images",
                    program,
                )
            kernels |= {*network.kernels(1), *network.kernels(64)}
    return kernels
