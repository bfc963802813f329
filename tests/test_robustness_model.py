"""The robustness of any PyTorch model: `biprop.robustness.measure`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import biprop
from biprop import Ticket, UserError, config, data
from biprop.data import DataSet, digits, spread
from biprop.robustness import Scores, measure
from biprop.robustness.corruptions import corrupt

DIGITS = DataSet(digits.digits())
PIXELS: Tensor = DIGITS.test.images[:40]  # type: ignore[attr-defined]
LABELS = DIGITS.test.labels[:40]
FEW: dict[str, Any] = {"corruptions": "fog,noise", "severities": [1, 4]}


class Net(nn.Module):
    """A classifier that notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(32 * 32, 10)
        self.dropout = nn.Dropout(0.5)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(images)
        return self.linear(self.dropout(self.norm(images)).flatten(1))  # type: ignore[no-any-return]


def right(network: Any, pixels: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return int((network(pixels).argmax(1) == labels).sum())


def test_counts_are_those_of_the_model_on_each_corruption() -> None:
    net = Net().eval()
    measured = measure(net, (PIXELS, LABELS), on_pixels=True, batch_size=16, seed=5, **FEW)
    assert measured.clean.right == right(net, PIXELS / 255, LABELS)
    assert measured.clean.images == 40
    assert list(measured.cells) == [
        (name, severity)
        for name in ("fog", "gaussian_noise", "shot_noise", "impulse_noise")
        for severity in (1, 4)
    ]
    for (name, severity), counts in measured.cells.items():
        images = corrupt(PIXELS, name, severity, seed=5) / 255
        assert counts.right == right(net, images, LABELS), name


def test_every_form_of_the_same_images_gives_the_same_scores() -> None:
    net = Net()
    floats = PIXELS.float() / 255
    loader = DataLoader(TensorDataset(floats, LABELS), batch_size=7)
    same: list[Any] = [
        (PIXELS, LABELS),
        (PIXELS.numpy(), LABELS.numpy()),
        (floats.double(), LABELS.int()),
        [PIXELS, LABELS],
        loader,
        iter([(PIXELS[:30], LABELS[:30]), (PIXELS[30:], LABELS[30:])]),
    ]
    first, *others = (measure(net, data, on_pixels=True, **FEW) for data in same)
    for other in others:
        assert other == first


def test_a_data_set_gives_its_test_images_and_its_normalisation() -> None:
    net = Net()
    measured = measure(net, DIGITS, images=30, **FEW)
    assert measured.clean.images == 30
    numbers = spread(len(DIGITS.test), 30)
    pixels = DIGITS.test.images[numbers]  # type: ignore[attr-defined]
    mean, std = DIGITS.mean[0], DIGITS.std[0]
    torch.testing.assert_close(net.seen[1], (pixels / 255 - mean) / std)
    net.seen.clear()
    measure(net, (pixels, LABELS[:30]), mean=[mean], std=[std], **FEW)
    torch.testing.assert_close(net.seen[1], (pixels / 255 - mean) / std)
    net.seen.clear()
    measure(net, DIGITS, images=30, on_pixels=True, **FEW)
    torch.testing.assert_close(net.seen[1], pixels / 255)


def test_floats_are_rounded_to_the_nearest_of_256_levels() -> None:
    net = Net()
    measure(net, (torch.full((2, 1, 32, 32), 0.999), LABELS[:2]), on_pixels=True, **FEW)
    assert float(net.seen[0].min()) == 1


def test_modes_are_restored_and_the_model_is_measured_in_its_own_type() -> None:
    net = Net().double().train()
    net.norm.eval()
    measure(net, (PIXELS, LABELS), on_pixels=True, **FEW)
    assert [module.training for module in net.modules()] == [True, False, True, True]
    assert net.seen[0].dtype == torch.float64
    assert net.norm.num_batches_tracked == 0


def test_it_agrees_with_the_command_for_tickets() -> None:
    """The same images, corruptions and counts as `biprop robustness` for the same network."""
    from biprop.cli import command_line

    path = str(Path(__file__).parents[1] / "pretrained" / "digits.mpt")
    arguments = ["robustness", path, "--corruptions", "fog,shot_noise", "--severities", "1,4"]
    assert command_line.main([*arguments, "--images", "50", "-o", "x", "--device", "cpu"]) == 0
    model = Ticket.load(path).to_model(on_pixels=True)
    measured = measure(
        model,
        DIGITS,
        on_pixels=True,
        images=50,
        corruptions=["fog", "shot_noise"],
        severities="1,4",
    )
    rows = [line.split(",") for line in Path("x.csv").read_text().splitlines()[2:]]
    counted = {(row[1], int(row[2])): int(row[3]) for row in rows}
    assert counted == {cell: counts.right for cell, counts in measured.cells.items()}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_published_images(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    np.save(folder / "fog.npy", np.tile(PIXELS.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1)))
    np.save(folder / "labels.npy", LABELS.numpy())
    net = Net()
    measured = measure(
        net, (PIXELS, LABELS), on_pixels=True, corruptions="fog", corrupted=folder, name="own"
    )
    assert {counts.right for counts in measured.cells.values()} == {measured.clean.right}
    assert "published files" in measured.source
    assert measured.name == "own"


def test_a_function_is_a_model() -> None:
    measured = measure(
        lambda images: nn.functional.one_hot((images.mean((1, 2, 3)) * 9).long(), 10).float(),
        (PIXELS, LABELS),
        on_pixels=True,
        **FEW,
    )
    assert isinstance(measured, Scores)


ZEROS = torch.zeros(3, 10)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (3, {}, "data: a value of type int: must be a DataSet"),
        ([], {}, "data: there are no images"),
        ([PIXELS, LABELS, LABELS], {}, "a batch is a value of type Tensor: must be"),
        ((PIXELS[0], LABELS), {}, r"images \[1, 32, 32\]: must be \[N, 1 or 3, H, W\]"),
        ((PIXELS, LABELS[:-1]), {}, r"labels are torch.int64 \[39\]: must be \[40\] whole"),
        ((PIXELS, LABELS.float()), {}, "labels are torch.float32"),
        ((PIXELS, LABELS - 1), {}, "whole numbers from 0"),
        ((PIXELS.int(), LABELS), {}, "images are torch.int32: must be uint8, or floats"),
        ((PIXELS / 255 - 0.5, LABELS), {}, "from -0.5 to 0.5: must be uint8, .* leave out Norm"),
        ((PIXELS / 0.0, LABELS), {}, "images from nan to nan"),
        ((PIXELS, LABELS + 1), {}, "labels go up to 10, but the model has 10 outputs"),
        (
            [(PIXELS[:20], LABELS[:20]), (PIXELS[20:, :, :9], LABELS[20:])],
            {},
            "of different sizes",
        ),
        ((PIXELS[:, :, :9], LABELS), {}, "the model fails on images of 1 x 9 x 32: mat1 and mat2"),
        ((PIXELS, LABELS), {"on_pixels": False}, "mean: must be given, unless"),
        ((PIXELS, LABELS), {"mean": [0.5], "std": [1]}, "on_pixels: the model normalises"),
        ((PIXELS, LABELS), {"on_pixels": False, "mean": [0.1] * 3}, "mean = .*: must be 1 numb"),
        (
            (PIXELS, LABELS),
            {"on_pixels": False, "mean": [0.1], "std": [0]},
            r"std = \[0\]: must be positive",
        ),
        ((PIXELS, LABELS), {"images": 0}, "images = 0: must be 1 or more"),
        ((PIXELS, LABELS), {"batch_size": 1.5}, "batch_size = 1.5: must be a whole"),
        ((PIXELS, LABELS), {"seed": -1}, "seed = -1: must be in"),
        ((PIXELS, LABELS), {"corruptions": "frog"}, "did you mean 'fog'"),
        ((PIXELS, LABELS), {"severities": [6]}, "must be 1, 2, 3, 4 or 5"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(
    data: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        measure(Net(), data, **{"on_pixels": True, **FEW, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model: a value of type int: must be a torch.nn.Module"),
        (lambda images: {"logits": images}, "returns a value of type dict: must be logits"),
        (lambda images: images, r"returns \[2, 1, 32, 32\] for 2 images: must be logits"),
        (lambda images: images.flatten(1)[:1], r"returns \[1, 1024\] for 2 images"),
    ],
)
def test_what_is_no_classifier(model: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(model, (PIXELS, LABELS), on_pixels=True, **FEW)


def test_the_package_gives_it_without_loading_pytorch_before() -> None:
    assert biprop.robustness.measure is measure
    code = (
        "import sys, biprop\n"
        "assert biprop.robustness.__all__\n"
        "from biprop.robustness import severities\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = biprop.robustness.nothing


def test_tables_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.random.default_rng(0).normal(size=(60, 4)), y=[0, 1] * 30)
    options, _ = config.resolve(None, {"set": "arrays", "data": str(tmp_path / "a.npz")})
    with pytest.raises(UserError, match="corruptions are of images"):
        measure(torch.nn.Linear(4, 2), data.load(options))
