from hypothesis import given
from hypothesis import strategies as st

from biprop.names import escaped, is_name


@given(st.text(max_size=40))
def test_escaped_names_are_names(text: str) -> None:
    assert is_name(escaped(text))
    assert escaped(escaped(text)) == escaped(text)
    if text.isprintable():
        assert escaped(text) == text


def test_what_is_escaped_how() -> None:
    assert escaped("caf\u00e9\u00a0noir") == "caf\u00e9\\xa0noir"
    assert escaped("\u7f8e\u3000\u732b") == "\u7f8e\\u3000\u732b"
    assert escaped("a\nb\x1b[31m\u202e\udcff") == "a\\nb\\x1b[31m\\u202e\\udcff"
    assert not is_name("a\u202eb")
    assert is_name("a" * 1000)
    assert not is_name("a" * 1001)
    assert not is_name(7)
