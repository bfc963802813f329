import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import parse

from biprop.report import markup
from biprop.report.markup import document, element

HOSTILE = '<script>alert("1")</script> & \' "'


def test_texts_and_attributes_are_escaped() -> None:
    page = document(element("p", HOSTILE, element("b", "x"), HOSTILE, title=HOSTILE))
    assert "<script" not in page
    paragraph = parse(page).only("p")
    assert "".join(paragraph.texts) == 2 * HOSTILE
    assert paragraph.attributes == {"title": HOSTILE}


@given(st.text(), st.text())
def test_any_text_survives_but_for_control_characters(text: str, title: str) -> None:
    page = document(element("div", element("p", text, title=title)))
    assert page.isprintable() or page.count("\n") == 1
    paragraph = parse(page).only("p")
    if text.isprintable():
        assert paragraph.text == text
    if title.isprintable():
        assert paragraph.attributes["title"] == title


def test_marks_that_turn_the_direction_of_a_text_are_escaped() -> None:
    page = document(element("p", "a\u202eb\x00\ud800"))
    assert r"a\u202eb\x00\ud800" in page


def test_attributes_are_named_as_in_html() -> None:
    node = element("path", class_="line", stroke_width=2, viewBox="0 0 1 1", id=None)
    assert node.attrib == {"class": "line", "stroke-width": "2", "viewBox": "0 0 1 1"}


def test_a_table_says_how_many_rows_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "MOST_ROWS", 3)
    root = parse(document(markup.table(["a", "b"], [[str(i), "x"] for i in range(5)], "t")))
    assert root.only("table").rows() == [["a", "b"], ["0", "x"], ["1", "x"], ["2", "x"]]
    assert "... and 2 more" in root.text
    region = root.only("div", "scroll")
    assert region.attributes["tabindex"] == "0"
    assert region.attributes["aria-label"] == "t"
    scopes = [cell.attributes["scope"] for cell in root.all("th")]
    assert scopes == ["col"] * 2 + ["row"] * 3


@pytest.mark.parametrize("hue", ["blue", "orange"])
def test_the_text_of_a_heat_cell_has_contrast(hue: str) -> None:
    """WCAG 2.2 asks for 4.5."""
    lightness = []
    for step in range(101):
        style = markup.heat_cell("1", step / 100, "", hue).attrib["style"]
        back, front = re.fullmatch(r"background:#(\w{6});color:#(\w{3})", style).groups()  # type: ignore[union-attr]
        a = markup.luminance(bytes.fromhex(back))
        b = 1.0 if front == "fff" else 0.0
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5
        lightness.append(a)
    assert lightness == sorted(lightness, reverse=True)
    assert lightness[0] > 8 * lightness[-1]


def test_luminance_has_its_known_values() -> None:
    assert markup.luminance((255, 255, 255)) == pytest.approx(1)
    assert markup.luminance((255, 0, 0)) == pytest.approx(0.2126)
    assert markup.luminance((128, 128, 128)) == pytest.approx(0.2159, abs=1e-4)


def test_a_share_outside_0_to_1_has_the_colour_of_the_nearest_end() -> None:
    for share, end in ((-3.0, 0.0), (7.0, 1.0)):
        assert markup.heat_cell("", share, "").attrib == markup.heat_cell("", end, "").attrib
    assert "style" not in markup.heat_cell("", None, "").attrib


def test_a_long_name_is_cut_off() -> None:
    assert markup.short("a" * 41) == "a" * 40 + "..."
    assert markup.short("a\nb") == r"a\nb"
