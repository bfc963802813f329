from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biprop import UserError
from biprop.evaluation.counts import Counts
from biprop.robustness import plots
from biprop.robustness.scores import Scores

pytest.importorskip("matplotlib")


def scores(name: str, right: int) -> Scores:
    cells = [("fog", 1), ("fog", 5), ("snow", 1), ("snow", 5)]
    return Scores(
        name, Counts(100, 90), {cell: Counts(100, right - 5 * i) for i, cell in enumerate(cells)}
    )


@pytest.mark.parametrize("count", [1, 5])
def test_a_picture_of_bars(count: int, tmp_path: Path) -> None:
    plots.corruption_bars(
        [scores(f"card {i}", 80 - i) for i in range(count)], "fog and snow", tmp_path / "a.png"
    )
    with Image.open(tmp_path / "a.png") as image:
        colours = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    wanted = [
        tuple(bytes.fromhex(colour[1:]))
        for colour in ("#33629a", "#c8792b", "#4c9c7b", "#8d5ba6", "#b0485a")
    ]
    assert [colour in colours for colour in wanted] == [i < count for i in range(5)]


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        plots.corruption_bars([scores("a", 80)], "", tmp_path / "none" / "a.png")
