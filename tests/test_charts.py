import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from pages import Element, parse

from biprop.report import charts
from biprop.report.charts import Bar, Point, Series, chart, dot_rows, legend, stacked_bars
from biprop.report.markup import Node, document, luminance
from biprop.report.scales import Axis

STYLE = (Path(charts.__file__).parent / "style.css").read_text()


def drawn(svg: Node | None) -> Element:
    assert svg is not None
    return parse(document(svg)).only("svg")


def numbers(path: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+\.?\d*", path)]


def points(*values: tuple[float, float], **about: object) -> list[Point]:
    return [Point(x, y, f"{x}, {y}", **about) for x, y in values]  # type: ignore[arg-type]


def test_a_line_is_where_its_values_are() -> None:
    x, y = Axis("x", low=0, high=10), Axis("y", low=0, high=100)
    line = points((0, 0), (5, 50), (10, 100))
    svg = drawn(chart("a chart", [Series("a", 0, [line])], x, y))
    (path,) = svg.all("path", "line")
    # The axes go from 42 to 330 and, upwards, from 184 to 22.
    assert path.attributes["d"] == "M42.0 184.0L186.0 103.0L330.0 22.0"
    hits = [(c.attributes["cx"], c.attributes["cy"], c.text) for c in svg.all("circle")]
    assert hits[1] == ("186.0", "103.0", "5, 50")
    assert svg.attributes["viewbox"] == "0 0 340 220"
    assert svg.attributes["role"] == "img"
    assert svg.attributes["aria-label"] == "a chart"


def test_a_mark_and_its_error_bar() -> None:
    y = Axis("y", low=0, high=100)
    series = Series("a", 2, [points((1, 50), spread=25.0, is_marked=True)], is_joined=False)
    svg = drawn(chart("", [series], Axis("x"), y))
    vertical, *caps = [numbers(path.attributes["d"]) for path in svg.all("path", "bar")]
    middle = (vertical[1] + vertical[3]) / 2
    (mark,) = [path for path in svg.all("path") if "transform" in path.attributes]
    assert numbers(mark.attributes["transform"]) == [vertical[0], pytest.approx(middle, abs=0.1)]
    assert [cap[1] for cap in caps] == [vertical[1], vertical[3]]
    assert mark.text == "1, 50"
    ends = chart("", [series], Axis("x"), Axis("y"))  # the bar decides where the axis ends
    vertical, *_ = [numbers(path.attributes["d"]) for path in drawn(ends).all("path", "bar")]
    assert 22 <= vertical[3] < vertical[1] <= 184
    assert not svg.all("path", "line")


def test_a_line_with_a_gap_is_two_paths() -> None:
    lines = [points((1, 1), (2, 2)), points((4, 4), (5, 5))]
    svg = drawn(chart("", [Series("a", 0, lines, is_dashed=True)], Axis("x"), Axis("y")))
    assert len(svg.all("path", "dashed")) == 2


def test_nothing_to_draw_is_no_chart() -> None:
    assert chart("", [Series("a", 0, [])], Axis("x"), Axis("y")) is None
    assert stacked_bars("", [Bar("a", [("x", 0.0)])], Axis("bytes")) is None
    assert dot_rows("", ["a"], [Series("a", 0, [[]])], Axis("x")) is None


def test_an_empty_series_beside_another_leaves_no_path_without_points() -> None:
    series = [Series("a", 0, [points((1, 1))]), Series("b", 1, [[]])]
    svg = drawn(chart("", series, Axis("x"), Axis("y")))
    assert all(len(numbers(path.attributes["d"])) >= 2 for path in svg.all("path", "line"))
    assert len(svg.all("path", "line")) == 1


def test_bars_add_up() -> None:
    bars = [Bar("a", [("x", 30.0), ("y", 70.0)]), Bar("b", [("x", 50.0), ("y", 0.0)])]
    svg = drawn(stacked_bars("", bars, Axis("bytes")))
    spans = [
        (float(rect.attributes["x"]), float(rect.attributes["width"])) for rect in svg.all("rect")
    ]
    whole = charts.WIDTH - 4
    assert spans[0] == (2, pytest.approx(0.3 * whole))
    assert spans[1] == (pytest.approx(2 + 0.3 * whole), pytest.approx(0.7 * whole, abs=0.01))
    assert spans[2][1] == pytest.approx(0.5 * whole)
    assert spans[3][1] == 0
    assert svg.all("rect")[0].text == "a: x 30 bytes"


def test_each_row_has_its_dots() -> None:
    series = [
        Series("a", 0, [points((20, 0), (40, 1), is_marked=True)], is_joined=False, entry=3),
        Series("b", 1, [points((60, 0), is_marked=True)], is_joined=False, entry=4),
    ]
    svg = drawn(dot_rows("", ["conv1", "conv2"], series, Axis("kept, %", low=0)))
    places = {
        class_: [
            numbers(path.attributes["transform"])
            for group in svg.all("g", class_)
            for path in group.all("path")
        ]
        for class_ in ("e3", "e4")
    }
    (first, second), (other,) = places["e3"], places["e4"]
    assert first[1] == other[1] < second[1]
    assert first[0] < second[0] < other[0]
    names = {text.text: float(text.attributes["y"]) for text in svg.all("text")}
    lines = [numbers(path.attributes["d"])[1] for path in svg.all("path", "grid")]
    for name, line, dot in zip(("conv1", "conv2"), lines, (first, second), strict=True):
        assert line == dot[1] == names[name] - 4
    assert {text.text for text in svg.all("text")} >= {"conv1", "conv2", "kept, %"}


def test_a_legend_names_each_series_beside_its_mark() -> None:
    root = parse(document(legend([Series("<b>", 0), Series("c" * 200, 9)])))
    first, second = root.all("li")
    assert first.text == " <b>"
    assert second.attributes == {"class": "c1", "title": "c" * 200}
    shapes = [item.only("path").attributes["d"] for item in (first, second)]
    assert len(set(shapes)) == 2
    assert len(set(charts._SHAPES)) == charts.SLOTS == len(charts._SHAPES)


# Colours


def palette(part: str) -> list[tuple[int, int, int]]:
    """The colours of the series, from the style sheet."""
    values = dict(re.findall(r"--(\w+): #(\w{6})", part))
    colours = [values[f"c{slot}"] for slot in range(charts.SLOTS)]
    return [tuple(bytes.fromhex(colour)) for colour in [*colours, values["back"]]]  # type: ignore[misc]


LIGHT, DARK = (palette(part) for part in STYLE.split("@media", 2)[:2])

# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def lab(colour: tuple[int, int, int], deficiency: str) -> np.ndarray:  # type: ignore[type-arg]
    """CIELAB coordinates of an sRGB colour, as somebody with a colour-vision deficiency sees it."""
    s = np.array(colour) / 255
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    seen = np.clip(DEFICIENCIES[deficiency] @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ seen / [0.9505, 1, 1.089] + 1e-9)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_differ_for_everybody(colours: list[tuple[int, int, int]], deficiency: str) -> None:
    """The first four by much; a difference of 2.3 can just be seen."""
    seen = [lab(colour, deficiency) for colour in colours[:-1]]
    distances = {
        (i, j): float(np.linalg.norm(seen[i] - seen[j]))
        for i, j in itertools.combinations(range(charts.SLOTS), 2)
    }
    assert min(distance for (_, j), distance in distances.items() if j < 4) > 40
    assert min(distances.values()) > 20


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_every_colour_has_contrast_to_the_page(colours: list[tuple[int, int, int]]) -> None:
    """WCAG 2.2 asks for 3 in graphics."""
    *series, back = map(luminance, colours)
    ratios = [(max(c, back) + 0.05) / (min(c, back) + 0.05) for c in series]
    assert min(ratios) >= 3
