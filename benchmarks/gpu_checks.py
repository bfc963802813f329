"""Every path that a search takes on a GPU, in little, beside the CPU: for `gpu.py`, and alone.

    python benchmarks/gpu_checks.py             # on the GPU: less than a minute
    python benchmarks/gpu_checks.py --device cpu
    python benchmarks/gpu_checks.py --compile   # the one that takes longer: torch.compile

One line a check. The first that finds a fault ends the program with one line that says so, the
traceback, and exit code 1. Images are of CIFAR-10's size and made on the spot: noise over a colour
for each class, which a small network learns in a second.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is loaded

import numpy as np
import torch
from torch import Tensor, nn

from biprop import checkpoint, config
from biprop.config import Config
from biprop.console import Console
from biprop.data import DataSet, Source, augmix
from biprop.data.augmix import AugMix
from biprop.data.loading import recipe_of
from biprop.data.sources import Images
from biprop.runs.folder import LOGS, METRICS, newest_checkpoint, read_metrics
from biprop.search.loop import Search
from biprop.search.outcome import Result, SearchStopped
from biprop.search.pack import pack
from biprop.search.score_rules import ScoreOptimizer
from biprop.subnetwork import masks
from biprop.subnetwork.binarize import masked_binary_weight

Options = dict[str, Any]
Check = Callable[[torch.device], str]
"""Takes the device, raises what it finds, and returns what to say of a success."""

SMALL: Options = {
    "set": "CIFAR10",
    "arch": "Fast6",
    "width_mult": 0.25,
    "prune_rate": 0.2,
    "init": "signed_constant",
    "bn_type": "AffineBatchNorm",
    "learn_batchnorm": True,
    "optimizer": "muon",
    "lr_policy": "linear_lr",
    "epochs": 2,
    "batch_size": 64,
    "select_on": "test",
    "baseline": False,
}
FAST: Options = {"amp": "bf16", "channels_last": True}
CLASSES, TRAIN, TEST = 10, 640, 200


class Fault(Exception):
    """What a check finds wrong."""


def require(condition: bool, what: str) -> None:
    """Raise Fault with the text `what` unless the condition holds."""
    if not condition:
        raise Fault(what)


def coloured_images(count: int, seed: int) -> Images:
    """Images [count, 3, 32, 32] of noise, over a colour that depends on the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    colours = np.random.default_rng(0).integers(0, 160, (CLASSES, 3, 1, 1))
    pixels = colours[labels] + generator.integers(0, 96, (count, 3, 32, 32))
    return Images(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


def small_data(options: Config) -> DataSet:
    """Training and test images for the checks."""
    names = [str(number) for number in range(CLASSES)]
    train, test = coloured_images(TRAIN, 1), coloured_images(TEST, 2)
    source = Source(train, test, names, (0.5,) * 3, (0.25,) * 3, "crop+flip")
    return DataSet(source, options.select_on, recipe_of(options))


def small_search(
    device: torch.device, folder: Path, start: Path | None = None, **given: Any
) -> Search:
    """A search in little; `start`: continue that of this run folder."""
    values = {**SMALL, **given, "device": str(device), "log_dir": str(folder)}
    options, name = config.resolve(None, values)
    content = None
    if start:
        path = newest_checkpoint(start)
        assert path
        content = checkpoint.read(path, {}, config.as_dict(options))
    quiet = Console(io.StringIO())
    return Search(options, name, small_data(options), quiet, content, start is not None)


def losses_and_result(device: torch.device, **given: Any) -> tuple[list[float], Result]:
    """The training loss of each epoch of a search in little, and its result."""
    with tempfile.TemporaryDirectory() as folder:
        search = small_search(device, Path(folder), **given)
        result = search.run()
        lines = read_metrics(search.folder / LOGS / METRICS)
        return [line["train/loss"] for line in lines], result


def check_selection(device: torch.device) -> str:
    """The masks of a GPU are those of the CPU, ties included."""
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(70_000, generator=generator), torch.randn(30, 40, generator=generator)]
    scores.append(torch.randint(-9, 9, (999,), generator=generator).float())
    scores[0][:100] = scores[0][100:200]
    there = [layer.to(device) for layer in scores]
    sizes = [layer.numel() for layer in scores]
    for density in (0.02, 0.3, 0.9):
        kept = [masks.kept_count(size, density) for size in sizes]
        floors = [masks.floor_count(size, 0.01) for size in sizes]
        of_cpu = masks.keep_top_of_each(scores, kept)
        of_cpu += masks.keep_top_global(scores, sum(kept), floors)
        of_device = masks.keep_top_of_each(there, kept, check=False)
        of_device += masks.keep_top_global(there, sum(kept), floors, check=False)
        is_equal = all(map(torch.equal, of_cpu, (mask.cpu() for mask in of_device)))
        require(is_equal, f"masks at density {density} differ from those of the CPU")
    return f"{sum(sizes):,} scores"


def check_weights(device: torch.device) -> str:
    """Masked weights and score gradients are those of the CPU to the last bit."""
    generator = torch.Generator().manual_seed(0)
    weight, scores, upstream = (torch.randn(64, 32, 3, 3, generator=generator) for _ in range(3))
    results = []
    for place in (torch.device("cpu"), device):
        leaf = scores.to(place).detach().requires_grad_()
        mask, gain = (scores.abs() > 0.5).to(place), torch.tensor(0.125).to(place)
        result = masked_binary_weight(leaf, weight.to(place), mask, gain)
        result.backward(upstream.to(place))
        assert leaf.grad is not None
        results.append((result.detach().cpu(), leaf.grad.cpu()))
    require(all(map(torch.equal, *results)), "weights or gradients differ from those of the CPU")
    return "equal"


def check_batches(device: torch.device) -> str:
    """Crops, flips and order are those of the CPU; AugMix and three views nearly."""
    options, _ = config.resolve(None, {**SMALL, "augmix": True, "jsd": True})
    batches = [
        next(small_data(options).to(place).training_batches(32, 0, 0))
        for place in (torch.device("cpu"), device)
    ]
    (ours, labels), (theirs, their_labels) = batches
    require(torch.equal(labels, their_labels.cpu()), "the order of the images differs")
    difference = (ours - theirs.cpu()).abs()
    require(float(difference[:32].max()) < 1e-5, "crops or flips differ from those of the CPU")
    require(float(difference[32:].mean()) < 1e-2, "AugMix differs from that of the CPU")
    return f"mean difference of AugMix {float(difference[32:].mean()):.1e}"


def check_augmix(device: torch.device) -> str:
    """Every operation of AugMix, the enhancements included."""
    pixels = coloured_images(200, 3).images
    drawn = augmix.draw(200, AugMix(all_operations=True), np.random.default_rng(0))
    difference = augmix.augmix(pixels.to(device), drawn).cpu() - augmix.augmix(pixels, drawn)
    mean = float(difference.abs().mean())
    require(mean < 0.05, f"pixels differ from the CPU's by {mean:.3f} of 255 on average")
    return f"mean difference {mean:.1e} of 255"


def check_update_rules(device: torch.device) -> str:
    """Three steps of each rule are those of the CPU, to rounding."""
    differences = {}
    for direction in ("momentum", "adam", "muon"):
        ours, theirs = (_three_steps(direction, place) for place in (torch.device("cpu"), device))
        # The mean: rounding can carry a single score over 0, and there its steps change sign.
        differences[direction] = float((ours - theirs).abs().mean())
        require(differences[direction] < 1e-4, f"{direction}: scores differ by {differences}")
    return f"mean difference {max(differences.values()):.1e}"


def _three_steps(direction: Any, device: torch.device) -> Tensor:
    """All parameters after three steps, flat, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    shapes = [(64, 32, 3, 3), (1, 90), (10, 64)]
    scores = {nn.Parameter(drawn(*shape)): drawn(*shape) for shape in shapes}
    other = nn.Parameter(drawn(64))
    optimizer = ScoreOptimizer(scores, [other], direction, lr=0.1, lr_others=0.01)
    for _ in range(3):
        for parameter in (*scores, other):
            parameter.grad = drawn(*parameter.shape)
        optimizer.step()
    return torch.cat([parameter.detach().cpu().flatten() for parameter in (*scores, other)])


def check_learning(device: torch.device) -> str:
    """Muon in bfloat16, channels last: the loss falls and the classes are learned."""
    by_epoch, result = losses_and_result(device, **FAST, epochs=4)
    require(by_epoch[-1] < by_epoch[0], f"the loss does not fall: {by_epoch}")
    require(result.test.top1 > 30, f"only {result.test.top1:.1f} % of an easy set")
    return f"{result.test.top1:.0f} % of an easy set"


def check_other_searches(device: torch.device) -> str:
    """Three views with the Jensen-Shannon loss, noise, global scope, 1/1, the published rule."""
    searches: dict[str, Options] = {
        "three views": {"augmix": True, "jsd": True},
        "noise": {"gaussian_aug": True, "p_clean": 0.5, "score_norm": True, "optimizer": "sgd"},
        "global scope": {"conv_type": "GlobalSubnetConv"},
        "1/1": {"arch": "Fast6_BinAct"},
        "the published rule": {"optimizer": "sgd", "lr_policy": "cosine_lr", "grad_clip": True},
        "Adam": {"optimizer": "adam", "lr": 0.01, "lr_policy": "cosine_lr"},
    }
    for name, given in searches.items():
        by_epoch, _ = losses_and_result(device, **{**FAST, **given, "epochs": 1})
        require(np.isfinite(by_epoch).all().item(), f"{name}: the loss is not finite")
    return ", ".join(searches)


def check_resuming(device: torch.device) -> str:
    """A search that was stopped and continued is the one that was not."""
    with tempfile.TemporaryDirectory() as folder, _deterministic():
        paths = [Path(folder) / name for name in ("whole", "again", "half")]
        whole, again = (small_search(device, path) for path in paths[:2])
        whole.run()
        again.run()
        resumed = _stopped_and_continued(device, paths[2], after=TRAIN // 64 + 3)
    ours, same, theirs = (
        [parameter.detach().cpu() for parameter in search.model.parameters()]
        for search in (whole, again, resumed)
    )
    is_reproducible = all(map(torch.equal, ours, same))
    is_equal = all(map(torch.equal, ours, theirs))
    require(is_equal or not is_reproducible, "a search that was continued has other scores")
    if is_reproducible:
        return "bit by bit"
    return "not comparable: two searches with the same seed differ here"


def _stopped_and_continued(device: torch.device, folder: Path, after: int) -> Search:
    """A search that is stopped after so many steps, and continued from its checkpoint."""
    search = small_search(device, folder)
    step = search._train_step

    def counting_step(images: Tensor, labels: Tensor, taught: Tensor | None) -> None:
        step(images, labels, taught)
        if search.state.step == after:
            search.stop.signal = signal.SIGTERM

    search._train_step = counting_step  # type: ignore[method-assign]
    try:
        search.run()
    except SearchStopped:
        continued = small_search(device, folder, start=search.folder)
        require(continued.state.step == after, "the checkpoint is of another step")
        continued.run()
        return continued
    raise Fault("the search cannot be stopped")


@contextmanager
def _deterministic() -> Iterator[None]:
    """Within the block, cuDNN chooses algorithms that give the same bits each time."""
    # Not cudnn.flags(): it also sets whether TF32 is allowed, by a name that PyTorch is replacing.
    flags = torch.backends.cudnn
    before = flags.deterministic, flags.benchmark
    flags.deterministic, flags.benchmark = True, False
    try:
        yield
    finally:
        flags.deterministic, flags.benchmark = before


def check_that_nothing_waits(device: torch.device) -> str:
    """Between two looks, no operation of a training step makes the CPU wait for the GPU."""
    if device.type != "cuda":
        return "no GPU"
    with tempfile.TemporaryDirectory() as folder:
        search = small_search(device, Path(folder), **FAST, augmix=True, jsd=True)
        search.open_folder()
        for first in (0, 1):  # the first time, kernels are loaded
            search.state.batch = first
            torch.cuda.set_sync_debug_mode("error" if first else "default")
            try:
                for lesson in search.lessons.of_epoch(0, first):
                    search._train_step(*lesson)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return f"{TRAIN // 64 - 1} steps"


def check_ticket(device: torch.device) -> str:
    """A ticket packed from a search on the GPU computes what the search's network does."""
    with tempfile.TemporaryDirectory() as folder:
        search = small_search(device, Path(folder))
        search.run()
        ticket = pack(search.folder, {})
        size = ticket.save(Path(folder) / "small.mpt")
    model = ticket.to_model().to(device).eval()
    images, _ = next(search.data.evaluation_batches(search.data.test, TEST))
    with torch.no_grad():
        difference = float((model(images) - search.model.eval()(images)).abs().max())
    require(difference < 0.05, f"logits of the ticket differ by {difference:.3f}")
    return f"{size:,} bytes"


def check_compile(device: torch.device) -> str:
    """torch.compile, in bfloat16."""
    by_epoch, _ = losses_and_result(device, **FAST, compile=True, epochs=1)
    require(np.isfinite(by_epoch).all().item(), "the loss is not finite")
    return "compiled"


CHECKS: dict[str, Check] = {
    "top-k selection": check_selection,
    "masked weights": check_weights,
    "augmented batches": check_batches,
    "AugMix": check_augmix,
    "update rules": check_update_rules,
    "bf16, channels_last, Muon": check_learning,
    "no waiting": check_that_nothing_waits,
    "other searches": check_other_searches,
    "resuming": check_resuming,
    "ticket": check_ticket,
}


def run_checks(device: torch.device, checks: dict[str, Check]) -> dict[str, str]:
    """Run the checks in their order; returns what each says.

    Raises:
        Fault: the first one that fails, with one line that names it; its cause is attached.
    """
    results = {}
    for name, check in checks.items():
        start = time.monotonic()
        try:
            results[name] = check(device)
        except Exception as e:
            text = str(e).partition("\n")[0]
            raise Fault(f"{name}: {type(e).__name__}: {text}") from e
        seconds = time.monotonic() - start
        print(f"check {name}: {results[name]} ({seconds:.1f} s)", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="check torch.compile only")
    arguments = parser.parse_args()
    checks: dict[str, Check] = {"torch.compile": check_compile} if arguments.compile else CHECKS
    try:
        run_checks(torch.device(arguments.device), checks)
    except Fault as fault:
        traceback.print_exception(fault)
        print(f"FAULT in {fault}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
