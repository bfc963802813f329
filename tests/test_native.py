"""The compiled core: that it is there, that a foreign one is left alone, and the sharing of work among threads."""

import ctypes
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import native


def test_the_core_is_built_where_there_is_a_compiler() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    core = native.library()
    assert core is not None
    assert core.biprop_core_version() == native.VERSION


def test_without_a_core_or_with_another_version_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@given(st.integers(0, 200), st.integers(1, 4), st.integers(1, 50))
def test_every_part_is_done_once(count: int, threads: int, grain: int) -> None:
    done: list[int] = []
    native.in_threads(lambda first, last: done.extend(range(first, last)), count, threads, grain)
    assert sorted(done) == list(range(count))


def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    def fail(first: int, last: int) -> None:
        if first:
            raise ValueError(f"at {first}")

    with pytest.raises(ValueError, match="at "):
        native.in_threads(fail, 100, 2, 10)
