"""The engine's kernels, every instruction set of this machine: against numpy on awkward shapes, and
against each other.

The grid is a draw from all combinations that always takes the same ones; hypothesis draws more. See
programs.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_narrow, narrow, network_of, random_ticket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import (
    EXACT,
    InexactError,
    Program,
    Value,
    check,
    dense_weights,
    factors,
    kept_weights,
    loaded,
    random_pixels,
    same,
    shifts,
)

from biprop import engine
from biprop.engine import Engine
from biprop.engine.reference import Reference
from biprop.models.plans import NETWORKS, RESIDUAL

ALL_SETS = engine.instruction_sets()
SETS = [name for name in ALL_SETS if name not in ("avx512vnni", "avxvnni", "dotprod", "i8mm")]
"""Those that differ in more than products of bytes, which only quantised activations use."""
pytestmark = pytest.mark.skipif(not SETS, reason="no compiled core")

CHANNELS = (1, 3, 63, 64, 65, 200)
SIZES = ((1, 1), (5, 7), (7, 7), (9, 33), (4, 4), (8, 8), (32, 32), (3, 64), (2, 65))
DENSITIES = (0.0, 0.05, 0.5, 1.0)
FLAVORS = (
    "bits to bits",
    "bits to floats",
    "bits and bits to bits",
    "bits and floats to bits",
    "bits and bits to floats",
    "bits and floats to floats",
    "floats to floats",
    "floats to bits",
    "floats and bits to bits",
    "floats and floats to floats",
    "floats and bits to floats",
    "dense to floats",
    "dense to bits",
    "dense and floats to bits",
)
"""[what is convolved] and [residual] to [output]"""

Weights = Callable[[np.random.Generator, tuple[int, ...], float], Any]


def append_conv(
    program: Program,
    rng: np.random.Generator,
    flavor: str,
    channels: int,
    kernel: tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    density: float = 0.5,
    act: str = "",
) -> None:
    """Append a convolution, and before it its residual: a convolution of the program's input with
    the same output.
    """
    sources, to = flavor.split(" to ")
    convolved, _, residual = sources.partition(" and ")
    source = (
        program.to_bits()
        if convolved == "bits" and not program.last.bits
        else len(program.values) - 1
    )
    at = program.values[source]
    draw: Weights = dense_weights if convolved == "dense" else kept_weights
    shape = (channels, at.channels, *kernel)
    other = None
    if residual:
        weights = kept_weights(
            rng,
            (channels, at.channels, *kernel),
            min(density, 8 / (at.channels * kernel[0] * kernel[1])),
        )
        scale = np.ones(channels)
        other = program.conv(
            residual == "bits", weights, scale, np.zeros(channels), source, stride, padding
        )
    scale, spread = (
        factors(rng, channels),
        max(1.0, 0.7 * (density * at.channels * kernel[0] * kernel[1]) ** 0.5 * at.most),
    )
    shift = shifts(rng, scale, spread)
    residual_scale = factors(rng, channels) if residual else None
    program.conv(
        to == "bits",
        draw(rng, shape, density),
        scale,
        shift,
        source,
        stride,
        padding,
        act,
        other,
        residual_scale,
    )


def conv_program(
    rng: np.random.Generator,
    flavor: str,
    channels: tuple[int, int],
    size: tuple[int, int],
    *args: Any,
    **options: Any,
) -> Program:
    program = Program.of(channels[0], *size)
    append_conv(program, rng, flavor, channels[1], *args, **options)
    if program.last.bits:
        program.to_floats()
    return program


def drawn_cases(count: int, most_work: float) -> list[tuple[Any, ...]]:
    """Combinations that fit: flavor, channels, size, kernel, stride, padding, density, act."""
    rng = np.random.default_rng(0)
    cases: list[tuple[Any, ...]] = []
    while len(cases) < count:
        flavor = FLAVORS[len(cases) % len(FLAVORS)]
        size, channels = (
            SIZES[rng.integers(len(SIZES))],
            (int(rng.choice(CHANNELS)), int(rng.choice(CHANNELS))),
        )
        kernel = ((1, 1), (3, 3), (3, 3), (7, 7), size)[rng.integers(5)]
        stride, padding = int(rng.integers(1, 4)), int(rng.integers(0, 4))
        if padding >= min(kernel) or any(
            side + 2 * padding < k for side, k in zip(size, kernel, strict=True)
        ):
            continue
        area, positions = kernel[0] * kernel[1], size[0] * size[1] / stride**2
        if padding and area >= 500:
            continue  # more than sums on floats take
        if channels[0] * channels[1] * area * positions > most_work or channels[0] * area > 65533:
            continue
        density = DENSITIES[rng.integers(4)]
        act = ("", "relu", "sign", "sign0")[rng.integers(4)] if flavor.endswith("floats") else ""
        cases.append((flavor, channels, size, kernel, stride, padding, density, act))
    return cases


def check_case(case: tuple[Any, ...]) -> None:
    flavor, channels, size, kernel, stride, padding, density, act = case
    rng = np.random.default_rng(1)
    check(
        conv_program(rng, flavor, channels, size, kernel, stride, padding, density, act), rng, SETS
    )


@pytest.mark.parametrize("case", drawn_cases(140, 1e5), ids=str)
def test_convolutions(case: tuple[Any, ...]) -> None:
    check_case(case)


ROWS = [  # channels, size, kernel, padding
    ((50, 70), (32, 32), (3, 3), 1),
    ((50, 5), (9, 16), (3, 3), 1),
    ((70, 5), (6, 8), (5, 5), 2),
    ((3, 4), (16, 16), (9, 9), 4),
    ((3, 4), (16, 16), (9, 9), 2),
    ((40, 5), (3, 64), (1, 3), 0),
    ((40, 5), (4, 128), (1, 1), 0),
    ((300, 40), (4, 4), (3, 3), 1),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
@pytest.mark.parametrize(
    ("flavor", "density"),
    [
        ("floats and floats to floats", 0.02),
        ("floats and floats to floats", 0.3),
        ("floats to bits", 0.1),
    ],
)
def test_sums_of_rows(flavor: str, density: float, case: tuple[Any, ...]) -> None:
    """Rows of one, two, four or more registers, of several blocks of input channels; with few taps
    they have gaps.
    """
    channels, size, kernel, padding = case
    check_case((flavor, channels, size, kernel, 1, padding, density, ""))


CODED = [  # channels, size, kernel, stride, padding
    ((64, 64), (32, 32), (3, 3), 1, 1),  # two strips of rows
    ((40, 70), (8, 8), (3, 3), 1, 1),  # rows of eight floats
    ((30, 33), (16, 24), (5, 5), 1, 2),
    ((200, 64), (8, 16), (1, 1), 1, 0),
    ((40, 35), (18, 18), (3, 3), 1, 0),
    ((24, 40), (31, 31), (3, 3), 1, 1),  # rows of four registers but one float
    ((40, 30), (9, 7), (3, 3), 1, 1),
    ((40, 33), (5, 13), (3, 3), 1, 2),
    ((64, 70), (32, 32), (3, 3), 2, 1),  # even and odd columns
    ((64, 64), (33, 32), (1, 1), 2, 0),  # of both, one is read
    ((40, 70), (17, 30), (5, 5), 2, 2),
    ((60, 40), (46, 49), (4, 5), 3, 1),
]


@pytest.mark.parametrize("case", CODED, ids=str)
@pytest.mark.parametrize(
    "flavor",
    [
        "floats to floats",
        "floats to bits",
        "floats and floats to floats",
        "floats and bits to floats",
    ],
)
def test_sums_in_machine_code(flavor: str, case: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(2)
    program = conv_program(
        rng,
        flavor,
        *case,
        0.4,
        "relu" if "floats" in flavor[-6:] else "",
    )
    kernels = check(program, rng, SETS, 17)
    if {"avx2", "avx512"} & set(SETS) and sys.platform == "linux":
        assert any("machine code" in kernel for kernel in kernels)


FORBIDDEN = """
import ctypes, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_kernels
from programs import check

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit("this kernel does not forbid it")
rng = np.random.default_rng(2)
program = test_kernels.conv_program(
    rng, "floats to floats", (64, 64), (16, 16), (3, 3), 1, 1, 0.4
)
print(*check(program, rng, test_kernels.SETS, 17), sep=", ")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_lists_are_used_where_the_system_forbids_machine_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "does not forbid" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert "sparse sum" in done.stdout and "machine code" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seventh", range(7))
def test_convolutions_at_length(seventh: int) -> None:
    for case in drawn_cases(1400, 3e7)[seventh::7]:
        check_case(case)


@pytest.mark.parametrize("density", [0.5, 1.0])
@pytest.mark.parametrize(
    "flavor", ["bits to bits", "bits to floats", "bits and bits to bits", "floats to bits"]
)
def test_many_taps(flavor: str, density: float) -> None:
    """4608 taps, and nearly all agree: a count takes 13 bits."""
    rng = np.random.default_rng(2)
    for size in ((4, 4),):
        check(conv_program(rng, flavor, (512, 3), size, (3, 3), 1, 1, density), rng, SETS)
        weights = kept_weights(rng, (3, 512, 3, 3), density)
        agreeing = Program.of(512, *size)
        agreeing.to_bits()
        scale = np.array([1.0, -1.0, 0.5])
        kept = np.count_nonzero(weights, axis=(1, 2, 3))
        agreeing.conv(False, np.abs(weights), scale, -scale * kept, padding=1)
        agreeing.conv(True, np.abs(weights), scale, -scale * kept, source=1, padding=1)
        agreeing.to_floats()
        for pixel in (1, -1):
            images = np.full((2, 512, *size), pixel, np.float32)
            truth = agreeing.truth(images)
            for name in SETS:
                with loaded(agreeing, instruction_set=name) as network:
                    for count in (1, 32):
                        same(
                            network.run(np.repeat(images, count, 0)),
                            np.repeat(truth, count, 0),
                            True,
                            name,
                        )


@pytest.mark.parametrize("bits", [True, False])
@pytest.mark.parametrize("channels", [32766, 32769, 65533])
def test_as_many_taps_as_there_may_be(channels: int, bits: bool) -> None:
    rng = np.random.default_rng(3)
    program = Program.of(channels, 1, 1)
    program.to_bits()
    weights = np.ones((4, channels, 1, 1), np.int8)
    weights[1] = -1
    weights[2] = kept_weights(rng, (1, channels, 1, 1), 0.9)
    weights[3] = 0
    shift = -np.array([channels, channels, 3, 0.0])
    program.conv(bits, weights, np.ones(4), shift)
    if bits:
        program.to_floats()
    for pixels in (
        np.ones((1, channels, 1, 1)),
        -np.ones((1, channels, 1, 1)),
        random_pixels(rng, 1, program),
    ):
        images = pixels.astype(np.float32)
        for name in SETS:
            with loaded(program, instruction_set=name) as network:
                for count in (1, 64):
                    same(
                        network.run(np.repeat(images, count, 0)),
                        np.repeat(program.truth(images), count, 0),
                        True,
                        name,
                        count,
                    )


def test_one_tap_too_many() -> None:
    program = Program.of(65534, 1, 1)
    program.conv(False, np.ones((1, 65534, 1, 1), np.int8), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match=r"^6$"), loaded(program):
        pass


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_padding_beside_rows_of_a_whole_word(stride: int) -> None:
    rng = np.random.default_rng(14)
    for width in (62, 64):
        check(conv_program(rng, "bits to bits", (3, 5), (3, width), (7, 7), stride, 3), rng, SETS)


def test_results_wider_than_a_word_of_bits_that_fit_one() -> None:
    rng = np.random.default_rng(17)
    for channels in (1, 65):
        check(conv_program(rng, "bits to floats", (channels, 5), (3, 64), (3, 3), 1, 2), rng, SETS)


def test_kernels_wider_than_a_word() -> None:
    """The padding is behind the 64th bit, and before the first."""
    rng = np.random.default_rng(4)
    for size, kernel, padding in (((5, 64), (4, 67), 2), ((3, 40), (3, 41), 2)):
        for stride in (1, 2, 3):
            for flavor in ("bits to bits", "bits to floats"):
                check(conv_program(rng, flavor, (2, 3), size, kernel, stride, padding), rng, SETS)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("size", [(33, 33), (64, 64)])
def test_a_linear_layer_on_a_large_map(size: tuple[int, int], dense: bool) -> None:
    rng = np.random.default_rng(5)
    flavor = "dense to floats" if dense else "floats to floats"
    check(conv_program(rng, flavor, (3, 5), size, size), rng, SETS)
    behind_bits = Program.of(2, *size)
    behind_bits.to_bits()
    behind_bits.to_floats()
    append_conv(behind_bits, rng, flavor, 5, size)
    check(behind_bits, rng, SETS)


SLOW_POOLS = [
    pytest.param(size, marks=pytest.mark.slow) for size in ((6, 64), (16, 16), (17, 31), (9, 33))
]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 7), (8, 8), (2, 65), *SLOW_POOLS], ids=str)
def test_pools(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    shapes = [
        ((1, 1), 1, 0),
        ((2, 2), 2, 0),
        ((3, 3), 2, 1),
        ((3, 3), 1, 1),
        ((2, 3), 3, 1),
        ((4, 4), 4, 0),
        ((4, 4), 1, 3),
        (size, 1, 0),
    ]
    for kernel, stride, padding in shapes:
        if any(side + 2 * padding < k for side, k in zip(size, kernel, strict=True)):
            continue
        for kind in ("max_pool", "avg_pool"):
            for from_bits in (False, True):
                for act in ("", "relu", "sign", "sign0", "bits"):
                    area = kernel[0] * kernel[1] if kind == "avg_pool" else 1
                    if "s" in act and area & (area - 1):
                        continue  # a mean that is not exact
                    program = Program.of(4, *size)
                    if from_bits:
                        program.to_bits()
                    scale = factors(rng, 4)
                    shift = shifts(rng, scale, 4)
                    if from_bits and act == "bits" and kind == "max_pool":
                        scale, shift = (
                            np.sign(scale - 0.1),
                            np.zeros(4),
                        )  # as engine/lower.py writes it: +1 any, -1 all
                    program.pool(
                        kind,
                        act == "bits",
                        None,
                        kernel,
                        stride,
                        padding,
                        act.replace("bits", "sign"),
                        scale,
                        shift,
                    )
                    if act == "bits":
                        program.to_floats()
                    check(program, rng, SETS)


@pytest.mark.parametrize(
    "flavor", ["bits to bits", "bits and bits to bits", "bits and floats to bits", "bits to floats"]
)
@pytest.mark.parametrize(
    "size,channels,stride",
    [((8, 8), (3, 12), 1), ((7, 8), (65, 24), 1), ((15, 13), (63, 20), 2), ((5, 8), (200, 64), 1)],
)
def test_groups_of_channels(
    flavor: str, size: tuple[int, int], channels: tuple[int, int], stride: int
) -> None:
    """Planes of one word of one image: four or eight output channels at once, where the instruction
    set has that.
    """
    for density in (0.05, 0.3):
        check(
            conv_program(
                np.random.default_rng(15), flavor, channels, size, (3, 3), stride, 1, density
            ),
            np.random.default_rng(16),
            SETS,
        )


@pytest.mark.parametrize("channels", [1, 3, 63, 65, 200])
@pytest.mark.parametrize("size", [(8, 8), (5, 8), (2, 16), (7, 12), (4, 4), (3, 2)], ids=str)
def test_a_convolution_and_the_pool_behind_it(size: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(13)
    names: set[str] = set()
    for act, other_act, stride in (
        ("", "", 1),
        ("sign", "relu", 1),
        ("relu", "", 2),
        ("sign0", "sign", 1),
    ):
        program = Program.of(channels, size[0] * stride, size[1] * stride)
        append_conv(program, rng, "bits to floats", 17, (3, 3), stride, 1, 0.3, act)
        scale = factors(rng, 17)
        program.pool("max_pool", False, None, (2, 2), 2, 0, other_act, scale, shifts(rng, scale, 4))
        names |= check(program, rng, SETS)
    if size[1] % 8 == 0 and SETS != ["scalar"]:
        assert any(name.endswith("lanes (64 images), max pool") for name in names)


@pytest.mark.parametrize("channels", [1, 65, 200])
@pytest.mark.parametrize("act", ["", "relu"])
def test_a_pool_that_selects(channels: int, act: str) -> None:
    """Of one image's 8x8 map, it is done on counts where no scale is negative."""
    rng = np.random.default_rng(16)
    for least, density in ((0.25, 0.05), (0.25, 0.5), (-2.0, 0.3)):
        program = Program.of(channels, 8, 8)
        scale = np.maximum(
            least, 2.0 ** rng.integers(-2, 2, 48) * rng.choice([1, np.sign(least)], 48)
        )
        weights = kept_weights(rng, (48, channels, 3, 3), density)
        program.conv(
            False,
            weights,
            scale,
            rng.integers(-9, 9, 48).astype(float),
            program.to_bits(),
            1,
            1,
            act,
        )
        program.pool("max_pool", kernel=(2, 2), stride=2)
        names = check(program, rng, SETS)
        if {"avx512", "avx2"} & {*SETS} and channels > 1:
            inside = any("positions of" in name and "max pool" in name for name in names)
            assert inside == (least > 0), names
        if "avx512" in SETS and (channels, least, density) == (200, 0.25, 0.5):
            assert any("shuffled, max pool" in name for name in names), names


def test_the_pool_of_a_value_that_others_read_too() -> None:
    rng = np.random.default_rng(14)
    program = Program.of(8, 8, 8)
    append_conv(program, rng, "bits to floats", 8, (3, 3), 1, 1, 0.5)
    read = len(program.values) - 1
    program.pool("max_pool", kernel=(2, 2), stride=2)
    program.conv(
        False,
        kept_weights(rng, (8, 8, 2, 2), 0.5),
        np.ones(8),
        np.zeros(8),
        read,
        2,
        0,
        "",
        len(program.values) - 1,
        np.ones(8),
    )
    check(program, rng, SETS)


@pytest.mark.parametrize("size,padding", [((4, 4), 1), ((4, 4), 3), ((8, 2), 1), ((2, 8), 1)])
def test_a_mean_pool_as_large_as_the_map_but_beside_it(size: tuple[int, int], padding: int) -> None:
    rng = np.random.default_rng(7)
    for stride in (1, 3, 16):
        program = Program.of(5, *size)
        program.to_bits()
        (
            program.pool("avg_pool", kernel=(4, 4), stride=stride, padding=padding)
            if min(size) + 2 * padding >= 4
            else None
        )
        check(program, rng, SETS)


def test_linear_layers_on_numbers_that_are_not_whole() -> None:
    """Sums of random floats, to float rounding; in one image, a group, and a group that is not
    full.
    """
    rng = np.random.default_rng(8)
    for channels, size, kernel, stride, padding in (
        ((3, 65), (32, 32), (3, 3), 1, 1),
        ((65, 64), (8, 8), (3, 3), 2, 1),
        ((200, 63), (1, 1), (1, 1), 1, 0),
        ((64, 65), (7, 7), (7, 7), 1, 0),
        ((3, 16), (33, 31), (7, 7), 2, 3),
    ):
        for flavor in ("floats to floats", "dense to floats", "floats and floats to floats"):
            program = conv_program(rng, flavor, channels, size, kernel, stride, padding)
            images = rng.standard_normal((5, *program.values[0].shape)).astype(np.float32)
            order = rng.integers(0, 5, 66)
            for name in SETS:
                with loaded(program, instruction_set=name) as network:
                    same(network.run(images[:1]), program.truth(images[:1]), False, name)
                    same(network.run(images[order]), program.truth(images)[order], False, name)


def test_pixels() -> None:
    """Bytes and floats, both layouts, with and without normalisation."""
    rng = np.random.default_rng(9)
    for mean, std in (((), ()), ((0.25, 0.5, 0.125), (0.5, 0.25, 2.0))):
        program = Program([*Program.of(3, 5, 7).values], mean=mean, std=std)
        program.pool("max_pool", scale=np.array([1.0, -2.0, 0.5]))
        images = rng.integers(0, 256, (70, 3, 5, 7), dtype=np.uint8)
        normalised = images.astype(np.float32) / np.float32(255)
        expected = normalised
        if mean:
            m, s = (np.array(numbers, np.float32).reshape(1, 3, 1, 1) for numbers in (mean, std))
            expected = (normalised - m) / s
        for name in SETS:
            with loaded(program, instruction_set=name) as network:
                for pixels in (images, normalised):
                    for count in (0, 1, 2, 64, 70):
                        truth = program.truth(expected[:count])
                        same(network.run(pixels[:count]), truth, True, name)
                        same(
                            network.run(pixels[:count].transpose(0, 2, 3, 1), layout=1),
                            truth,
                            True,
                            name,
                        )


def append_any(program: Program, rng: np.random.Generator) -> None:
    """Append a pool or a convolution; some take an earlier value of the same shape along."""
    at, source = program.last, len(program.values) - 1
    bits = bool(rng.integers(2))
    if rng.random() < 0.3:
        kernel = [(k, k) for k in (1, 2) if k <= min(at.height, at.width)][-1]
        kind = "max_pool" if (at.bits and bits) or rng.random() < 0.6 else "avg_pool"
        if kind == "avg_pool" and at.unit < 2**-6:
            kind = "max_pool"
        scale = factors(rng, at.channels)
        if at.bits and bits:
            program.pool(kind, True, kernel=kernel, stride=kernel[0], scale=np.sign(scale - 0.1))
        else:
            program.pool(
                kind,
                bits,
                kernel=kernel,
                stride=kernel[0],
                scale=scale,
                shift=shifts(rng, scale, at.most),
            )
        return
    sides = (at.height, at.width)
    kernels = [
        k
        for k in ((1, 1), (3, 3), sides)
        if all(
            s + 2 * (k[0] // 2 if k[0] == k[1] else 0) >= n for s, n in zip(sides, k, strict=True)
        )
    ]
    kernel = kernels[rng.integers(len(kernels))]
    if at.channels * kernel[0] * kernel[1] > 4096:
        kernel = (1, 1)
    padding = (
        int(rng.integers(0, min(kernel))) if 1 < kernel[0] * kernel[1] < 500 else 0
    )  # sums on floats take no more
    if any(s + 2 * padding < n for s, n in zip(sides, kernel, strict=True)):
        padding = kernel[0] // 2
    stride, channels = int(rng.choice([1, 1, 2])), int(rng.choice([1, 3, 17, 65]))
    out = tuple((s + 2 * padding - n) // stride + 1 for s, n in zip(sides, kernel, strict=True))
    same_shape = [
        i for i, v in enumerate(program.values) if v.shape == (channels, *out) and i != source
    ]
    residual = int(rng.choice(same_shape)) if same_shape and rng.random() < 0.7 else None
    weights = kept_weights(rng, (channels, at.channels, *kernel), float(rng.choice(DENSITIES)))
    if at.most > at.unit * EXACT / 2**6 / max(1, np.abs(weights).sum(axis=(1, 2, 3)).max()):
        weights[:, 1:] = 0  # so that sums stay exact
        weights[:, :, 1:] = 0
    scale, act = factors(rng, channels), str(rng.choice(["", "relu", "sign", "sign0"]))
    spread = max(1.0, 0.7 * float(np.abs(weights).sum(axis=(1, 2, 3)).max()) ** 0.5 * at.most)
    residual_scale = None if residual is None else factors(rng, channels)
    program.conv(
        bits,
        weights,
        scale,
        shifts(rng, scale, spread),
        source,
        stride,
        padding,
        act,
        residual,
        residual_scale,
    )


def random_chain(rng: np.random.Generator, length: int) -> Program:
    """Operations after one another, as long as it is known what comes of them."""
    program = Program.of(int(rng.choice([1, 3, 5, 64])), *SIZES[rng.integers(len(SIZES))])
    for _ in range(length):
        try:
            append_any(program, rng)
        except InexactError:
            break
    if program.last.bits:
        program.to_floats()
    return program


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 4))
def test_chains(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    check(random_chain(rng, length), rng, SETS)


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(2, 8))
def test_long_chains(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    check(random_chain(rng, length), rng, SETS)


def test_every_kernel_is_among_the_tests() -> None:
    rng = np.random.default_rng(10)
    ran: set[str] = set()
    for flavor, channels, size, kernel in (
        ("bits to bits", (64, 64), (8, 8), (3, 3)),
        ("bits to bits", (200, 64), (1, 1), (1, 1)),
        ("floats to floats", (64, 64), (8, 8), (3, 3)),
        ("floats to floats", (64, 64), (4, 4), (4, 4)),
        ("dense to floats", (3, 64), (8, 8), (3, 3)),
    ):
        ran |= check(conv_program(rng, flavor, channels, size, kernel, 1, 0, 0.5), rng, SETS)
    for part in (
        "bit-sliced",
        "positions",
        "lanes (64 images)",
        "popcount",
        "sparse sum",
        "sparse dot",
        "dense sum",
    ):
        assert any(part in name for name in ran), (part, ran)


@pytest.mark.parametrize("density", [0.15, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("flavor", [flavor for flavor in FLAVORS if flavor.startswith("bits")])
def test_planes_of_one_word(flavor: str, density: float) -> None:
    """8x8 and 4x4 positions of many channels: by gathers, by permutations of windows that are full
    or not.
    """
    rng = np.random.default_rng(18)
    ran: set[str] = set()
    for size, kernel, stride, channels in (
        ((8, 8), (3, 3), 1, (14, 16)),
        ((7, 6), (3, 3), 1, (15, 16)),
        ((16, 16), (3, 3), 2, (16, 8)),
        ((8, 8), (3, 3), 1, (31, 32)),
        ((8, 8), (3, 3), 1, (560, 16)),
        ((16, 16), (3, 3), 2, (16, 48)),
        ((4, 4), (3, 3), 1, (20, 64)),
        ((4, 4), (3, 3), 1, (5, 32)),
        ((8, 8), (3, 3), 2, (33, 32)),
        ((8, 8), (1, 1), 1, (62, 16)),
        ((8, 8), (1, 1), 2, (64, 96)),
    ):
        ran |= check(
            conv_program(rng, flavor, channels, size, kernel, stride, kernel[0] // 2, density),
            rng,
            SETS,
            many=1,
        )
    expected = {
        "avx2": ["16 positions of 16 channels, shuffled"],
        "avx512": [
            "32 positions of 16 channels, shuffled",
            "16 positions of 32 channels, shuffled",
        ],
    }
    for instruction_set in set(SETS) & set(expected):
        for part in expected[instruction_set]:
            assert any(part in name for name in ran), (part, ran)


def test_a_channel_that_keeps_nothing_is_its_shift() -> None:
    rng = np.random.default_rng(11)
    for from_bits in (False, True):
        for dense in (False, True)[: 1 if from_bits else 2]:
            program = Program.of(5, 6, 6)
            if from_bits:
                program.to_bits()
            shift = np.array([0.1, -3.7, 0.0])
            zeros = np.zeros((3, 5, 3, 3), np.float32 if dense else np.int8)
            program.conv(False, zeros, np.array([1e20, -0.3, 0.0]), shift, padding=1)
            for name in SETS:
                with loaded(program, instruction_set=name) as network:
                    for count in (1, 64):
                        got = network.run(random_pixels(rng, count, program)).reshape(count, 3, 36)
                        assert (got == shift.astype(np.float32)[:, None]).all()


THREADED = [
    ("floats to bits", (3, 64), (9, 33), (3, 3), 1, 1),  # tiles of lanes begin within a row
    ("floats to bits", (3, 64), (31, 31), (3, 3), 1, 1),
    ("dense and floats to bits", (3, 40), (33, 9), (3, 3), 1, 1),
    ("floats and bits to bits", (3, 40), (31, 17), (3, 3), 2, 1),
    ("bits to bits", (64, 64), (32, 32), (3, 3), 1, 1),
    ("bits to floats", (64, 65), (9, 33), (3, 3), 1, 1),
    ("bits to bits", (200, 200), (1, 1), (1, 1), 1, 0),
    ("bits and bits to floats", (64, 64), (7, 7), (3, 3), 1, 1),
    ("floats to floats", (64, 65), (7, 7), (7, 7), 1, 0),
    ("floats and floats to floats", (17, 65), (31, 33), (3, 3), 2, 1),
    ("floats and floats to floats", (40, 64), (32, 32), (3, 3), 1, 1),  # machine code
    ("floats to floats", (200, 65), (9, 33), (3, 3), 1, 1),
]


@pytest.mark.parametrize("case", THREADED, ids=str)
def test_threads_change_nothing(case: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(12)
    program = conv_program(rng, *case)
    images = rng.standard_normal((65, *program.values[0].shape)).astype(np.float32)
    for name in SETS:
        with loaded(program, 1, name) as one, loaded(program, 2, name) as two:
            for count in (1, 65):
                for repeat in range(10 if count == 1 else 1):
                    part = images[repeat : repeat + 1] if count == 1 else images
                    expected = one.run(part)
                    np.testing.assert_array_equal(two.run(part), expected)


def test_images_beyond_the_second_cache_run_one_by_one_and_threads_share_them() -> None:
    rng = np.random.default_rng(24)
    program = conv_program(rng, "floats to floats", (64, 64), (64, 64), (3, 3), 1, 1, 0.05)
    images = rng.standard_normal((5, *program.values[0].shape)).astype(np.float32)
    for name in SETS:
        if name in ("scalar", "amx"):  # scalar arithmetic costs more; products of AMX need groups
            continue
        with loaded(program, 1, name) as one, loaded(program, 2, name) as two:
            assert one.explained(64)[0][1] == "1"
            alone = [one.run(images[i : i + 1])[0] for i in range(len(images))]
            np.testing.assert_array_equal(one.run(images), alone)
            np.testing.assert_array_equal(two.run(images), alone)


@pytest.mark.parametrize("density", [0.05, 0.3])
@pytest.mark.parametrize("size", [(4, 4), (8, 8), (16, 16)], ids=str)
def test_either_kind_of_batch_may_come_first(size: tuple[int, int], density: float) -> None:
    """The second kind makes its lists of the first one's, which hold the weights by then; both
    orders end with as many bytes.
    """
    rng = np.random.default_rng(21)
    program = conv_program(rng, "bits and bits to bits", (40, 32), size, (3, 3), 1, 1, density)
    images = random_pixels(rng, 64, program)
    expected = program.truth(images)
    for name in SETS:
        with loaded(program, 1, name) as one_first, loaded(program, 1, name) as many_first:
            before = one_first.held()
            for network, counts in ((one_first, (1, 64, 1)), (many_first, (64, 1, 64))):
                for count in counts:
                    same(network.run(images[:count]), expected[:count], True, name, counts)
                network.calibrate(images[:1])
                same(network.run(images[:1]), expected[:1], True, name, counts)
                network.run(images)
            assert one_first.held() == many_first.held() > before / 2


SUMS = [  # channels, size, kernel, stride, padding, density
    ((300, 70), (4, 4), (3, 3), 1, 1, 0.3),  # tiles of one vector, lists filled up
    ((130, 70), (8, 8), (3, 3), 1, 1, 0.1),
    ((130, 40), (16, 16), (3, 3), 1, 1, 0.05),
    ((130, 40), (13, 11), (3, 3), 2, 1, 0.1),
    ((40, 40), (4, 6), (4, 6), 1, 0, 0.3),  # the kernel covers the map
    ((300, 33), (5, 5), (1, 1), 1, 0, 0.3),
]


@pytest.mark.parametrize("case", SUMS, ids=str)
def test_lists_of_sums_hold_the_weights(case: tuple[Any, ...]) -> None:
    """Mask and sign are released once a network has run, and made of lists where they are needed:
    for the other kind of batch, and for 8 bits.
    """
    rng = np.random.default_rng(25)
    program = conv_program(rng, "floats to floats", *case)
    images = random_pixels(rng, 64, program)
    expected = program.truth(images)
    for name in SETS:
        with loaded(program, 1, name) as new:
            new.calibrate(images)
            quantised = new.run(images)
        for counts in ((1, 64, 1), (64, 1, 64)):
            with loaded(program, 1, name) as network:
                for count in counts:
                    same(network.run(images[:count]), expected[:count], False, name, counts)
                network.calibrate(images)
                np.testing.assert_array_equal(network.run(images), quantised, name)


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("density", [0.05, 0.25])
def test_memory_is_at_most_three_times_the_packed_weights(count: int, density: float) -> None:
    program = conv_program(
        np.random.default_rng(22), "bits to bits", (512, 512), (8, 8), (3, 3), 1, 1, density
    )
    packed = 2 * 512 * 512 * 9 / 8  # bytes: two bits a weight
    for name in SETS:
        with loaded(program, 1, name) as network:
            network.run(np.zeros((count, *program.values[0].shape), np.float32))
            assert network.held() <= packed * (
                3.3 if name == "avx2" else 3
            )  # its lists are as long as the longest of four


@pytest.mark.parametrize(
    ("flavor", "size"),
    [("bits to bits", (4, 4)), ("bits to bits", (8, 8)), ("floats to floats", (8, 8))],
    ids=str,
)
def test_memory_after_both_kinds_of_batches(flavor: str, size: tuple[int, int]) -> None:
    """Lists are dropped and made again, also where batches come in turn for so long that the steps
    for single images are deleted; logits do not change by that.
    """
    rng = np.random.default_rng(23)
    program = conv_program(rng, flavor, (256, 256), size, (3, 3), 1, 1, 0.2)
    packed = 2 * 256 * 256 * 9 / 8
    images = random_pixels(rng, 64, program)
    for name in [name for name in SETS if name != "scalar"]:  # which is slow
        with loaded(program, 1, name) as network:
            first = [network.run(images[:1])]
            if flavor == "floats to floats" and "sum, 64" in network.kernels(1)[0]:
                assert network.held() <= 1.9 * packed, name  # lists alone: 1.6
            first.append(network.run(images))
            for count in (1, 64, 64, 1, *[64] * 17, 1, 64):
                got = network.run(images[:count])
                np.testing.assert_array_equal(got, first[count > 1], name)
                assert network.held() <= 3.1 * packed, name  # thresholds count, too


def test_many_callers_get_what_one_gets() -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small", (16, 16)))
    images = np.random.default_rng(13).integers(0, 256, (8, 50, 2, 3, 16, 16), dtype=np.uint8)
    run = Engine(ticket, threads=min(2, engine.cores()))
    expected = np.stack([[run.run(part) for part in images[caller]] for caller in range(8)])
    with ThreadPoolExecutor(8) as callers:
        got = np.stack(
            list(callers.map(lambda own: np.stack([run.run(part) for part in own]), images))
        )
    np.testing.assert_array_equal(got, expected)


def test_a_machine_without_room_for_threads() -> None:
    """The core says so; it does not end the process."""
    code = (
        "import resource, sys\n"
        "from programs import Program, loaded\n"
        "import numpy as np\n"
        "program = Program.of(1, 1, 1); program.to_floats(); code = program.code()\n"
        "with loaded(code): pass\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)\n"
        "try:\n"
        "    with loaded(code, 1000): pass\n"
        "except ValueError as e: print('error', e)\n"
    )
    if not sys.platform.startswith("linux") or os.environ.get("BIPROP_CORE"):
        pytest.skip("limits of Linux, and not of a sanitizer's memory")
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("error 5", "error 7"), done.stdout


@pytest.mark.parametrize("instruction_set", ALL_SETS)
@pytest.mark.parametrize("unsigned", [False, True])
def test_sums_of_levels(instruction_set: str, unsigned: bool) -> None:
    """Pixels that are whole and reach the largest level are their own levels, so that everything is
    exact.
    """
    rng = np.random.default_rng(11)
    most = 255 if unsigned else 127
    cases = [
        (3, 65, (9, 33), 3, 1, 1, 0.5),
        (64, 20, (32, 32), 3, 1, 1, 0.2),
        (64, 130, (8, 8), 3, 1, 1, 1.0),
        (200, 7, (5, 7), 1, 1, 0, 0.5),
        (200, 9, (7, 7), 3, 2, 1, 0.9),
        (5, 4, (4, 4), 3, 1, 1, 0.0),
        (6, 6, (16, 16), 5, 3, 2, 0.5),
        (512, 5, (4, 4), 3, 1, 1, 0.05),
        (63, 33, (9, 33), 3, 1, 1, 1.0),
        (200, 65, (16, 16), 3, 2, 1, 0.5),
        (512, 40, (4, 4), 3, 1, 1, 0.5),
        (72, 72, (8, 8), 3, 1, 1, 0.9),
        (40, 40, (32, 32), 3, 1, 1, 0.05),
        (40, 40, (10, 16), 3, 1, 1, 0.3),
    ]
    for channels, outputs, size, kernel, stride, padding, density in cases:
        program = Program([Value(False, channels, *size, most=float(most))])
        program.to_floats()
        same_shape = outputs == channels and stride == 1 and kernel == 2 * padding + 1
        weights = kept_weights(rng, (outputs, channels, kernel, kernel), density)
        if 100 <= 32767 // max(1, np.abs(weights).sum(axis=(1, 2, 3)).max()) < most:
            continue  # fewer levels, so that 16 bits hold the sums: not exact here
        scale, shift = factors(rng, outputs), rng.integers(-9, 9, outputs).astype(float)
        residual = (1, np.full(outputs, 0.5)) if same_shape else (None, None)
        program.conv(
            False,
            weights,
            scale,
            shift,
            None,
            stride,
            padding,
            "relu" if density == 0.2 else "",
            *residual,
        )
        images = rng.integers(0 if unsigned else -most, most + 1, (40, channels, *size)).astype(
            np.float32
        )
        images[0, 0, 0, 0] = most
        with loaded(program, instruction_set=instruction_set) as network:
            network.calibrate(images)
            kinds = network.kernels(1)
            assert any("levels" in kind for kind in kinds), kinds
            truth = program.truth(images)
            for batch in (1, 3, 40):
                same(
                    network.run(images[:batch]),
                    truth[:batch],
                    True,
                    instruction_set,
                    program,
                    batch,
                )


@pytest.mark.parametrize(
    "size", [(2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (6, 10), (7, 9), (12, 64)]
)
@pytest.mark.parametrize("rising", [True, False])
def test_pools_of_levels(size: tuple[int, int], rising: bool) -> None:
    """What a pool selects from has the levels of its result; alone or inside a convolution, it
    finds the same.
    """
    rng = np.random.default_rng(15)
    channels = 64
    program = Program([Value(False, channels, *size, most=255.0)])
    program.to_floats()
    scale = 2.0 ** rng.integers(-3, 2, 40) * (1 if rising else rng.choice([-1.0, 1.0], 40))
    weights = kept_weights(rng, (40, channels, 3, 3), 1.0)
    program.conv(False, weights, scale, rng.integers(-99, 99, 40).astype(float), None, 1, 1, "relu")
    program.pool("max_pool", kernel=(2, 2), stride=2)
    program.conv(False, np.eye(40, dtype=np.int8)[..., None, None], np.ones(40), np.zeros(40))
    images = rng.integers(0, 256, (35, channels, *size)).astype(np.float32)
    images[0, 0, 0, 0] = 255
    truth = program.truth(images)
    found = []
    for name in ALL_SETS:
        with loaded(program, instruction_set=name) as network:
            network.calibrate(images)
            products = [kernel for kernel in network.kernels(1) if "product" in kernel]
            inside = any("max pool" in kernel for kernel in products)
            pairs = rising and not any(side % 2 for side in size)
            assert inside == (pairs and bool(products))
            assert products or name != "amx"
            found += [
                network.run(images),
                np.concatenate([network.run(images[i : i + 1]) for i in range(len(images))]),
            ]
    assert all(np.array_equal(one, found[0]) for one in found), (
        "by instruction sets, and by one image or many"
    )
    assert np.abs(found[0].reshape(truth.shape) - truth).max() <= 0.5001 * truth.max() / 255


PRODUCTS_OF_BYTES = [name for name in ALL_SETS if name not in ("amx", "neon", "scalar")]


def residual_chain(rng: np.random.Generator, size: tuple[int, int], density: float) -> Program:
    """Two convolutions that add quantised activations, with scales that are no powers of two."""
    program = Program([Value(False, 64, *size, most=127.0)])
    program.to_floats()
    for residual in (1, 1):
        weights = kept_weights(rng, (64, 64, 3, 3), density)
        scale, other = rng.uniform(0.1, 0.9, 64), rng.uniform(-0.9, 0.9, 64)
        shift = rng.uniform(-9, 9, 64)
        program.conv(False, weights, scale, shift, None, 1, 1, "relu", residual, other)
    return program


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (9, 15)], ids=str)
def test_products_of_bytes_are_what_sums_are(size: tuple[int, int]) -> None:
    """The same bits, whatever computes the sums, for one image, a group, and two threads; also of a
    residual.
    """
    rng = np.random.default_rng(22)
    program = residual_chain(rng, size, 0.9)
    images = rng.integers(-127, 128, (35, 64, *size)).astype(np.float32)
    images[0, 0, 0, 0] = 127
    results = []
    for name in ALL_SETS:
        for threads in (1, 2):
            with loaded(program, threads, instruction_set=name) as network:
                network.calibrate(images)
                multiplied = sum("product" in kernel for kernel in network.kernels(1))
                assert multiplied == (0 if name in ("neon", "scalar") else 2), name
                results += [network.run(images)]
                results += [np.concatenate([network.run(images[i : i + 1]) for i in range(35)])]
    for result in results:
        np.testing.assert_array_equal(result, results[-1])


@pytest.mark.parametrize("name", PRODUCTS_OF_BYTES)
def test_few_kept_weights_are_summed_and_many_are_multiplied(name: str) -> None:
    rng = np.random.default_rng(23)
    for density, word in ((0.05, "sum"), (0.9, "product")):
        program = residual_chain(rng, (32, 32), density)
        images = rng.integers(-127, 128, (16, 64, 32, 32)).astype(np.float32)
        with loaded(program, instruction_set=name) as network:
            network.calibrate(images)
            for batch in (1, 16):
                assert all(word in kernel for kernel in network.kernels(batch)[1:]), density


@pytest.mark.skipif("amx" not in SETS, reason="a processor without products of matrices")
@pytest.mark.parametrize("channels", [(1, 40), (3, 64), (63, 65), (64, 33), (65, 200), (200, 31)])
def test_products(channels: tuple[int, int]) -> None:
    """Densities at which products of matrices pay: strides, paddings, maps where 16 lanes span
    rows, and all batches.
    """
    rng = np.random.default_rng(13)
    kernels: set[str] = set()
    for size, kernel, stride, padding, flavor in (
        ((9, 33), (3, 3), 1, 1, "floats and floats to floats"),
        ((5, 7), (3, 3), 2, 1, "floats to floats"),
        ((16, 16), (3, 3), 2, 0, "floats to bits"),
        ((7, 16), (5, 5), 3, 2, "floats to floats"),
        ((4, 4), (4, 4), 1, 0, "floats to floats"),
        ((32, 32), (1, 1), 2, 0, "floats and bits to floats"),
        ((16, 16), (3, 1), 1, 0, "floats to floats"),
    ):
        kernels |= check(
            conv_program(rng, flavor, channels, size, kernel, stride, padding, 1.0, ""), rng, SETS
        )
    if channels[0] >= 63:
        assert any("product of floats" in kernel for kernel in kernels), kernels


@pytest.mark.skipif("amx" not in SETS, reason="a processor without products of matrices")
def test_products_of_many_taps_and_of_any_floats() -> None:
    """4608 taps; and pixels that need all of a float's digits: three numbers of eight hold them."""
    rng = np.random.default_rng(14)
    program = conv_program(rng, "floats to floats", (512, 40), (4, 4), (3, 3), 1, 1, 0.5, "")
    assert any("product of floats" in kernel for kernel in check(program, rng, SETS))
    images = (
        rng.standard_normal((17, 512, 4, 4)) * 10.0 ** rng.integers(-3, 4, (17, 512, 4, 4))
    ).astype(np.float32)
    truth = program.truth(images)
    with (
        loaded(program, instruction_set="amx") as one,
        loaded(program, 2, instruction_set="amx") as two,
    ):
        found = one.run(images)
        assert np.array_equal(found, two.run(images))
        assert np.abs(found - truth.reshape(found.shape)).max() < 3e-6 * np.abs(truth).max()


def test_a_network_on_levels_is_near_the_one_on_floats() -> None:
    ticket = random_ticket(network_of("VGG_Small"), 0.1)
    rng = np.random.default_rng(12)
    images, known = (
        rng.standard_normal((count, 3, 32, 32)).astype(np.float32) for count in (33, 16)
    )
    floats = Engine(ticket).run(images)
    found = [
        Engine(ticket, calibration=known, instruction_set=name).run(images) for name in ALL_SETS
    ]
    for levels in found:
        assert 0 < np.abs(levels - floats).max() < 0.2 * np.abs(floats).max()
        assert np.corrcoef(levels.ravel(), floats.ravel())[0, 1] > 0.98
        assert np.allclose(
            levels, found[0], atol=0.02 * np.abs(floats).max()
        )  # a rounding may turn a level
    single = Engine(ticket, calibration=known, instruction_set=ALL_SETS[0])
    assert np.allclose(single.run(images[:1]), found[0][:1], atol=0.02 * np.abs(floats).max())


PLANS = {str(narrow(name)): name for name in NETWORKS}
"""A network for each narrow plan; deep ones have that of a shallow one."""


@pytest.mark.parametrize("name", PLANS.values())
def test_every_network_on_levels_is_near_numpy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """8-bit activations where a layer reads and gives floats; where a step knows bits and floats
    only, its values stay floats.
    """
    make_narrow(monkeypatch, name)
    imagenet = name in RESIDUAL and RESIDUAL[name].imagenet
    size = (64, 64) if imagenet else (32, 32)
    ticket = random_ticket(network_of(name, size))
    pixels = np.random.default_rng(0).standard_normal((18, 3, *size)).astype(np.float32)
    expected = Reference(ticket).run(pixels)
    run, most = Engine(ticket, calibration=pixels), np.abs(expected).max()
    many, one = run.run(pixels), run.run(pixels[:1])
    far = np.abs(many - expected).max(1) > 0.1 * most
    assert far.mean() <= (
        0.2 if "BinAct" in name else 0
    )  # a level may turn a sign near 0, and with it one image's answer
    assert np.allclose(one, many[:1], atol=1e-3 * most), "one image, and many"


KINDS = ("floats", "bits")


@pytest.mark.parametrize("name", ALL_SETS)
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("residual", (*KINDS, None))
@pytest.mark.parametrize("to", KINDS)
def test_calibrated_steps_write_what_their_readers_read(
    name: str, source: str, residual: str | None, to: str
) -> None:
    """Whatever kinds of values meet in a convolution, and whoever reads its result: all stay near
    floats, or are the same.
    """
    rng = np.random.default_rng(21)
    program = Program.of(16, 8, 8)
    program.conv(
        source == "bits",
        kept_weights(rng, (24, 16, 3, 3), 0.3),
        factors(rng, 24),
        np.full(24, 0.25),
        0,
        1,
        1,
    )
    first = len(program.values) - 1
    if residual:
        program.conv(
            residual == "bits",
            kept_weights(rng, (24, 16, 3, 3), 0.3),
            factors(rng, 24),
            np.full(24, 0.25),
            0,
            1,
            1,
        )
    other = (len(program.values) - 1, np.full(24, 0.5)) if residual else (None, None)
    program.conv(
        to == "bits",
        kept_weights(rng, (24, 24, 3, 3), 0.3),
        factors(rng, 24),
        np.full(24, 0.25),
        first,
        1,
        1,
        "",
        *other,
    )
    program.conv(
        False, kept_weights(rng, (5, 24, 3, 3), 0.3), np.ones(5), np.zeros(5), None, 1, 1, "relu"
    )
    program.pool("max_pool", kernel=(2, 2), stride=2)
    program.conv(False, kept_weights(rng, (3, 5, 4, 4), 0.9), np.ones(3), np.zeros(3))
    images = random_pixels(rng, 18, program)
    images[:, :, 0, 0] = 8
    truth = program.truth(images).reshape(18, -1)
    with loaded(program, instruction_set=name) as network:
        before = network.run(images)
        for _ in range(2):  # also of a network that has run, and anew
            network.calibrate(images)
            many, one = network.run(images), network.run(images[:1])
            assert np.array_equal(one, many[:1])
            assert np.abs(many - truth).max() <= 0.1 * np.abs(truth).max()
        same(before, truth, program.last.unit > 0, name, program)


@pytest.mark.parametrize("residual", (*KINDS, None))
def test_a_sign_of_a_dot_product_reads_floats(residual: str | None) -> None:
    """One image is a dot product, which could read levels; a group is none.

    Their signs must be of the same sums.
    """
    rng = np.random.default_rng(31)
    program = Program.of(3, 4, 4)
    program.conv(
        False,
        kept_weights(rng, (24, 3, 3, 3), 0.5),
        factors(rng, 24),
        np.full(24, 0.25),
        None,
        1,
        1,
        "relu",
    )
    whole, first = (300, 24, 4, 4), len(program.values) - 1
    if residual:
        program.conv(residual == "bits", kept_weights(rng, whole, 0.3), np.ones(300), np.zeros(300))
    other = (len(program.values) - 1, np.full(300, 0.5)) if residual else (None, None)
    program.conv(
        True, kept_weights(rng, whole, 0.3), np.ones(300), np.zeros(300), first, 1, 0, "", *other
    )
    program.conv(False, kept_weights(rng, (5, 300, 1, 1), 0.5), np.ones(5), np.zeros(5))
    images = random_pixels(rng, 64, program)
    with loaded(program) as network:
        network.calibrate(images)
        assert np.array_equal(
            network.run(images), np.concatenate([network.run(images[i : i + 1]) for i in range(64)])
        )


@pytest.mark.parametrize("factor", [1e-45, 1e-42, 1e-30, 3e38])
def test_ranges_at_the_ends_of_floats(factor: float) -> None:
    """What has no step that is a normal number stays floats."""
    rng = np.random.default_rng(24)
    program = Program([Value(False, 3, 8, 8, most=1.0)])
    program.conv(
        False, kept_weights(rng, (4, 3, 3, 3), 0.7), np.full(4, factor), np.zeros(4), None, 1, 1
    )
    program.conv(
        False,
        kept_weights(rng, (4, 4, 3, 3), 0.7),
        np.full(4, min(1e38, 1 / factor)),
        np.zeros(4),
        None,
        1,
        1,
    )
    images = rng.random((17, 3, 8, 8)).astype(np.float32)
    for name in SETS:
        with loaded(program, instruction_set=name) as network:
            before = network.run(images)
            network.calibrate(images)
            many, one = network.run(images), network.run(images[:1])
            assert np.array_equal(one, many[:1], equal_nan=True)
            if factor == 1e-30:
                assert 0 < np.abs(many - before).max() < 0.1 * np.abs(before).max()
            else:
                assert np.array_equal(many, before, equal_nan=True)


@pytest.mark.parametrize(
    "kernel,size", [((1, 4095), (2, 4099)), ((4095, 1), (4097, 3)), ((2, 2047), (4, 2060))]
)
@pytest.mark.parametrize("dense", [False, True])
def test_kernels_that_span_most_of_what_16_bits_name(
    kernel: tuple[int, int], size: tuple[int, int], dense: bool
) -> None:
    rng = np.random.default_rng(23)
    program = Program.of(1, *size)
    weights = (dense_weights if dense else kept_weights)(rng, (2, 1, *kernel), 0.5)
    program.conv(False, weights, np.ones(2), np.zeros(2))
    check(program, rng, (SETS[0], SETS[-1]), 17)
