"""Pickles of arrays: read as numpy wrote them in every protocol, and nothing else."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop import UserError
from biprop.data import pickles

ARRAYS = {
    "uint8": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "big-endian": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3072), dtype=np.uint8),
}


def load(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    return pickles.load(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_come_back_as_they_were(protocol: int, kind: str, tmp_path: Path) -> None:
    array = ARRAYS[kind]
    content = {
        "data": array,
        "labels": [1, 2],
        b"name": "x",
        "number": np.int64(7),
        "half": np.float32(0.5),
    }
    found = load(tmp_path / "p", pickle.dumps(content, protocol))
    assert np.array_equal(found["data"], array)
    assert found["data"].dtype == array.dtype
    assert (found["labels"], found["name"], found["number"], found["half"]) == ([1, 2], "x", 7, 0.5)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, of: str) -> bytes:
    return f"c{module}\n{of}\n".encode()


def array_of(dtype: bytes, count: int, raw: bytes) -> bytes:
    made = (
        name("numpy.core.multiarray", "_reconstruct")
        + name("numpy", "ndarray")
        + b"K\x00\x85"
        + text("b")
        + b"\x87R"
    )
    state = (
        b"(K\x01K" + bytes([count]) + b"\x85" + dtype + b"\x89" + text(raw.decode("latin1")) + b"tb"
    )
    return b"\x80\x02}" + text("data") + made + state + b"s."


def dtype_of(kind: str, state: bytes = b"") -> bytes:
    return name("numpy", "dtype") + text(kind) + b"\x89\x88\x87R" + state


FORGED = b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def fields_of(kind: str) -> bytes:
    """The state of a type that has a field "a" of another type."""
    return (
        b"(K\x03"
        + text("|")
        + b"N"
        + text("a")
        + b"\x85}"
        + text("a")
        + dtype_of(kind)
        + b"K\x00\x86s"
        + b"K\x08K\x01K\x00tb"
    )


FIELDS = fields_of("O8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            array_of(dtype_of("O8", FORGED), 1, b"A" * 8),
            "an array of 'O8', which is no type of numbers",
        ),
        (array_of(dtype_of("V8", FIELDS), 1, b"A" * 8), "an array of 'V8'"),
        (array_of(dtype_of("u8", FIELDS), 1, b"A" * 8), "'O8', which is no type of numbers"),
        (array_of(dtype_of("u8", fields_of("u8")), 1, b"A" * 8), "an array of structures"),
        (array_of(dtype_of("u8"), 9, b"A" * 8), r"an array \[9\] of 8 bytes"),
        (array_of(dtype_of("u1", b"K\x07b"), 1, b"A"), "not a readable CIFAR batch"),
        (
            b"\x80\x02" + name("os", "system") + text("touch was-here") + b"\x85R.",
            "it asks for os.system, which is no array",
        ),
        (b"\x80\x02" + name("numpy", "load") + text("x") + b"\x85R.", "it asks for numpy.load"),
        (
            b"\x80\x02" + name("_codecs", "encode") + text("x") + text("zlib") + b"\x86R.",
            "text in 'zlib'",
        ),
        (
            b"\x80\x02" + name("_codecs", "encode") + b"}" + text("a") + b"K\x01sb.",
            "it changes a function",
        ),
        (pickle.dumps([1]), "no dictionary"),
        (b"\x80\x02}", "not a readable CIFAR batch"),
        (b"", "not a readable CIFAR batch"),
        (b"(" * 50_000 + b"l" * 50_000 + b".", "not a readable CIFAR batch"),
    ],
)
def test_forged_pickles_are_one_line(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "p", content)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "was-here").exists()


WHOLE = pickle.dumps({"data": ARRAYS["uint8"], "labels": [1, 2, 3]}, 2)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_arrays_of_numbers_or_a_mistake(
    tmp_path_factory: Any, place: int, value: int
) -> None:
    content = bytearray(WHOLE)
    content[place] = value
    path = tmp_path_factory.getbasetemp() / "mutant"
    try:
        found = load(path, bytes(content))
    except UserError:
        return
    for one in found.values():
        assert not isinstance(one, np.ndarray) or one.dtype.kind in "biuf"
