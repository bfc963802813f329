import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biprop import UserError
from biprop.report import figure
from biprop.report.results_table import Curve

FORMULA = r"$\nothing$"
"""matplotlib raises ValueError where it parses it."""
CURVES = [
    Curve("conv2", [0.1, 0.2, 0.5], [70, 80, 85], [1, 2, 0], [2, 2, 1]),
    Curve("conv4", [0.1, 0.5], [60, 65], [0, 0], [1, 1]),
]
NAMES = ("Prune Rate", "Test Top 1")


def test_without_matplotlib_the_hint_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "is_installed", lambda: False)
    with pytest.raises(UserError, match=re.escape("pip install 'biprop[plots]'")):
        figure.check(Path("a.pdf"))


@pytest.mark.parametrize("name", ["a.jpg", "a", "pdf", "a.html"])
def test_the_suffix_is_the_format(name: str) -> None:
    pytest.importorskip("matplotlib")
    assert figure.check(Path("A.PDF")) == "pdf"
    with pytest.raises(UserError, match=r"ends with \.pdf, \.png, \.svg"):
        figure.check(Path(name))


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        figure.draw(CURVES[:1], [], NAMES, "", path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith(b"<?xml")


def test_a_figure_for_a_paper_has_text_and_no_date(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure.draw(CURVES, [], NAMES, "Base Config", tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/CreationDate" not in content
    assert b"/Type3" not in content


def test_no_name_is_read_as_a_formula(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names, labels = (FORMULA, FORMULA), [FORMULA, "b"]
    curves = [Curve(FORMULA, [0, 1], [1, 2], [0, 0], [1, 1])]
    figure.draw(curves, labels, names, FORMULA, tmp_path / "a.svg", title=FORMULA)


def test_each_curve_has_its_colour(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure.draw(CURVES, [], NAMES, "Base Config", tmp_path / "a.png", is_log=True)
    with Image.open(tmp_path / "a.png") as image:
        colours = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    wanted = [tuple(bytes.fromhex(colour[1:])) for colour in figure.COLOURS[:3]]
    assert [colour in colours for colour in wanted] == [True, True, False]


def test_labels_of_the_x_axis(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = [Curve("", [0, 1], [1, 2], [0, 0], [1, 1])]
    figure.draw(curves, ["conv2", "conv4"], NAMES, "", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<!-- conv4 -->" in text
    assert "<!-- (empty) -->" not in text


@pytest.mark.parametrize(
    ("x", "labels"), [([0.0, 1.0], []), ([-1.0], []), ([1.0, 2.0], ["a", "b", "c"])]
)
def test_a_logarithmic_axis_has_numbers_above_0(
    x: list[float], labels: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    curves = [Curve("", x, [1.0] * len(x), [0.0] * len(x), [1] * len(x))]
    with pytest.raises(UserError, match="--log-x: Prune Rate must be a number above 0"):
        figure.draw(curves, labels, NAMES, "", tmp_path / "a.svg", is_log=True)


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="cannot be written"):
        figure.draw(CURVES, [], NAMES, "", tmp_path / "none" / "a.png")


def test_a_legend_of_many_curves_stands_beside_the_axes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sizes = []
    for count in (4, 5, 30):
        curves = [Curve(str(i), [1, 2], [i, i], [0, 0], [1, 1]) for i in range(count)]
        figure.draw(curves, [], NAMES, "a", tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text()
        sizes.append([float(x) for x in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]])
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]


@pytest.mark.parametrize(("x", "is_labelled"), [([1, 20, 400], True), ([1, 400, 410], False)])
def test_values_of_a_logarithmic_axis_are_ticks_where_they_are_apart(
    x: list[float], is_labelled: bool, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    curves = [Curve("", x, [1.0] * 3, [0.0] * 3, [1] * 3)]
    figure.draw(curves, [], NAMES, "", tmp_path / "a.svg", is_log=True)
    assert ("<!-- 400 -->" in (tmp_path / "a.svg").read_text()) == is_labelled
