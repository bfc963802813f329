"""What several tests use: where the reference files are, and small data sets made on the spot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("biprop", deadline=None)  # a shared machine stalls now and then; timings live in benchmarks/
settings.load_profile("biprop")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def shared(relative: str) -> Path:
    """A reference file beside the checkout; the test is skipped where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"no reference file {relative} beside the checkout")
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def png(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """[H, W] or [H, W, 3] uint8 as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_image_folder(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10, side: int = 32) -> Path:
    """One folder of grey PNGs per class; class i is brighter than class i - 1."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            base = 40 + 150 * label // max(1, len(classes) - 1)
            (folder / name / f"{i}.png").write_bytes(png(rng.integers(base, base + 60, (side, side), dtype=np.uint8)))
    return folder


def write_photographs(folder: Path) -> Path:
    """JPEGs of different sizes, class by colour, in train/ and val/."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 15), ("val", 5)):
        for channel, name in enumerate(("blue", "green", "red")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (*rng.integers(40, 90, 2), 3), dtype=np.uint8)
                pixels[:, :, 2 - channel] += 150
                Image.fromarray(pixels).save(folder / part / name / f"{i}.jpg", quality=90)
    return folder


def write_cifar_parquet(folder: Path, train: int = 60, test: int = 20) -> Path:
    """A small CIFAR10 in the layout of the Hub, of random images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    place = folder / "cifar10" / "plain_text"
    place.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        images = [{"bytes": png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), "path": None} for _ in range(count)]
        table = pa.table({"img": images, "label": [i % 10 for i in range(count)]})
        pq.write_table(table, place / f"{part}-00000-of-00001.parquet")
    return folder
