"""Picture files become what the data sets make of them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import png, write_image_folder, write_photographs
from PIL import Image

from biprop import UserError, pictures
from biprop.config import Config
from biprop.data import load


def test_pictures_are_found_in_order(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "b", ("cat", "dog"), 2)
    (tmp_path / "b" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "z.PNG").write_bytes(png(np.zeros((2, 2), np.uint8)))
    found = pictures.find([tmp_path / "z.PNG", tmp_path / "b"])
    assert [str(p.relative_to(tmp_path)) for p in found] == ["z.PNG", "b/cat/0.png", "b/cat/1.png", "b/dog/0.png", "b/dog/1.png"]
    assert pictures.find([str(tmp_path / "b" / "cat" / "notes.txt")])  # whoever names a file means it


def test_pictures_are_scaled_as_data_in_memory_are(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "pets", side=20)
    data = load(Config(set="folder", data=str(folder), image_size=32, select_on="test"))
    paths = pictures.find([folder])
    ours = {pictures.read(path, (1, 32, 32), cut=False).tobytes() for path in paths}
    assert {image.numpy().tobytes() for split in (data.train, data.test) for image in split.images} == ours  # type: ignore[attr-defined]


def test_pictures_are_cut_as_data_that_are_streamed(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    data = load(Config(set="folder", data=str(tmp_path), image_size=32, stream=True, workers=0, select_on="test"))
    paths = pictures.find([tmp_path / "val"])
    ((images, _),) = data.evaluation_batches(data.test, len(paths), normalised=False)
    ours = np.stack([pictures.read(path, (3, 32, 32), cut=True) for path in paths])
    assert np.array_equal(images.numpy(), ours)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 6, 4)])
def test_every_kind_of_pixel(mode: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    Image.new(mode, (4, 6)).save(tmp_path / "a.tif")
    pixels = pictures.read(tmp_path / "a.tif", shape, cut=False)
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels))
    for cut in (False, True):
        assert np.array_equal(pictures.read(tmp_path / "a.png", (3, 6, 4), cut), pixels.transpose(2, 0, 1))


def test_mistakes_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    whole = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="empty: no pictures in this folder"):
        pictures.find([tmp_path / "empty"])
    for name in ("none.png", "bad\0name"):
        with pytest.raises(UserError, match="cannot be read"):
            pictures.find([tmp_path / name])
    for name in ("half.png", "text.png"):
        with pytest.raises(UserError, match=f"{name}: not a readable image"):
            pictures.read(tmp_path / name, (1, 32, 32), cut=False)
