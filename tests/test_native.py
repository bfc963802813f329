"""The compiled core: that it is there, that a foreign one is left alone, and the sharing of work
among threads.
"""

import ctypes
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import UserError, engine, native


def test_the_core_is_built_where_there_is_a_compiler() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    core = native.library()
    assert core is not None
    assert core.biprop_core_version() == native.VERSION


def test_without_a_core_or_with_another_version_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BIPROP_CORE", raising=False)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert native.library.__wrapped__() is None
    (tmp_path / native.FILE).write_bytes(b"not a library")
    assert native.library.__wrapped__() is None

    class Newer:
        @staticmethod
        def biprop_core_version() -> int:
            return native.VERSION + 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Newer)
    assert native.library.__wrapped__() is None


GENERATION = {
    "scalar": "baseline",
    "avx2": "avx2",
    "avx512": "avx512",
    "amx": "avx512",
    "avx512vnni": "avx512",
    "avxvnni": "avx2",
    "neon": "baseline",
    "dotprod": "baseline",
    "i8mm": "baseline",
}
USED = """
import ctypes, numpy as np
from programs import Program, loaded
from biprop import native
core = native.library()
core.biprop_core_generation.restype = ctypes.c_char_p
program = Program.of(1, 1, 1)
program.conv(False, np.ones((1, 1, 1, 1), np.float32), np.ones(1), np.zeros(1), act="relu")
text = ctypes.create_string_buffer(4096)
with loaded(program) as network:
    core.biprop_explain(network.network, 1, text, len(text))
with loaded(program, instruction_set="scalar") as network:
    other = ctypes.create_string_buffer(4096)
    core.biprop_explain(network.network, 1, other, len(other))
names = [t.value.decode().split("\\t")[0] for t in (text, other)]
print(core.biprop_core_generation().decode(), *names)
"""


@pytest.mark.parametrize("name", engine.instruction_sets())
def test_the_environment_chooses_the_instruction_set_of_the_whole_core(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIPROP_ISA", name)
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", USED], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [GENERATION[name], name, "scalar"], done.stderr


@pytest.mark.skipif(not engine.instruction_sets(), reason="no compiled core")
def test_an_instruction_set_that_is_not_there_is_refused_in_python_and_in_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIPROP_ISA", "mmx")
    with pytest.raises(UserError, match=r"^BIPROP_ISA=mmx: must be one of .*scalar.*$"):
        native.library.__wrapped__()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import ctypes, sys\nnetwork = ctypes.c_void_p()\n"
                "core = ctypes.CDLL(sys.argv[1])\ncore.biprop_message.restype = ctypes.c_char_p\n"
                "error = core.biprop_load(b'?', 1, 1, ctypes.byref(network))\n"
                "print(error, core.biprop_message(error).decode())"
            ),
            native.library()._name,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("8 no such instruction set"), done.stderr


@given(st.integers(0, 200), st.integers(1, 4), st.integers(1, 50))
def test_every_part_is_done_once(count: int, threads: int, grain: int) -> None:
    done: list[int] = []
    native.in_threads(lambda first, last: done.extend(range(first, last)), count, threads, grain)
    assert sorted(done) == list(range(count))


def test_an_interruption_waits_for_the_threads_that_compute() -> None:
    """They write to arrays that the caller releases when the error reaches it."""
    main = threading.current_thread()
    begun: list[int] = []
    ended: list[int] = []

    def compute(first: int, last: int) -> None:
        if threading.current_thread() is main:
            while not begun:
                time.sleep(0.001)
            raise KeyboardInterrupt
        begun.append(first)
        time.sleep(0.05)
        ended.append(first)

    with pytest.raises(KeyboardInterrupt):
        native.in_threads(compute, 1000, 3, 1)
    computed = len(begun)
    assert sorted(begun) == sorted(ended)
    time.sleep(0.1)
    assert len(begun) == computed < 10  # nothing began after that


def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    def fail(first: int, last: int) -> None:
        if first:
            raise ValueError(f"at {first}")

    with pytest.raises(ValueError, match="at "):
        native.in_threads(fail, 100, 2, 10)
