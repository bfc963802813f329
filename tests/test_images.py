"""Picture files become what the data sets make of them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import png, write_image_folder, write_photographs
from PIL import Image

from biprop import UserError
from biprop.config import Config
from biprop.data import load
from biprop.images import find, formats, opened, read, upright_size


def test_images_are_found_in_order(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "b", ("cat", "dog"), 2)
    (tmp_path / "b" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "z.PNG").write_bytes(png(np.zeros((2, 2), np.uint8)))
    found = find([tmp_path / "z.PNG", tmp_path / "b"])
    assert [str(p.relative_to(tmp_path)) for p in found] == [
        "z.PNG",
        "b/cat/0.png",
        "b/cat/1.png",
        "b/dog/0.png",
        "b/dog/1.png",
    ]
    assert find([str(tmp_path / "b" / "cat" / "notes.txt")])  # whoever names a file means it


def test_images_are_scaled_as_data_in_memory_are(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "pets", side=20)
    data = load(Config(set="folder", data=str(folder), image_size=32, select_on="test"))
    paths = find([folder])
    ours = {read(path, (1, 32, 32), cut=False).tobytes() for path in paths}
    assert {
        image.numpy().tobytes() for split in (data.train, data.test) for image in split.images
    } == ours  # type: ignore[attr-defined]


def test_images_are_cropped_as_streamed_data(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    data = load(
        Config(
            set="folder",
            data=str(tmp_path),
            image_size=32,
            stream=True,
            workers=0,
            select_on="test",
        )
    )
    paths = find([tmp_path / "val"])
    ((images, _),) = data.evaluation_batches(data.test, len(paths), normalised=False)
    ours = np.stack([read(path, (3, 32, 32), cut=True) for path in paths])
    assert np.array_equal(images.numpy(), ours)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 6, 4)])
def test_every_kind_of_pixel(mode: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    Image.new(mode, (4, 6)).save(tmp_path / "a.tif")
    pixels = read(tmp_path / "a.tif", shape, cut=False)
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels))
    for cut in (False, True):
        assert np.array_equal(read(tmp_path / "a.png", (3, 6, 4), cut), pixels.transpose(2, 0, 1))


def test_mistakes_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    whole = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="empty: no images in this folder"):
        find([tmp_path / "empty"])
    for name in ("none.png", "bad\0name"):
        with pytest.raises(UserError, match="cannot be read"):
            find([tmp_path / name])
    for name in ("half.png", "text.png"):
        with pytest.raises(UserError, match=f"{name}: not a readable image"):
            read(tmp_path / name, (1, 32, 32), cut=False)


def saved(folder: Path, name: str, pixels: np.ndarray, **options: object) -> Path:  # type: ignore[type-arg]
    Image.fromarray(pixels).save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


GREY = np.random.default_rng(0).integers(0, 256, (6, 4), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("scale", [1, 257])
def test_16_bits_are_scaled_by_the_range_of_their_type(
    name: str, scale: int, tmp_path: Path
) -> None:
    pixels = GREY.astype(np.uint16) * scale
    found = read(saved(tmp_path, name, pixels), (1, 6, 4), cut=False)[0]
    assert np.abs(found.astype(int) - np.rint(pixels / 257)).max() <= (scale == 1)
    if scale == 257:
        assert np.array_equal(found, GREY)


def test_floats_are_shades_or_refused(tmp_path: Path) -> None:
    shades = (GREY / 255).astype(np.float32)
    assert np.array_equal(read(saved(tmp_path, "a.tif", shades), (1, 6, 4), cut=False)[0], GREY)
    for low, high in ((0.0, 255.0), (-1.0, 1.0), (0.0, np.nan)):
        path = saved(tmp_path, "b.tif", np.array([[low, high]], dtype=np.float32))
        with pytest.raises(
            UserError, match=r"b\.tif: not a readable image: floats from .*: must be in 0 \.\. 1"
        ):
            read(path, (1, 1, 2), cut=False)
    path = saved(tmp_path, "c.tif", np.array([[1, 100_000]], dtype=np.int32))
    with pytest.raises(UserError, match="whole numbers of 32 bits: save it with 8 or 16"):
        read(path, (1, 1, 2), cut=False)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_images_are_upright(orientation: int, name: str, tmp_path: Path) -> None:
    shape = (24, 16)
    upright = np.zeros(shape, dtype=np.uint8)
    upright[:8, :8] = 250  # the upper left corner is bright
    turns = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose}
    turns |= {
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }  # as the camera holds it
    stored = turns.get(orientation, lambda a: a)(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif, quality=98)
    assert np.abs(read(path, (1, *shape), cut=False)[0].astype(int) - upright).mean() < 5
    with opened(path, "a") as image:
        assert upright_size(image) == (16, 24)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_show_white(mode: str, tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (0, 0, 0, 255)
    pixels[0, 1] = (0, 0, 0, 128)
    image = Image.fromarray(pixels)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png")
    for channels in (1, 3):
        found = read(tmp_path / "a.png", (channels, 2, 2), cut=False)
        assert found[:, 0, 0].tolist() == [0] * channels
        assert abs(int(found[0, 0, 1]) - 127) <= 1
        assert found[:, 1].min() == 255


def test_only_listed_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text("#!/bin/sh\ntouch was-here\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
    Path("cat.png").write_text(program)
    with pytest.raises(
        UserError, match=r"cat\.png: not a readable image: none of the formats PNG, JPEG"
    ):
        read(Path("cat.png"), (1, 32, 32), cut=False)
    assert not Path("was-here").exists()
    assert not set(formats()) & {"EPS", "PDF", "WMF", "FITS", "GRIB", "HDF5", "BUFR"}


def huge(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 10_000)])
def test_an_image_that_claims_too_many_pixels_is_one_line(
    size: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(huge(*size))
    for cut in (False, True):
        with pytest.raises(
            UserError, match=r"a\.png: not read: more than 89,478,485 pixels; scale it down first"
        ):
            read(tmp_path / "a.png", (3, 8, 8), cut)


def test_grey_or_colour_is_decided_by_all_images(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "pets")
    assert load(Config(set="folder", data=str(folder))).channels == 1
    assert load(Config(set="folder", data=str(folder), channels=3)).channels == 3
    (folder / "dog" / "9.png").write_bytes(png(np.zeros((32, 32, 3), np.uint8)))  # the last of all
    assert load(Config(set="folder", data=str(folder))).channels == 3
    assert load(Config(set="folder", data=str(folder), channels=1)).channels == 1
