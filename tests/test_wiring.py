"""Every option of the search reaches what it is for: `Search` beside the same steps written out by
hand.

A file of its own beside test_search.py, which is about how a run begins, stops, goes on and what it
leaves. Here the batches, the loss, the optimisers, the schedules and the counts are written anew,
in plain PyTorch and with published constants as numbers; options have unusual values, so that one
that no longer reaches its place makes a test fail.
"""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import png, write_cifar_parquet, write_image_folder, write_photographs
from test_sources import write_mnist
from torch import Tensor, nn

from biprop import checkpoint, config, data, rng
from biprop.config import Config
from biprop.console import Console
from biprop.data import augmix, digits
from biprop.evaluation.counts import Counts
from biprop.models import plans
from biprop.models.network import Network, Task, build_network
from biprop.runs.folder import BEST, CHECKPOINTS, LAST, LOGS, METRICS
from biprop.search import loop
from biprop.search.loop import Search
from biprop.search.outcome import Result
from biprop.search.schedules import POLICIES

TINY = {"width_mult": 0.25, "low_data": 0.015, "batch_size": 8, "device": "cpu"}
"""19 of the digits, in batches of 8, 8 and 3, and a network of 15,000 weights."""
AFFINE = {"bn_type": "AffineBatchNorm", "learn_batchnorm": True}


def resolved(folder: Path, **options: Any) -> Config:
    return config.resolve(None, {**TINY, "log_dir": str(folder), **options})[0]


def few(options: Config) -> data.DataSet:
    """The images that the options ask for, and 60 of each split to evaluate on."""
    images = data.load(options)
    for name in ("validation", "test"):
        split = getattr(images, name)
        setattr(images, name, split.subset(torch.arange(len(split)) < 60))
    return images


def in_double_precision(network: Network) -> None:
    """From here on: at large rates, and in Adam's quotients of small numbers, a last bit of float32
    grows large.
    """
    network.model.double()
    network.model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    assert network.subnetwork
    network.subnetwork.update()


def searched(options: Config, double: bool = False) -> Result:
    search = Search(options, "by-hand", few(options), Console())
    if double:
        in_double_precision(search.network)
    return search.run()


# The search, written out by hand.


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels [B, C, H, W] in 0 .. 255 to (pixel / 255 - mean) / std, float32.

    In an order that rounds as the search does: where a max pool sees equal values, another last bit
    is another gradient.
    """
    mean_of, std_of = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    return pixels * (1 / (255 * std_of)) - mean_of / std_of


def generator(options: Config, stream: rng.Stream, epoch: int, step: int) -> np.random.Generator:
    return np.random.default_rng(rng.derive(options.seed, stream, epoch, step))


def cropped_and_flipped(
    pixels: Tensor, flip: bool, padding: int, draws: np.random.Generator, mode: str = "zeros"
) -> Tensor:
    """Each image moved by at most `padding` pixels, black or reflected outside, and mirrored with a
    chance of one half.
    """
    count, _, height, width = pixels.shape
    down, right = draws.integers(-padding, padding + 1, size=(2, count, 1))
    mirrored = draws.integers(2, size=(count, 1)) * flip
    border = "reflect" if mode == "reflect" else "constant"
    padded = F.pad(pixels.double(), (padding,) * 4, mode=border).to(pixels.dtype)
    images = []
    for image, y, x, mirror in zip(
        padded, down[:, 0] + padding, right[:, 0] + padding, mirrored[:, 0], strict=True
    ):
        window = image[:, y : y + height, x : x + width]
        images.append(window.flip(2) if mirror else window)
    return torch.stack(images)


def augmented(pixels: Tensor, options: Config, draws: np.random.Generator) -> Tensor:
    """One more view of the images, by AugMix or with noise on some of them: float, in 0 .. 255."""
    if options.augmix:
        method = augmix.AugMix(
            width=options.mixture_width,
            depth=options.mixture_depth,
            severity=options.aug_severity,
            all_operations=options.all_augmix_augmentations,
        )
        return augmix.augmix(pixels, augmix.draw(len(pixels), method, draws))
    if options.gaussian_aug:
        is_noisy = torch.from_numpy(draws.random(len(pixels)) >= options.p_clean)
        of_noise = torch.Generator().manual_seed(int(draws.integers(2**63)))
        noise = 255 * options.std_gauss * torch.randn(pixels.shape, generator=of_noise)
        return (pixels + noise * is_noisy[:, None, None, None]).clamp(0, 255)
    return pixels


@dataclass
class Images:
    """The data of a search by hand: how they are normalised, cropped and flipped is given by the
    test.
    """

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: bool
    flip: bool

    def training_batches(self, options: Config, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = generator(options, rng.Stream.SHUFFLE, epoch, 0).permutation(len(self.labels))
        for step, first in enumerate(range(0, len(order), options.batch_size)):
            chosen = torch.from_numpy(order[first : first + options.batch_size])
            draws = generator(options, rng.Stream.AUGMENT, epoch, step)
            padding = options.crop_padding * self.crop
            mode = options.crop_padding_mode
            plain = cropped_and_flipped(self.pixels[chosen], self.flip, padding, draws, mode)
            views = [augmented(plain, options, draws)]
            if options.jsd:
                views = [plain, views[0], augmented(plain, options, draws)]
            yield normalised(torch.cat(views), self.mean, self.std), self.labels[chosen]


def of_digits(options: Config) -> Images:
    """The digits that are trained on, normalised by the mean and deviation of all that are no test
    images.
    """
    pixels = digits.digits().train.images.double() / 255
    train = data.load(options).train
    return Images(
        train.images,
        train.labels,
        (float(pixels.mean()),),
        (float(pixels.std()),),
        crop=True,
        flip=False,
    )


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Against targets of which a share `smoothing` is spread evenly over the classes."""
    classes = logits.shape[1]
    targets = (1 - smoothing) * F.one_hot(labels, classes) + smoothing / classes
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def loss_of(logits: Tensor, labels: Tensor, options: Config) -> Tensor:
    plain = logits[: len(labels)]
    loss = cross_entropy(plain, labels, options.label_smoothing)
    if options.jsd:
        views = logits.softmax(1).chunk(3)
        mean = (views[0] + views[1] + views[2]) / 3
        divergences = [(view * (view / mean).log()).sum(1).mean() for view in views]
        loss = loss + 12 * (divergences[0] + divergences[1] + divergences[2]) / 3
    return loss


def stepped_by_sgd(
    value: Tensor, gradient: Tensor, name: str, state: dict[str, Any], rate: float, options: Config
) -> None:
    decays = not (options.no_bn_decay and "bn" in name)
    direction = gradient + options.weight_decay * decays * value
    momentum = direction if name not in state else options.momentum * state[name] + direction
    state[name] = momentum
    value -= rate * (direction + options.momentum * momentum if options.nesterov else momentum)


def stepped_by_adam(
    value: Tensor, gradient: Tensor, name: str, state: dict[str, Any], rate: float, options: Config
) -> None:
    step, first, second = state.get(name, (0, torch.zeros_like(value), torch.zeros_like(value)))
    step, first, second = (
        step + 1,
        0.9 * first + 0.1 * gradient,
        0.999 * second + 0.001 * gradient**2,
    )
    state[name] = step, first, second
    value -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)


@dataclass
class Counted:
    """Sums over the images of an epoch."""

    images: int = 0
    right: int = 0
    right_in_5: int = 0
    loss: float = 0.0

    def add(self, logits: Tensor, labels: Tensor, loss: float) -> None:
        ranking = logits.argsort(1, descending=True)
        self.images += len(labels)
        self.right += sum(
            int(row[0]) == label for row, label in zip(ranking, labels.tolist(), strict=True)
        )
        self.right_in_5 += sum(
            label in row[:5].tolist() for row, label in zip(ranking, labels.tolist(), strict=True)
        )
        self.loss += loss * len(labels)

    def as_logged(self, part: str) -> dict[str, float]:
        return {
            f"{part}/loss": self.loss / self.images,
            f"{part}/top1": 100 * self.right / self.images,
            f"{part}/top5": 100 * self.right_in_5 / self.images,
        }


@dataclass
class ByHand:
    """What a search by hand leaves.

    Attributes:
        model: after the last step.
        states: of the model, after each epoch.
        momenta: of the optimiser, by the name of the parameter.
        logged: what metrics.jsonl should say of each epoch.
        large: how many gradients were above 1.
    """

    model: nn.Module
    states: list[dict[str, Tensor]] = field(default_factory=list)
    momenta: dict[str, Any] = field(default_factory=dict)
    logged: list[dict[str, float]] = field(default_factory=list)
    large: int = 0


def evaluated(model: nn.Module, split: Any, images: Images) -> Counted:
    counted = Counted()
    model.eval()
    with torch.no_grad():
        logits = model(normalised(split.images, images.mean, images.std))
    counted.add(logits, split.labels, float(cross_entropy(logits, split.labels, 0)))
    return counted


def search_by_hand(
    options: Config,
    images: Images,
    rates: list[float],
    densities: list[float] | None = None,
    double: bool = False,
) -> ByHand:
    """The search of these options, with the learning rate, and under global pruning the density, of
    each epoch as told.
    """
    validation = few(options).validation
    network = build_network(options, Task(10, images.pixels.shape[1], (32, 32)))
    assert network.subnetwork
    if double:
        in_double_precision(network)
    by_hand = ByHand(network.model)
    trained = {name: p for name, p in network.model.named_parameters() if p.requires_grad}
    stepped = stepped_by_adam if options.optimizer == "adam" else stepped_by_sgd
    for number, rate in enumerate(rates):
        if densities:
            network.subnetwork.set_density(densities[number])
        counted = Counted()
        network.model.train()
        for batch, labels in images.training_batches(options, options.start_epoch + number):
            logits = network.model(batch)
            loss = loss_of(logits, labels, options)
            counted.add(logits[: len(labels)], labels, float(loss.detach()))
            gradients = torch.autograd.grad(loss, list(trained.values()))
            with torch.no_grad():
                for (name, value), gradient in zip(trained.items(), gradients, strict=True):
                    by_hand.large += int((gradient.abs() > 1).sum())
                    taken = gradient.clamp(-1, 1) if options.grad_clip else gradient
                    stepped(value, taken, name, by_hand.momenta, rate, options)
            network.subnetwork.update()
        seen = evaluated(network.model, validation, images)
        density = network.subnetwork.kept / network.subnetwork.weights
        by_hand.logged.append(
            {
                "lr": rate,
                "density": density,
                **counted.as_logged("train"),
                **seen.as_logged("validation"),
            }
        )
        by_hand.states.append(
            {key: value.clone() for key, value in network.model.state_dict().items()}
        )
    return by_hand


# The two beside each other.


def logged(result: Result) -> list[dict[str, float]]:
    return [json.loads(line) for line in (result.folder / LOGS / METRICS).read_text().splitlines()]


def assert_equal(result: Result, by_hand: ByHand, first_epoch: int = 0, ramp: int = 0) -> None:
    """The search and the one by hand logged the same and left the same checkpoints, of the last
    epoch and of the best.

    The best is that of the most validation images, of equals the later, among the epochs after the
    ramp of the density.
    """
    accuracies = [line["validation/top1"] for line in by_hand.logged]
    best_accuracy, best_number = max(
        (accuracy, number) for number, accuracy in enumerate(accuracies) if number >= ramp
    )
    assert (result.epoch, result.validation.top1) == (first_epoch + best_number + 1, best_accuracy)
    for line, expected in zip(logged(result), by_hand.logged, strict=True):
        assert {name: line[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    last = checkpoint.load(result.folder / CHECKPOINTS / LAST)
    best = checkpoint.load(result.folder / CHECKPOINTS / BEST)
    for saved, expected_state in ((last, by_hand.states[-1]), (best, by_hand.states[best_number])):
        for name, value in expected_state.items():
            torch.testing.assert_close(
                saved["state_dict"][name], value, rtol=1e-4, atol=1e-5, msg=f"{name} differs"
            )


RESNET = {"arch": "cResNet20", "width_mult": 1, "bn_weight_init": 16, **AFFINE}
"""With `tiny_resnet`: 2,000 weights, batch norms whose names have "bn" in them and others, and
large gradients.
"""


@pytest.fixture
def tiny_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(plans.RESIDUAL["cResNet20"], blocks=(1, 1, 1), widths=(4, 4, 8), stem=4)
    monkeypatch.setitem(plans.RESIDUAL, "cResNet20", plan)


def test_global_pruning_and_every_option_of_sgd(tiny_resnet: None, tmp_path: Path) -> None:
    options = resolved(
        tmp_path,
        **RESNET,
        conv_type="GlobalSubnetConv",
        prune_rate=0.3,
        prune_rate_epoch=2,
        epochs=6,
        seed=11,
        lr=0.6,
        lr_policy="cosine_lr",
        warmup_length=3,
        momentum=0.7,
        nesterov=True,
        weight_decay=0.04,
        no_bn_decay=True,
        label_smoothing=0.3,
        crop_padding=2,
        crop_padding_mode="reflect",
        grad_clip=True,
    )
    rates = [
        0.2,
        0.4,
        0.6,
        0.6,
        0.45,
        0.15,
    ]  # three epochs of warm-up, then 0.3 (1 + cos(pi e / 3))
    densities = [
        0.5,
        0.325,
        0.3,
        0.3,
        0.3,
        0.3,
    ]  # 1 - k - (0.5 - k) (1 - e / 2)^3 are pruned in the first two epochs
    by_hand = search_by_hand(options, of_digits(options), rates, densities, double=True)
    assert by_hand.large > 100  # else nothing is clipped
    assert_equal(searched(options, double=True), by_hand, ramp=2)


def test_plain_sgd_clips_nothing_and_decays_batch_norm_too(
    tiny_resnet: None, tmp_path: Path
) -> None:
    options = resolved(
        tmp_path,
        **RESNET,
        prune_rate=0.4,
        epochs=2,
        seed=5,
        lr=0.05,
        lr_policy="constant_lr",
        momentum=0.3,
        weight_decay=0.2,
    )
    by_hand = search_by_hand(options, of_digits(options), [0.05, 0.05], double=True)
    assert by_hand.large > 100
    assert_equal(searched(options, double=True), by_hand)


def test_adam_takes_neither_momentum_nor_weight_decay(tmp_path: Path) -> None:
    options = resolved(
        tmp_path,
        optimizer="adam",
        lr=0.03,
        lr_policy="constant_lr",
        momentum=0.3,
        weight_decay=0.2,
        epochs=2,
        label_smoothing=0.2,
    )
    by_hand = search_by_hand(options, of_digits(options), [0.03, 0.03], double=True)
    assert_equal(searched(options, double=True), by_hand)


AUGMIX = {
    "augmix": True,
    "mixture_width": 2,
    "mixture_depth": 4,
    "aug_severity": 7,
    "all_augmix_augmentations": True,
}
GAUSSIAN = {"gaussian_aug": True, "std_gauss": 0.4, "p_clean": 0.25}


@pytest.mark.parametrize("how", [AUGMIX, GAUSSIAN], ids=["augmix", "gaussian"])
def test_three_views_share_a_loss_and_the_plain_one_is_counted(
    how: dict[str, Any], tmp_path: Path
) -> None:
    options = resolved(
        tmp_path, **how, jsd=True, label_smoothing=0.1, epochs=2, lr=0.3, lr_policy="constant_lr"
    )
    assert_equal(searched(options), search_by_hand(options, of_digits(options), [0.3, 0.3]))


@pytest.mark.parametrize(
    ("policy", "options", "factors"),
    [
        ("constant_lr", {"epochs": 4, "warmup_length": 2}, [0.5, 1, 1, 1]),
        ("linear_lr", {"epochs": 4, "warmup_fraction": 0.25}, [0.2, 1, 2 / 3, 1 / 3]),
        ("cosine_lr", {"epochs": 4, "warmup_length": 1}, [1, 1, 0.75, 0.25]),
        ("multistep_lr", {"epochs": 5, "lr_adjust": 2, "lr_gamma": 0.3}, [1, 1, 0.3, 0.3, 0.09]),
        ("xnor_lr", {"start_epoch": 29, "epochs": 31}, [1, 0.1]),
        (
            "cos_multi_lr",
            {"start_epoch": 53, "epochs": 57},
            [0.01, 0.001, 3.034661341025e-06, 7.592417833e-07],
        ),
        ("mpt132_w34_2_lr", {"start_epoch": 53, "epochs": 55}, [0.01, 0.0001]),
        ("mpt11_w34_2_v2_lr", {"start_epoch": 69, "epochs": 71}, [0.01, 0.0001]),
        ("mpt11_w18_2_lr", {"start_epoch": 79, "epochs": 81}, [0.01, 0.0001]),
        ("mpt11_w18_2_v2_lr", {"start_epoch": 59, "epochs": 61}, [0.01, 0.0001]),
    ],
)
def test_every_policy_reaches_the_optimiser(
    policy: str, options: dict[str, Any], factors: list[float], tmp_path: Path
) -> None:
    run = resolved(tmp_path, one_batch=True, lr=2.0, lr_policy=policy, momentum=0, **options)
    rates = [2.0 * factor for factor in factors]
    assert_equal(searched(run), search_by_hand(run, of_digits(run), rates), run.start_epoch)


def test_no_policy_is_forgotten_here() -> None:
    (cases,) = (mark.args[1] for mark in test_every_policy_reaches_the_optimiser.pytestmark)
    assert [case[0] for case in cases] == list(POLICIES)


def test_random_scores_are_measured_with_the_statistics_of_twenty_batches(tmp_path: Path) -> None:
    options = resolved(tmp_path, low_data=0.15, epochs=1)  # 24 batches
    images, model = of_digits(options), build_network(options, Task(10, 1, (32, 32))).model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over the batches
    batches = list(images.training_batches(options, epoch=0))
    assert len(batches) == 24
    for batch, _ in batches[:20]:
        model(batch)
    expected = evaluated(model, few(options).test, images)
    counts = Search(options, "by-hand", few(options), Console()).run().random_scores
    assert counts
    assert (counts.images, counts.right, counts.right_in_5) == (
        60,
        expected.right,
        expected.right_in_5,
    )
    assert counts.loss_sum == pytest.approx(expected.loss, rel=1e-5)


# What the images of each set are normalised by, and how they are changed.


def write_cifar100(folder: Path) -> Path:
    """cifar-100-python, of random images."""
    place = folder / "cifar-100-python"
    place.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name, count in (("train", 30), ("test", 10)):
        pixels = draws.integers(0, 256, (count, 3072), dtype=np.uint8)
        (place / name).write_bytes(
            pickle.dumps({"data": pixels, "fine_labels": list(range(count))}, protocol=2)
        )
    (place / "meta").write_bytes(
        pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}, protocol=2)
    )
    return folder


def write_colour_folder(folder: Path) -> Path:
    """Colour images of one size in train/ and val/, 5 of a class."""
    draws = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("n01", "n02"):
            (folder / part / name).mkdir(parents=True)
            for i in range(5):
                (folder / part / name / f"{i}.png").write_bytes(
                    png(draws.integers(0, 256, (64, 64, 3), dtype=np.uint8))
                )
    return folder


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
Numbers = tuple[float, ...]


@pytest.mark.parametrize(
    ("name", "write", "constants", "flip", "crop"),
    [
        ("CIFAR10", write_cifar_parquet, CIFAR, True, True),
        ("CIFAR100", write_cifar100, CIFAR, True, True),
        ("MNIST", lambda folder: write_mnist(folder, False), ((0.1307,), (0.3081,)), False, False),
        ("TinyImageNet", write_colour_folder, IMAGENET, True, True),
        ("folder", write_image_folder, None, True, True),
        ("digits", lambda folder: folder, None, False, True),
    ],
)
def test_batches_have_the_mean_and_deviation_of_their_set(
    name: str,
    write: Callable[[Path], Path],
    constants: tuple[Numbers, Numbers] | None,
    flip: bool,
    crop: bool,
    tmp_path: Path,
) -> None:
    """The published constants; a set without any takes those of its own training images, held-out
    ones included.
    """
    options = Config(
        set=name,
        data=str(write(tmp_path / "data")),
        prune_rate=0.5,
        batch_size=8,
        seed=3,
        select_on="test",
    )
    images = data.load(options)
    if constants is None:
        pixels = images.train.images.double() / 255
        constants = (float(pixels.mean()),), (float(pixels.std()),)
    by_hand = Images(images.train.images, images.train.labels, *constants, crop=crop, flip=flip)
    for ours, theirs in zip(
        by_hand.training_batches(options, 2), images.training_batches(8, 3, 2), strict=False
    ):
        torch.testing.assert_close(theirs[0], ours[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(theirs[1], ours[1])
    batch, _ = next(images.evaluation_batches(images.test, 5))
    torch.testing.assert_close(
        batch, normalised(images.test.images[:5], *constants), rtol=1e-5, atol=1e-5
    )


def test_streamed_images_have_the_mean_and_deviation_of_imagenet(tmp_path: Path) -> None:
    folder = str(write_photographs(tmp_path))
    images = data.load(
        Config(set="ImageNet", data=folder, prune_rate=0.5, image_size=16, workers=0)
    )
    batch, _ = next(images.evaluation_batches(images.test, 5))
    pixels, _ = next(images.evaluation_batches(images.test, 5, normalised=False))
    torch.testing.assert_close(batch, normalised(pixels, *IMAGENET), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jsd", [False, True], ids=["one view", "three views"])
@pytest.mark.parametrize("augment", ["none", "crop", "flip", "crop+flip"])
@pytest.mark.parametrize("how", [AUGMIX, GAUSSIAN], ids=["augmix", "gaussian"])
def test_options_of_the_augmentation_reach_the_batches(
    how: dict[str, Any], augment: str, jsd: bool, tmp_path: Path
) -> None:
    folder = str(write_cifar_parquet(tmp_path))
    options = Config(
        set="CIFAR10",
        data=folder,
        prune_rate=0.5,
        batch_size=32,
        augment=augment,
        jsd=jsd,
        seed=8,
        **how,
    )
    images = data.load(options)
    train = images.train
    by_hand = Images(
        train.images, train.labels, *CIFAR, crop="crop" in augment, flip="flip" in augment
    )
    for ours, theirs in zip(
        by_hand.training_batches(options, 1), images.training_batches(32, 8, 1), strict=True
    ):
        torch.testing.assert_close(theirs[0], ours[0], rtol=1e-4, atol=1e-4)


# Which epoch is the best, how a step is computed, and what the table of results says.


def test_the_best_epoch_is_the_last_of_equals_at_the_final_density(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [
        0,
        900,
        800,
        300,
        505,
        505,
        404,
        0,
    ]  # before the search; six epochs, the first two of which are denser; in the end
    script = iter([Counts(997, number, number) for number in right])
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: next(script))
    result = searched(
        resolved(tmp_path, conv_type="GlobalSubnetConv", prune_rate_epoch=2, epochs=6)
    )
    assert (result.epoch, result.validation.right) == (5, 505)


def test_channels_last_half_precision_and_compilation_reach_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, compiled = [], []

    def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if module.training:
            seen.append((inputs[0].is_contiguous(memory_format=torch.channels_last), output.dtype))

    def compile_nothing(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    colours = {
        "set": "CIFAR10",
        "data": str(write_cifar_parquet(tmp_path / "data")),
        "low_data": 0.3,
        "epochs": 1,
    }
    plain = {"channels_last": False}
    compiled_plain = {**plain, "compile": True}
    for options in ({}, plain, {"channels_last": True}, {"amp": "bf16"}, compiled_plain):
        run = resolved(tmp_path, **colours, **options)
        search = Search(run, "by-hand", few(run), Console())
        search.model.convs[0].register_forward_hook(look)
        search.run()
        of_model = seen[-1]
        assert of_model == (
            options.get("channels_last", True),
            torch.bfloat16 if "amp" in options else torch.float32,
        )
        assert [model is search.model for model in compiled] == [True] * ("compile" in options)


SCRIPT = (Counts(997, 11, 211), Counts(997, 505, 707), Counts(997, 303, 606), Counts(997, 404, 808))
"""Before the search on test data, after two epochs on validation data, and in the end on test data.
"""


@pytest.mark.parametrize(
    ("flags", "learn", "tune", "bias"),
    [
        ({"learn_batchnorm": True}, "True", "False", "False"),
        ({"learn_batchnorm": True, "tune_batchnorm": True}, "True", "True", "False"),
        ({"bn_bias_only": True}, "False", "False", "True"),
    ],
)
def test_each_column_of_the_results_has_its_own_value(
    flags: dict[str, Any],
    learn: str,
    tune: str,
    bias: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = iter(SCRIPT)
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: next(script))
    options = resolved(
        tmp_path,
        bn_type="AffineBatchNorm",
        **flags,
        epochs=2,
        lr=0.017,
        weight_decay=0.0023,
        seed=71,
        prune_rate=0.37,
        name="my name",
        select_on="test",
    )
    before = datetime.now().replace(microsecond=0)
    result = searched(options)
    best_train = max(logged(result), key=lambda line: line["train/top1"])
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert before <= datetime.fromisoformat(row.pop("Date Finished")) <= datetime.now()
    assert float(row.pop("Best Train Top 1")) == pytest.approx(best_train["train/top1"], abs=1e-4)
    assert float(row.pop("Best Train Top 5")) == pytest.approx(best_train["train/top5"], abs=1e-4)
    assert best_train["train/top1"] != best_train["train/top5"]
    assert row == {
        "Base Config": "by-hand",
        "Current Val Top 1": "30.3912",
        "Current Val Top 5": "60.7823",
        "Best Val Top 1": "50.652",
        "Best Val Top 5": "70.9127",
        "Name": "my name",
        "Seed": "71",
        "Prune Rate": "0.37",
        "Learning Rate": "0.017",
        "Epochs": "2",
        "Weight Decay": "0.0023",
        "Learn BN": learn,
        "Tune BN": tune,
        "Bias Only": bias,
        "Run Directory": str(result.folder),
        "Test Top 1": "40.5216",
        "Test Top 5": "81.0431",
        "Selected On": "test",
        "Density": str(round(result.kept / result.weights, 6)),
        "Network": options.arch,
        "Data Set": "digits",
        "Conv Type": "SubnetConv",
        "Optimizer": "sgd",
        "Augmentation": "auto",
        "Minutes": "",
    }
    assert (result.epoch, result.random_scores) == (1, SCRIPT[0])
