import hashlib
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop.ticket import TicketError
from biprop.ticket.container import load, pack, unpack

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TENSORS = {
    "a": ("U8", np.arange(5, dtype=np.uint8)),
    "b": ("F32", np.array([1.5, -0.0], dtype=np.float32)),
    "none": ("F32", np.empty(0, np.float32)),
    "c": ("BF16", np.array([0x3F80], dtype=np.uint16)),
}


@given(JSON)
def test_what_goes_in_comes_out(description: object) -> None:
    content = pack("deck", 2, description, TENSORS)
    assert content == pack("deck", 2, description, TENSORS)
    read, tensors = unpack("deck", 2, content)
    assert read == description
    assert list(tensors) == list(TENSORS)
    assert all(
        np.array_equal(tensors[name], array) and tensors[name].dtype == array.dtype
        for name, (_, array) in TENSORS.items()
    )


def test_each_kind_of_file_is_its_own() -> None:
    content = pack("deck", 2, {}, TENSORS)
    with pytest.raises(TicketError, match="a deck, not a ticket"):
        unpack("ticket", 2, content)
    with pytest.raises(
        TicketError,
        match="version 2 of the deck format; this biprop reads up to 1: install a newer one",
    ):
        unpack("deck", 1, content)


def test_every_changed_or_missing_byte_is_noticed() -> None:
    content = pack("deck", 1, {"cards": ["one"]}, TENSORS)
    for at in range(len(content)):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
            with pytest.raises(TicketError):
                unpack("deck", 1, damaged)
    with pytest.raises(TicketError):
        unpack("deck", 1, content + b"\0")


def with_header(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The file with another header, and a checksum that fits."""
    (length,) = struct.unpack("<Q", content[:8])
    header = re.sub(b"[0-9a-f]{64}", b"0" * 64, change(content[8 : 8 + length]))
    whole = struct.pack("<Q", len(header)) + header + content[8 + length :]
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"none":{', b'"none":{},"none":{', "a key that comes twice"),
        (b'{"__metadata__"', b'{"__metadata__":{},"__metadata__"', "a key that comes twice"),
        (b'"format"', b'"version":"1","format"', "a key that comes twice"),
        (rb"{\"x\":0.5}", rb"{\"x\":1e999}", "the number 1e999"),
        (rb"{\"x\":0.5}", rb"{\"x\":-1e999}", "the number -1e999"),
        (rb"{\"x\":0.5}", rb"{\"x\":NaN}", "NaN"),
        (rb"{\"x\":0.5}", rb"{\"x\":1,\"x\":2}", "a key that comes twice"),
        (rb"{\"x\":0.5}", b"9" * 5000, "not valid JSON"),
        (rb"{\"x\":0.5}", b"[" * 100_000, "not valid JSON"),
    ],
)
def test_what_other_readers_take_otherwise_is_refused(old: bytes, new: bytes, message: str) -> None:
    content = pack("deck", 1, {"x": 0.5}, TENSORS)
    assert unpack("deck", 1, with_header(content, lambda header: header))[0] == {"x": 0.5}
    with pytest.raises(TicketError, match=message):
        unpack("deck", 1, with_header(content, lambda header: header.replace(old, new, 1)))


def test_the_header_is_in_utf_8_only() -> None:
    content = pack("deck", 1, {}, TENSORS)
    with pytest.raises(TicketError, match="not valid JSON"):
        unpack("deck", 1, with_header(content, lambda header: header.decode().encode("utf-16-le")))


def test_a_file_of_another_kind_is_refused_after_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "huge.mpt"
    foreign = b'{"__metadata__":{"format":"pt"}}'
    for start in (
        b"",
        b"PK\3\4" + bytes(20),
        struct.pack("<Q", len(foreign)) + foreign,
        struct.pack("<Q", 1 << 40) + b"{   ",
    ):
        path.write_bytes(start)
        os.truncate(path, 1 << 40)  # a hole: nothing of this size could be read
        with pytest.raises(TicketError, match=r"huge.mpt: (not a ticket|damaged: a header)"):
            load(path, "ticket", bytes)
    content = pack("ticket", 1, {}, TENSORS)
    path.write_bytes(content)
    assert load(path, "ticket", bytes) == content
    os.truncate(path, 1 << 40)
    with pytest.raises(TicketError, match="no ticket has more than"):
        load(path, "ticket", bytes)
