"""The engine's C interface: damaged programs and wrong arguments give error codes, and the C
example works, also on AArch64.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, make_narrow, network_of, random_ticket
from hypothesis import given
from hypothesis import strategies as st
from programs import (
    Loaded,
    Op,
    Program,
    Value,
    factors,
    kept_weights,
    loaded,
    random_pixels,
    same,
    shifts,
)
from test_kernels import conv_program, drawn_cases

from biprop import Engine, native
from biprop.engine import engine

pytestmark = pytest.mark.skipif(not engine.instruction_sets(), reason="no compiled core")

(
    OK,
    BAD_FILE,
    BAD_PROGRAM,
    BAD_ARGUMENT,
    NOT_FINITE,
    NO_MEMORY,
    TOO_LARGE,
    INTERNAL,
    NO_SUCH_INSTRUCTION_SET,
) = range(9)
EXAMPLE = native.include_dir().parent / "examples" / "c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def small_program() -> Program:
    """Every kind of operation, few bytes."""
    rng = np.random.default_rng(0)
    program = Program([*Program.of(2, 4, 5).values], mean=(0.5, 0.25), std=(1.0, 2.0))
    scale = factors(rng, 3)
    program.conv(
        True, kept_weights(rng, (3, 2, 3, 3), 0.5), scale, shifts(rng, scale, 8), padding=1
    )
    program.conv(
        True,
        kept_weights(rng, (3, 3, 3, 3), 0.5),
        scale,
        shifts(rng, scale, 2),
        1,
        1,
        1,
        "",
        1,
        factors(rng, 3),
    )
    program.pool("max_pool", True, kernel=(2, 2), stride=2)
    program.pool("avg_pool", kernel=(2, 2))
    program.conv(False, np.ones((2, 3, 1, 1), np.float32), np.ones(2), np.zeros(2), act="relu")
    return program


def load_error(code: bytes) -> int:
    """What loading gives; a network that loads is small enough to be run once."""
    try:
        network = Loaded(code)
    except ValueError as e:
        return int(e.args[0])
    try:
        if np.prod(network.shape) < 1 << 16:
            network.run(np.zeros((1, *network.shape), np.float32))
    except RuntimeError as e:
        return int(e.args[0])
    finally:
        network.close()
    return OK


def test_every_truncation_is_noticed() -> None:
    code = small_program().code()
    assert load_error(code) == OK
    for size in range(len(code)):
        assert load_error(code[:size]) == BAD_PROGRAM, size
    assert load_error(code + b"\0") == BAD_PROGRAM


def test_every_changed_byte_is_survived() -> None:
    """There is no checksum: a changed weight is another network.

    Nothing else happens than that, or an error.
    """
    code = small_program().code()
    for at in range(len(code)):
        for flip in (1, 128, 255):
            changed = bytearray(code)
            changed[at] ^= flip
            assert load_error(bytes(changed)) in (OK, BAD_PROGRAM, TOO_LARGE, NO_MEMORY), (at, flip)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_garbage_is_survived(garbage: bytes, keep: int) -> None:
    code = small_program().code()
    assert load_error(garbage) in (BAD_PROGRAM,)
    assert load_error(code[:keep] + garbage) in (OK, BAD_PROGRAM, TOO_LARGE, NO_MEMORY)


def test_wrong_arguments(tmp_path: Path) -> None:
    core, code = engine._core(), small_program().code()
    assert core
    network, logits, images = ctypes.c_void_p(), np.zeros(99, np.float32), np.zeros(999, np.float32)
    place = ctypes.byref(network)
    for threads in (0, -1, 1025, -(2**31)):
        assert core.biprop_load(code, len(code), threads, place) == BAD_ARGUMENT
        assert core.biprop_load_file(str(tmp_path / "absent").encode(), threads, place) != OK
    assert (
        core.biprop_load(None, 10, 1, place)
        == core.biprop_load(code, len(code), 1, None)
        == BAD_ARGUMENT
    )
    assert (
        core.biprop_load_file(None, 1, place)
        == core.biprop_load_file(b"x", 1, None)
        == BAD_ARGUMENT
    )
    assert core.biprop_load(code, 0, 1, place) == BAD_PROGRAM
    assert core.biprop_load_file(str(tmp_path / "absent").encode(), 1, place) == BAD_FILE
    assert core.biprop_load_file(str(tmp_path).encode(), 1, place) == BAD_FILE
    assert network.value is None  # set on success only
    (tmp_path / "empty").touch()
    assert core.biprop_load_file(str(tmp_path / "empty").encode(), 1, place) == BAD_PROGRAM
    (tmp_path / "code").write_bytes(code)
    assert core.biprop_load_file(str(tmp_path / "code").encode(), 1, place) == OK

    for run, scalar in ((core.biprop_run_f32, 4), (core.biprop_run_u8, 1)):
        pixels, to = images.ctypes.data, logits.ctypes.data
        assert scalar * images.size > 1 and run(network, pixels, 1, 0, to) == OK
        assert (
            run(None, pixels, 1, 0, to)
            == run(network, None, 1, 0, to)
            == run(network, pixels, 1, 0, None)
            == BAD_ARGUMENT
        )
        assert (
            run(network, pixels, -1, 0, to) == run(network, pixels, -(2**63), 0, to) == BAD_ARGUMENT
        )
        assert run(network, pixels, 1, 7, to) == run(network, pixels, 1, -1, to) == BAD_ARGUMENT
        assert run(network, None, 0, 0, None) == run(network, None, 0, 1, None) == OK
    for bad in (np.nan, np.inf, -np.inf):
        images[39] = bad
        assert (
            core.biprop_run_f32(network, images.ctypes.data, 1, 0, logits.ctypes.data) == NOT_FINITE
        )
        images[39] = 0
        assert core.biprop_run_f32(network, images.ctypes.data, 1, 0, logits.ctypes.data) == OK

    assert core.biprop_explain(None, 1, None, 0) == 0
    assert core.biprop_explain(network, -5, None, 0) > 0
    text = ctypes.create_string_buffer(b"12345678")
    assert (
        core.biprop_explain(network, 1, text, 4) > 4
        and len(text.value) == 3
        and text.raw[4:8] == b"5678"
    )
    for name in (b"mmx", b"SCALAR", b"avx", b" ", None):
        assert core.biprop_use_instruction_set(name) == BAD_ARGUMENT
    assert core.biprop_use_instruction_set(b"") == OK
    assert all(core.biprop_message(error) for error in (-1, *range(9), 2**31 - 1))
    core.biprop_free(network)
    core.biprop_free(None)


def test_a_refused_instruction_set_changes_nothing() -> None:
    core = engine._core()
    assert (
        core
        and core.biprop_use_instruction_set(b"scalar") == OK
        and core.biprop_use_instruction_set(b"mmx") == BAD_ARGUMENT
    )
    code, network = small_program().code(), ctypes.c_void_p()
    core.biprop_load(code, len(code), 1, ctypes.byref(network))
    text = ctypes.create_string_buffer(4096)
    core.biprop_explain(network, 1, text, len(text))
    core.biprop_free(network)
    core.biprop_use_instruction_set(b"")
    assert text.value.startswith(b"scalar")


def predicted(command: list[str], program: Path, pixels: np.ndarray, folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    """The logits of the C example; what it prints is their greatest."""
    (folder / "pixels").write_bytes(pixels.tobytes())
    done = subprocess.run(
        [*command, program, folder / "pixels", folder / "logits"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logits = np.fromfile(folder / "logits", np.float32).reshape(len(pixels), -1)
    assert [int(line.split()[0]) for line in done.stdout.splitlines()] == logits.argmax(
        axis=1
    ).tolist()
    return logits


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The C example, built by the system's C compiler."""
    compiler = next((found for found in map(shutil.which, ("cc", "gcc", "clang")) if found), None)
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C compiler")
    if os.environ.get("BIPROP_CORE"):
        pytest.skip("of the installed library")
    core = Path(native.__file__).with_name(native.FILE)
    command = [
        compiler,
        *STRICT,
        "-I",
        native.include_dir(),
        EXAMPLE / "predict.c",
        core,
        f"-Wl,-rpath,{core.parent}",
    ]
    done = subprocess.run(
        [*command, "-o", tmp_path / "predict"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "predict"


def test_the_c_example(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_narrow(monkeypatch, "VGG_Small_BinAct")
    ticket = random_ticket(network_of("VGG_Small_BinAct"))
    run = Engine(ticket)
    run.save_program(tmp_path / "a.bprog")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    logits = predicted([str(example)], tmp_path / "a.bprog", pixels, tmp_path)
    np.testing.assert_array_equal(logits[:64], run.run(pixels[:64], "NHWC"))
    np.testing.assert_array_equal(logits[64:], run.run(pixels[64:], "NHWC"))


@pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("cmake"), reason="no cmake, or Windows"
)
def test_cmake_finds_the_engine_and_the_program_runs_from_any_folder(tmp_path: Path) -> None:
    source, build = EXAMPLE, tmp_path / "build"
    configure = ["cmake", "-S", source, "-B", build, f"-Dbiprop_DIR={native.cmake_dir()}"]
    for command in (configure, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([build / "predict"], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stderr


def test_what_the_c_example_says_of_mistakes(example: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bprog").write_bytes(small_program().code())
    (tmp_path / "half").write_bytes(b"x" * 21)
    for arguments, word in (
        ([], "usage"),
        (["absent", "absent"], "read"),
        (["half", "half"], "not a program"),
        (["a.bprog", "absent"], "read"),
        (["a.bprog", "half"], "whole number"),
    ):
        done = subprocess.run(
            [example, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode in (1, 2) and word in done.stderr, (arguments, done)


ARM = {
    "kernels_neon": (),
    "kernels_dotprod": ("-march=armv8.2-a+dotprod",),
    "kernels_i8mm": ("-march=armv8.2-a+dotprod+i8mm",),
}
"""The kernels for AArch64, and their flags in CMakeLists.txt."""


def compiled(command: list[Any], output: Path) -> Path:
    done = subprocess.run([*command, "-o", output], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Programs for AArch64: the C example with NEON and with plain C++ only; run_program.cpp."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if not compiler or not shutil.which("qemu-aarch64"):
        pytest.skip("no aarch64-linux-gnu-g++ and qemu-aarch64")
    folder = tmp_path_factory.mktemp("aarch64")
    strict = ["-O2", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread"]
    names = [f"-D{name.replace('kernels', 'BIPROP').upper()}" for name in ARM]
    build = [compiler, *strict, "-I", native.include_dir(), "-c"]
    objects = {}
    for path in [*(ROOT / "csrc").glob("*.cpp"), *(ROOT / "csrc/engine").glob("*.cpp")]:
        if path.stem.startswith("kernels_") and path.stem not in (*ARM, "kernels_scalar"):
            continue
        own = [*build, *names, *ARM.get(path.stem, ()), path]
        objects[path.stem] = compiled(own, folder / f"{path.stem}.o")
    only_scalar = {name: path for name, path in objects.items() if name not in ARM}
    plain = [*build, ROOT / "csrc/engine/dispatch.cpp"]
    only_scalar["dispatch"] = compiled(plain, folder / "dispatch-scalar.o")
    c_compiler = [compiler.removesuffix("g++") + "gcc", *STRICT, "-I", native.include_dir(), "-c"]
    example = compiled([*c_compiler, EXAMPLE / "predict.c"], folder / "predict.o")
    main = compiled([*build, ROOT / "tests/run_program.cpp"], folder / "run_program.o")
    link = [compiler, "-static", "-pthread"]
    return {
        "neon": compiled([*link, *objects.values(), example], folder / "neon"),
        "scalar": compiled([*link, *only_scalar.values(), example], folder / "scalar"),
        "run_program": compiled([*link, *objects.values(), main], folder / "run_program"),
    }


def logits_under_qemu(
    runner: Path,
    cpu: str,
    program: Program,
    images: np.ndarray,
    folder: Path,
    *calibrated: str,  # type: ignore[type-arg]
) -> dict[str, tuple[str, np.ndarray]]:  # type: ignore[type-arg]
    """By instruction set: its kernels for one image, and the logits [2, N, outputs] of all images
    at once and of one after the other.
    """
    (folder / "program").write_bytes(program.code())
    images.astype(np.float32).tofile(folder / "images")
    done = subprocess.run(
        [
            *("qemu-aarch64", "-cpu", cpu, runner),
            *("program", "images", str(len(images)), "logits"),
            *calibrated,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    logits = np.fromfile(folder / "logits", np.float32).reshape(len(lines), 2, len(images), -1)
    return {line.split()[0]: (line, own) for line, own in zip(lines, logits, strict=True)}


QUANTISED = [
    (64, 20, (32, 32), 3, 1, 1, 0.8),
    (64, 130, (8, 8), 3, 1, 1, 1.0),
    (70, 9, (7, 7), 3, 2, 1, 0.9),
    (63, 33, (9, 17), 3, 1, 1, 1.0),
    (200, 40, (4, 4), 3, 1, 1, 0.8),
]
"""Channels, output channels, size, kernel, stride, padding, density."""


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["max", "cortex-a72"])
def test_aarch64_multiplies_bytes_where_the_processor_does(
    arm: dict[str, Path], cpu: str, tmp_path: Path
) -> None:
    """Products of bytes are exactly the sums of plain C++; Cortex-A72 has no instructions for
    them.
    """
    rng = np.random.default_rng(0)
    for most in (127, 255):
        for channels, outputs, size, kernel, stride, padding, density in QUANTISED:
            program = Program([Value(False, channels, *size, most=float(most))])
            program.to_floats()
            weights = kept_weights(rng, (outputs, channels, kernel, kernel), density)
            shift = rng.integers(-9, 9, outputs).astype(float)
            program.conv(False, weights, factors(rng, outputs), shift, None, stride, padding)
            images = rng.integers(0 if most == 255 else -most, most + 1, (19, channels, *size))
            images[0, 0, 0, 0] = most
            found = logits_under_qemu(
                arm["run_program"], cpu, program, images, tmp_path, "calibrated"
            )
            sets = ["i8mm", "dotprod", "neon", "scalar"][0 if cpu == "max" else 2 :]
            assert [*found] == sets
            for name, (kernels, logits) in found.items():
                assert ("product" in kernels) == (name in ("i8mm", "dotprod"))
                for own in logits:
                    same(own, program.truth(images.astype(np.float32)), True, name)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["max", "cortex-a72"])
def test_aarch64_on_the_grid(arm: dict[str, Path], cpu: str, tmp_path: Path) -> None:
    """Convolutions of all kinds on awkward shapes, as test_kernels.py has them."""
    for flavor, *case in drawn_cases(210, 1e6):
        rng = np.random.default_rng(1)
        program = conv_program(rng, flavor, *case)
        images = random_pixels(rng, 65, program)
        found = logits_under_qemu(arm["run_program"], cpu, program, images, tmp_path)
        assert "neon" in found
        for name, (_, logits) in found.items():
            for own in logits:
                same(own, program.truth(images), program.last.unit > 0, name, flavor, case)


@pytest.mark.slow
def test_aarch64(arm: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core and the example for AArch64, run by qemu: NEON and plain C++ give what this machine
    gives.
    """
    machines = {name: arm[name] for name in ("neon", "scalar")}
    qemu = "qemu-aarch64"
    rng = np.random.default_rng(0)
    for network in (
        "VGG_Small_BinAct",
        "Wide_VGG_Small_132",
        "cResNet20_BinAct",
        "WidePreActResNet",
        "Conv4",
    ):
        make_narrow(monkeypatch, network)
        size = (9, 11) if "Res" in network else (32, 32)
        run = Engine(
            random_ticket(network_of(network, size), density=0.5), instruction_set="scalar"
        )
        run.save_program(tmp_path / "a.bprog")
        pixels = rng.integers(0, 256, (66, *size, 3), dtype=np.uint8)
        for count in (1, 66):
            expected = np.concatenate(
                [run.run(pixels[:count][at : at + 64], "NHWC") for at in range(0, count, 64)]
            )
            for machine in machines.values():
                got = predicted(
                    [qemu, str(machine)], tmp_path / "a.bprog", pixels[:count], tmp_path
                )
                np.testing.assert_allclose(
                    got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
                )
    # Bits, exactly.
    program = Program([*Program.of(3, 7, 9).values])
    for channels in (65, 64, 200):
        weights, scale = (
            kept_weights(rng, (channels, program.last.channels, 3, 3), 0.5),
            factors(rng, channels),
        )
        program.conv(
            True, weights, scale, shifts(rng, scale, 0.7 * weights[0].size ** 0.5), padding=1
        )
    program.to_floats()
    (tmp_path / "b.bprog").write_bytes(program.code())
    pixels = rng.integers(0, 2, (66, 7, 9, 3), dtype=np.uint8) * np.uint8(255)
    for machine in machines.values():
        with loaded(program) as here:
            np.testing.assert_array_equal(
                predicted([qemu, str(machine)], tmp_path / "b.bprog", pixels, tmp_path),
                here.run(pixels, 1),
            )


THREADS = """
#include <sys/wait.h>
#include <unistd.h>
#include <cstdio>
#include <new>
#include "thread_pool.h"
bool fork_waits_for_mutexes() {
    biprop::ForkSafeMutex mutex;
    std::atomic<bool> held{false};
    std::thread holder([&] {
        std::lock_guard<biprop::ForkSafeMutex> lock(mutex);
        held = true;
        usleep(50000);
    });
    while (!held) {}
    const pid_t child = fork();
    if (!child) {
        alarm(5);  // ends a child that waits for a thread that is not here
        std::lock_guard<biprop::ForkSafeMutex> lock(mutex);
        _exit(biprop::forks() == 1 ? 0 : 1);
    }
    holder.join();
    int status = 1;
    waitpid(child, &status, 0);
    std::lock_guard<biprop::ForkSafeMutex> lock(mutex);
    return status == 0 && biprop::forks() == 0;
}
int main() {
    biprop::Pool pool(2);
    int thrown = 0;
    for (int round = 0; round < 200; ++round) {
        std::atomic<int> done{0};
        try {
            pool.each(64, [&](int item, int thread) {
                ++done;
                if (round % 2 ? thread == 1 : item % 5 == 0) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            ++thrown;
        }
        if (done != 64) return 1;
    }
    int after = 0;
    pool.each(1, [&](int, int) { ++after; });
    std::printf("%d", thrown >= 100 && after == 1 && fork_waits_for_mutexes());
}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without forks")
def test_what_a_helper_thread_throws_reaches_the_caller_and_a_fork_finds_all_at_rest(
    tmp_path: Path,
) -> None:
    """Memory may be short in any thread; and a child would wait for ever for a mutex that another
    thread held.
    """
    if not (compiler := shutil.which("c++") or shutil.which("g++")):
        pytest.skip("no C++ compiler")
    (tmp_path / "threads.cpp").write_text(THREADS)
    folder = ROOT / "csrc" / "engine"
    sources = [tmp_path / "threads.cpp", folder / "thread_pool.cpp", folder / "fork.cpp"]
    subprocess.run(
        [compiler, "-std=c++17", "-pthread", f"-I{folder}", *sources, "-o", tmp_path / "threads"],
        check=True,
    )
    assert (
        subprocess.run(
            [tmp_path / "threads"], capture_output=True, text=True, timeout=60, check=False
        ).stdout
        == "1"
    )


def test_programs_that_read_their_output_or_hold_numbers_beyond_floats_are_refused() -> None:
    """A pool that reads the output would join its convolution, which would put out nothing."""
    program = Program.of(1, 4, 4)
    program.values.append(dataclasses.replace(program.values[0], height=2, width=2))
    ones, zeros = np.ones(1), np.zeros(1)
    program.conv(False, np.ones((1, 1, 1, 1), np.int8), ones, zeros, 0)
    program.ops.append(Op("max_pool", 2, 1, "", (2, 2), 2, 0, ones, zeros))
    assert load_error(program.code()) == BAD_PROGRAM
    for scale, shift in ((1e39, 0.0), (1.0, -1e39)):
        program = Program.of(1, 4, 4)
        program.conv(False, np.ones((1, 1, 1, 1), np.int8), np.full(1, scale), np.full(1, shift))
        assert load_error(program.code()) == BAD_PROGRAM


def test_a_choice_of_one_thread_is_not_the_choice_of_another() -> None:
    """`biprop_load_with`, while others choose for the process."""
    core, code = engine._core(), small_program().code()
    assert core

    def used(name: bytes) -> bytes:
        network, text = ctypes.c_void_p(), ctypes.create_string_buffer(4096)
        assert core.biprop_use_instruction_set(b"scalar") == OK
        assert core.biprop_load_with(code, len(code), 1, name, ctypes.byref(network)) == OK
        core.biprop_explain(network, 1, text, len(text))
        core.biprop_free(network)
        return text.value.partition(b"\t")[0]

    names = [name.encode() for name in engine.instruction_sets()] * 10
    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(used, names)) == names
    core.biprop_use_instruction_set(b"")
    network = ctypes.c_void_p()
    assert (
        core.biprop_load_with(code, len(code), 1, b"mmx", ctypes.byref(network))
        == NO_SUCH_INSTRUCTION_SET
    )
