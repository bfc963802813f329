import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biprop.container import TicketError, pack, unpack

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
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
        np.array_equal(tensors[name], array) and tensors[name].dtype == array.dtype for name, (_, array) in TENSORS.items()
    )


def test_each_kind_of_file_is_its_own() -> None:
    content = pack("deck", 2, {}, TENSORS)
    with pytest.raises(TicketError, match="a deck, not a ticket"):
        unpack("ticket", 2, content)
    with pytest.raises(TicketError, match="version 2 of the deck format; this biprop reads up to 1: install a newer one"):
        unpack("deck", 1, content)


def test_every_changed_or_missing_byte_is_noticed() -> None:
    content = pack("deck", 1, {"cards": ["one"]}, TENSORS)
    for at in range(len(content)):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
            with pytest.raises(TicketError):
                unpack("deck", 1, damaged)
    with pytest.raises(TicketError):
        unpack("deck", 1, content + b"\0")
