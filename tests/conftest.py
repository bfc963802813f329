"""What several tests use: where the reference files are, and small data sets and tickets made on
the spot.
"""

from __future__ import annotations

import io
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "GOMP_SPINCOUNT", "10000"
)  # as the command line sets it: beside other programs ten times as fast

import numpy as np
import pytest
import torch
from hypothesis import settings

from biprop import Ticket, checkpoint, config
from biprop.config import Config
from biprop.models import build
from biprop.models.network import Task, build_network
from biprop.models.plans import PLAIN, RESIDUAL, PlainPlan, ResidualPlan
from biprop.ticket import Layer

# No deadline: a shared machine stalls now and then; timings live in benchmarks/. The examples of
# the default suite are the same at every start, so that a commit fails or passes by what it
# changes; `make properties` looks for others.
settings.register_profile("biprop", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1_000)
settings.load_profile("biprop")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Shells start background jobs with SIGINT ignored, nohup ignores SIGHUP, and children inherit
# that: tests of what signals do would see nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def shared(relative: str) -> Path:
    """A reference file beside the checkout; the test is skipped where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"no reference file {relative} beside the checkout")
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def found_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short real search: the digits' network, 82,000 weights of which 20 % are
    kept, a few seconds.
    """
    from biprop import data
    from biprop.console import Console
    from biprop.search.loop import Search

    options, name = config.resolve(
        None,
        {
            "epochs": 2,
            "low_data": 0.3,
            "batch_size": 32,
            "device": "cpu",
            "log_dir": str(tmp_path_factory.mktemp("found")),
        },
    )
    return Search(options, name, data.load(options), Console(io.StringIO())).run().folder


def checkpoint_fields(options: Config, task: Task) -> dict[str, Any]:
    """The fields of a small checkpoint, as a search writes them, but for what no test looks at."""
    network = build_network(options, task)
    assert network.subnetwork
    ours = {
        "format": checkpoint.FORMAT,
        "version": "0",
        "config": config.as_dict(options),
        "config_name": "c",
        "of_ancestor": False,
        "densities": network.subnetwork.densities,
        "num_classes": task.num_classes,
        "channels": task.channels,
        "input_size": list(task.input_size),
        "mean": [0.5],
        "std": [0.5],
    }
    return {
        "arch": options.arch,
        "epoch": 1,
        "state_dict": network.model.state_dict(),
        "biprop": ours,
    }


def png(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """[H, W] or [H, W, 3] uint8 as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_image_folder(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10, side: int = 32
) -> Path:
    """One folder of grey PNGs per class; class i is brighter than class i - 1."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            base = 40 + 150 * label // max(1, len(classes) - 1)
            (folder / name / f"{i}.png").write_bytes(
                png(rng.integers(base, base + 60, (side, side), dtype=np.uint8))
            )
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
        images = [
            {"bytes": png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), "path": None}
            for _ in range(count)
        ]
        table = pa.table({"img": images, "label": [i % 10 for i in range(count)]})
        pq.write_table(table, place / f"{part}-00000-of-00001.parquet")
    return folder


def network_of(name: str, size: tuple[int, int] = (32, 32), **options: Any) -> dict[str, Any]:
    """`Ticket.network` of a network by name."""
    default = {
        "num_classes": 10,
        "channels": 3,
        "bn_type": "NonAffineBatchNorm",
        "width_mult": 1.0,
        "head_bias": False,
    }
    return {"name": name, "input_size": list(size), "ancestor": False, **default, **options}


def random_ticket(
    network: dict[str, Any], density: float = 0.3, dense: tuple[str, ...] = (), seed: int = 0
) -> Ticket:
    """A ticket of a network that nobody trained.

    Some layers store their signs; a batch norm's factors have both signs.

    Args:
        network: see `network_of`.
        density: a chance per weight.
        dense: names of the layers without a mask.
        seed: of all.
    """
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        shapes = {key: tuple(v.shape) for key, v in build.build(**network).state_dict().items()}
    layers: list[Layer] = []
    state: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    for key, shape in shapes.items():
        name, _, leaf = key.rpartition(".")
        if len(shape) == 4 and name not in dense:
            mask = rng.random(shape, dtype=np.float32) < density
            kept, stored = int(mask.sum()), None
            if len(layers) % 3 == 2:
                stored = np.packbits(rng.integers(0, 2, kept, dtype=np.uint8), bitorder="little")
            gain = np.float32(rng.uniform(1, 2) / max(1.0, kept / shape[0]) ** 0.5)
            plane = np.packbits(mask, bitorder="little")
            signs = "seed" if stored is None else "stored"
            layers.append(Layer(name, len(layers), shape, kept, float(gain), plane, signs, stored))  # type: ignore[arg-type]
        elif len(shape) == 4:
            state[key] = (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)
        elif leaf == "running_var":
            state[key] = rng.uniform(0.5, 2, shape).astype(np.float32)
        elif leaf == "weight":
            state[key] = (rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)).astype(
                np.float32
            )
        elif leaf != "num_batches_tracked":
            state[key] = (0.3 * rng.standard_normal(shape)).astype(np.float32)
    return Ticket(network, seed, layers, state)


def narrow(name: str) -> PlainPlan | ResidualPlan:
    """A network's plan with an eighth of its width and at most two blocks a stage."""
    if name in PLAIN:
        plan = PLAIN[name]
        convs, head = (
            re.sub(r"\d+", lambda width: str(int(width[0]) // 8), tokens)
            for tokens in (plan.convs, plan.head)
        )
        return replace(plan, convs=convs, head=head)
    deep = RESIDUAL[name]
    blocks, widths = (
        tuple(min(2, blocks) for blocks in deep.blocks),
        tuple(width // 8 for width in deep.widths),
    )
    return replace(deep, blocks=blocks, widths=widths, stem=deep.stem // 8)


def make_narrow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Give a network its narrow plan for the length of a test."""
    monkeypatch.setitem(PLAIN if name in PLAIN else RESIDUAL, name, narrow(name))  # type: ignore[arg-type]
