"""Pictures that are read while training."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_image_folder, write_photographs
from PIL import Image
from test_items import write_parquet

from biprop import UserError, config, data
from biprop.data import decoding, items, stream
from biprop.images import centre_crop, opened


def load(folder: Path, **values: object) -> data.DataSet:
    base = config.Config(prune_rate=0.2, set="ImageNet", data=str(folder), image_size=16, workers=2)
    return data.load(config.override(base, values))


def test_batches_have_one_size_and_the_right_labels(tmp_path: Path) -> None:
    images = load(write_photographs(tmp_path))
    assert images.classes == ["blue", "green", "red"]
    assert (images.channels, images.input_size) == (3, (16, 16))
    assert [len(s) for s in (images.train, images.validation, images.test)] == [41, 4, 15]
    for batches in (images.training_batches(10, 0, 0), images.evaluation_batches(images.test, 10)):
        seen = 0
        for x, labels in batches:
            assert x.shape == (len(labels), 3, 16, 16)
            assert torch.equal(x.mean((2, 3)).argmax(1), 2 - labels)
            seen += len(labels)
    assert seen == 15


def test_the_workers_number_changes_nothing(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    runs = [list(load(tmp_path, workers=n).training_batches(8, 1, 2)) for n in (0, 1, 2)]
    for x, y in (pair for run in runs[1:] for pair in zip(runs[0], run, strict=True)):
        assert torch.equal(x[0], y[0])
        assert torch.equal(x[1], y[1])
    other = next(load(tmp_path, workers=0).training_batches(8, 1, 3))
    assert not torch.equal(other[0], runs[0][0][0])


def test_parquet_is_read_a_few_groups_at_a_time_and_every_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "IMAGES_KEPT", 20)
    listing = items.list_parquet([write_parquet(tmp_path / "train-0.parquet", 0, 200, 10)])
    assert listing
    split = stream.Streamed(listing.items, torch.from_numpy(listing.labels), 8, 0)
    orders = [split.order(np.random.default_rng(seed)) for seed in (0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(200))
        groups = listing.items.groups[order]
        assert all(len(set(groups[i : i + 20])) == 2 for i in range(0, 200, 20))
    assert orders[0].tolist() != orders[1].tolist()
    half = split.subset(torch.arange(200) % 2 == 0)
    (images, labels), *_ = half.batches([np.array([3, 70])], None)
    assert images[:, 0, 0, 0].tolist() == [6, 140]
    assert labels.tolist() == [0, 2]


def test_random_boxes_follow_their_definition() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([stream.random_box(400, 300, rng) for _ in range(4000)])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert boxes.min() >= 0
    assert (boxes[:, 2].max(), boxes[:, 3].max()) <= (400, 300)
    area, aspect = width * height / 120_000, width / height
    assert 0.07 < area.min() < 0.1
    assert area.max() > 0.9
    assert 0.73 < aspect.min() < aspect.max() < 1.37
    assert (
        abs(np.log(aspect).mean()) < 0.05
    )  # nearly as wide as high on average; large parts fit better if wide
    assert stream.random_box(1000, 10, np.random.default_rng(0)) == (
        493,
        0,
        506,
        10,
    )  # no such part fits: the middle


def smooth_jpeg(width: int, height: int) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=95
    )
    return buffer.getvalue()


def test_fast_jpeg_scaling_gives_nearly_the_same_cut() -> None:
    data = smooth_jpeg(1600, 1200)
    for seed in range(5):
        with Image.open(io.BytesIO(data)) as image:
            box = stream.random_box(*image.size, np.random.default_rng(seed))
            plain = image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR, box=box)
        with Image.open(io.BytesIO(data)) as image:
            fast = stream.random_resized_crop(image, 64, np.random.default_rng(seed))
            assert image.size[0] < 1600  # it was decoded smaller
        difference = np.abs(np.asarray(plain, dtype=int) - np.asarray(fast, dtype=int))
        assert difference.mean() < 1.5


@pytest.mark.parametrize(
    ("width", "height", "scaled"),
    [(500, 375, (341, 256)), (300, 600, (256, 512)), (256, 256, (256, 256))],
)
def test_the_test_cut_is_resize_256_and_center_crop_224(
    width: int, height: int, scaled: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(smooth_jpeg(width, height))) as image:
        crop = centre_crop(image, 224)
        resized = image.convert("RGB").resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - 224) / 2), round((scaled[1] - 224) / 2)
    assert np.array_equal(np.asarray(crop), np.asarray(resized)[top : top + 224, left : left + 224])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_one_clear_line(workers: int, tmp_path: Path) -> None:
    path = write_photographs(tmp_path) / "train" / "red" / "3.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"red/3\.jpg: not a readable image") as error:
        list(load(tmp_path, workers=workers).training_batches(10, 0, 0))
    assert "\n" not in str(error.value)


def test_what_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "memory_size", lambda: 20_000)
    write_image_folder(tmp_path / "pets")
    with pytest.raises(
        UserError, match=r"more than half of this machine's memory .*: pass --stream"
    ):
        load(tmp_path / "pets", set="folder", image_size=None)
    assert load(tmp_path / "pets", set="folder", stream=True).train.crops


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_camera_was_held_otherwise_and_the_cut_is_the_same(
    orientation: int, tmp_path: Path
) -> None:
    upright = Image.open(io.BytesIO(smooth_jpeg(1600, 1200)))
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(turn).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for seed in range(3):
        with opened(smooth_jpeg(1600, 1200), "a") as image:
            plain = stream.random_resized_crop(image, 64, np.random.default_rng(seed))
        with opened(tmp_path / "turned.jpg", "b") as image:
            turned = stream.random_resized_crop(image, 64, np.random.default_rng(seed))
        assert np.abs(np.asarray(plain, dtype=int) - np.asarray(turned, dtype=int)).mean() < 3
