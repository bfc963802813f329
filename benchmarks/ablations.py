"""What does each part of a fast search give? Short searches that differ in one thing, over seeds.

    python benchmarks/ablations.py --data DIR                  # all variants, 3 seeds
    python benchmarks/ablations.py --data DIR --only lr rule   # variants whose names begin so
    python benchmarks/ablations.py --data DIR --networks       # the papers' networks, both rules
    python benchmarks/ablations.py --table

A proxy for CIFAR-10: images of 16x16 pixels, 20,000 of them, 5 epochs = 200 steps of 500 images;
Fast6 with 32-64-128 channels (294 thousand weights), 30 % kept, as the recipe cifar10-small; all
schedules by steps, in float32. The figure is the accuracy on 5,000 held-out training images after
the best epoch, which is the last one nearly always. With --networks: images of 32x32 pixels, 10,000
of them, 5 epochs with the published configuration, and the same with Muon and a linear schedule.

Each search appends a record to FOLDER/ablations.jsonl, and is not repeated if its record is there.
--table prints mean and standard deviation of each variant and, by seed, its difference to the base.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biprop import config, data
from biprop.console import Console
from biprop.data import DataSet
from biprop.evaluation.counts import evaluate
from biprop.search.loop import Search

Batches = Iterator[tuple[Tensor, Tensor]]

PROXY: dict[str, Any] = {
    "set": "folder",
    "image_size": 16,
    "low_data": 20_000 / 45_000,
    "epochs": 5,
    "batch_size": 500,
    "amp": "none",
    "augment": "flip",
}
PUBLISHED: dict[str, Any] = {
    "set": "CIFAR10",
    "low_data": 10_000 / 45_000,
    "epochs": 5,
    "channels_last": True,
}
MUON: dict[str, Any] = {"optimizer": "muon", "lr": 0.1, "lr_policy": "linear_lr", "momentum": 0.85}
AVERAGE_OF_LAST = 0.2
"""Share of the steps whose scores are averaged."""
CALIBRATION_BATCHES = 20


@dataclass
class Variant:
    """One thing that differs from the base.

    Attributes:
        options: of the search.
        prepare: changes the search before it runs.
        finish: changes the trained network before it is measured.
    """

    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Search], Any] = lambda search: None
    finish: Callable[[Search, Any], None] = lambda search, prepared: None


# ---- variants that are no options ----


def smaller_images_first(search: Search) -> None:
    """Train on images of 12x12 pixels in the first 60 % of the steps."""
    batches = search.data.training_batches
    steps = search.config.epochs * search.batches

    def resized(*arguments: Any) -> Batches:
        for images, labels in batches(*arguments):
            if search.state.step < 0.6 * steps:
                images = F.interpolate(images, size=(12, 12), mode="bilinear", antialias=True)
            yield images, labels

    search.data.training_batches = resized  # type: ignore[method-assign, assignment]


def hardest_half(search: Search) -> None:
    """Train on the half of each batch that has the highest losses."""
    batches = search.data.training_batches

    def chosen(*arguments: Any) -> Batches:
        for images, labels in batches(*arguments):
            search.model.eval()
            with torch.no_grad():
                losses = F.cross_entropy(search.model(images), labels, reduction="none")
            search.model.train()
            hardest = losses.topk(len(losses) // 2).indices
            yield images[hardest], labels[hardest]

    search.data.training_batches = chosen  # type: ignore[method-assign, assignment]


class ScoreAverage:
    """The mean of the scores over the last steps."""

    def __init__(self, search: Search) -> None:
        assert search.network.subnetwork
        self.scores = [layer.scores for layer in search.network.subnetwork.layers.values()]
        self.sums = [torch.zeros_like(scores) for scores in self.scores]
        first = (1 - AVERAGE_OF_LAST) * search.config.epochs * search.batches

        def add(*_: Any) -> None:
            if search.state.step >= first:
                for total, scores in zip(self.sums, self.scores, strict=True):
                    total += scores.detach()

        search.optimizer.register_step_post_hook(add)

    @torch.no_grad()
    def take(self, search: Search) -> None:
        """Put the averaged scores into the network, and compute batch-norm statistics anew."""
        for total, scores in zip(self.sums, self.scores, strict=True):
            scores.copy_(total)
        assert search.network.subnetwork
        search.network.subnetwork.update()
        recalibrate(search)


@torch.no_grad()
def recalibrate(search: Search) -> None:
    """Compute batch-norm statistics as plain means over training batches."""
    norms = [module for module in search.model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches, instead of an exponential one
    search.model.train()
    batches = search.data.training_batches(search.config.batch_size, 0, 0, search.group, 0)
    for _, (images, _) in zip(range(CALIBRATION_BATCHES), batches, strict=False):
        search.model(images)


def erdos_renyi_kernel(search: Search) -> None:
    """Densities proportional to (in + out + height + width) / (in out height width), as many
    weights kept in all (Evci et al., "Rigging the Lottery", ICML 2020).
    """
    subnetwork = search.network.subnetwork
    assert subnetwork
    shapes = {name: layer.weight.shape for name, layer in subnetwork.layers.items()}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    wanted = sum(subnetwork.densities[name] * sizes[name] for name in sizes)
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    low, high = 0.0, 1 / min(raw.values())
    for _ in range(60):  # bisection of the common factor; a density is at most 1
        factor = (low + high) / 2
        kept = sum(min(1.0, factor * raw[name]) * sizes[name] for name in sizes)
        low, high = (factor, high) if kept < wanted else (low, factor)
    subnetwork.set_densities({name: min(1.0, low * raw[name]) for name in sizes})


VARIANTS: dict[str, Variant] = {
    "base": Variant(),
    "rule: sgd on raw scores (published)": Variant({"optimizer": "sgd", "momentum": 0.9}),
    "rule: sgd on raw scores, lr 1": Variant({"optimizer": "sgd", "momentum": 0.9, "lr": 1.0}),
    "rule: sgd on raw scores, lr 10": Variant({"optimizer": "sgd", "momentum": 0.9, "lr": 10.0}),
    "rule: momentum on rescaled scores": Variant({"optimizer": "sgd", "score_norm": True}),
    "rule: Adam on rescaled scores": Variant({"optimizer": "adam", "score_norm": True}),
    "lr 0.05": Variant({"lr": 0.05}),
    "lr 0.2": Variant({"lr": 0.2}),
    "lr: cosine": Variant({"lr_policy": "cosine_lr"}),
    "momentum 0.95": Variant({"momentum": 0.95}),
    "dense lr 0.003": Variant({"dense_lr": 0.003}),
    "dense lr 0.03": Variant({"dense_lr": 0.03}),
    "bytes: 50 % kept": Variant({"prune_rate": 0.5}),
    "bytes: 10 % kept": Variant({"prune_rate": 0.1}),
    "bytes: width 0.75, 7 % kept": Variant({"width_mult": 0.75, "prune_rate": 0.07}),
    "bytes: width 0.75, 10 % kept": Variant({"width_mult": 0.75, "prune_rate": 0.1}),
    "bytes: width 1, 5 % kept": Variant({"width_mult": 1.0, "prune_rate": 0.05}),
    "batch norm not learned": Variant({"learn_batchnorm": False}),
    "batch norm without weight and bias": Variant(
        {"learn_batchnorm": False, "bn_type": "NonAffineBatchNorm"}
    ),
    "batch size 250": Variant({"batch_size": 250}),
    "batch size 1000": Variant({"batch_size": 1000}),
    "label smoothing 0": Variant({"label_smoothing": 0.0}),
    "label smoothing 0.2": Variant({"label_smoothing": 0.2}),
    "augmentation: crop too": Variant({"augment": "crop+flip"}),
    "init kaiming_normal": Variant({"init": "kaiming_normal"}),
    "resizing: 12x12 pixels first": Variant(prepare=smaller_images_first),
    "selective: hardest half, twice the images": Variant(
        {"batch_size": 1000, "epochs": 10}, prepare=hardest_half
    ),
    "scope: global": Variant({"conv_type": "GlobalSubnetConv", "prune_rate_epoch": 0}),
    "scope: global, falling density": Variant({"conv_type": "GlobalSubnetConv"}),
    "scope: Erdos-Renyi kernel": Variant(prepare=erdos_renyi_kernel),
    "scope: layer, 10 % kept": Variant({"prune_rate": 0.1}),
    "scope: global, 10 % kept": Variant(
        {"conv_type": "GlobalSubnetConv", "prune_rate": 0.1, "prune_rate_epoch": 0}
    ),
    "scope: global, 10 % kept, falling density": Variant(
        {"conv_type": "GlobalSubnetConv", "prune_rate": 0.1}
    ),
    "scope: Erdos-Renyi kernel, 10 % kept": Variant({"prune_rate": 0.1}, erdos_renyi_kernel),
    "average of scores": Variant(
        prepare=ScoreAverage, finish=lambda search, average: average.take(search)
    ),
    "batch norm recalibrated": Variant(finish=lambda search, _: recalibrate(search)),
}
NETWORKS = {
    "Conv4 20 %": ("conv4_kn_unsigned", {"prune_rate": 0.2}),
    "cResNet20 50 %": ("resnet20-ukn-unsigned", {"prune_rate": 0.5}),
    "VGG_Small 5 %": ("vgg_small_kn_unsigned", {"prune_rate": 0.05}),
}


@dataclass
class Run:
    """One search that is to be done."""

    name: str
    seed: int
    config_name: str
    options: dict[str, Any]
    variant: Variant


def runs(arguments: argparse.Namespace) -> Iterator[Run]:
    """All searches asked for: seed after seed, so that an early stop leaves whole seeds."""
    for seed in range(arguments.seeds):
        for name, variant in (networks() if arguments.networks else proxies()).items():
            if not arguments.only or name.startswith(tuple(arguments.only)):
                config_name, options, changes = variant
                yield Run(name, seed, config_name, options, changes)


def proxies() -> dict[str, tuple[str, dict[str, Any], Variant]]:
    """Name -> configuration, options, variant."""
    return {name: ("cifar10-small", PROXY, variant) for name, variant in VARIANTS.items()}


def networks() -> dict[str, tuple[str, dict[str, Any], Variant]]:
    """The papers' networks with the published rule and with Muon."""
    return {
        f"{name}, {rule}": (config_name, {**PUBLISHED, **options}, Variant(changes))
        for name, (config_name, options) in NETWORKS.items()
        for rule, changes in {"published rule": {}, "Muon": MUON}.items()
    }


def accuracy_of(run: Run, images: Images, folder: str) -> float:
    """Validation accuracy in percent of one search, at its best epoch."""
    options = {**run.options, **run.variant.options, "seed": run.seed, "baseline": False}
    where = {"data": images.folder, "log_dir": folder, "device": "cpu", "name": "ablation"}
    resolved, name = config.resolve(run.config_name, {**options, **where})
    search = Search(resolved, name, images.load(resolved), Console(io.StringIO()))
    prepared = run.variant.prepare(search)
    search.run()
    run.variant.finish(search, prepared)
    split = search.data.validation
    return evaluate(search.model, search.data.evaluation_batches(split, 500)).top1


class Images:
    """Loads the images once for all searches with the same data options."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._loaded: dict[tuple[Any, ...], DataSet] = {}

    def load(self, resolved: config.Config) -> DataSet:
        """The data of a search; a new object each time, because variants change it."""
        key = (resolved.set, resolved.image_size, resolved.low_data, resolved.augment)
        if key not in self._loaded:
            self._loaded[key] = data.load(resolved)
        copy = object.__new__(DataSet)
        copy.__dict__.update(self._loaded[key].__dict__)
        return copy


def table(records: list[dict[str, Any]]) -> str:
    """Mean, standard deviation and difference to the base, in Markdown."""
    by_name: dict[str, dict[int, float]] = {}
    for record in records:
        by_name.setdefault(record["name"], {})[record["seed"]] = record["validation"]
    base = by_name.get("base", {})
    lines = [
        "| variant | seeds | validation accuracy, % | difference to the base |",
        "|---|---|---|---|",
    ]
    for name, values in by_name.items():
        spread = f" (sd {statistics.stdev(values.values()):.1f})" if len(values) > 1 else ""
        both = sorted(values.keys() & base.keys())
        differences = [values[seed] - base[seed] for seed in both]
        words = f"{statistics.mean(differences):+.1f}" if differences and name != "base" else ""
        mean = statistics.mean(values.values())
        lines.append(f"| {name} | {len(values)} | {mean:.1f}{spread} | {words} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder with the Parquet files of CIFAR-10")
    add("--only", nargs="*", help="beginnings of the names of variants")
    add("--networks", action="store_true", help="the papers' networks instead of the proxy")
    add("--seeds", type=int, default=3, help="number of seeds, from 0 [%(default)s]")
    add("--folder", type=Path, default=Path("runs"), help="of the records [%(default)s]")
    add("--table", action="store_true", help="print the records and search nothing")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    kind = "networks" if arguments.networks else "ablations"
    log = arguments.folder / f"{kind}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.read_text().splitlines() if log.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["name"], record["seed"]) for record in records}
    images = Images(arguments.data)
    for run in [] if arguments.table else runs(arguments):
        if (run.name, run.seed) in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            accuracy = accuracy_of(run, images, folder)
        records.append({"name": run.name, "seed": run.seed, "validation": round(accuracy, 2)})
        with log.open("a") as file:
            file.write(json.dumps(records[-1]) + "\n")
        print(f"{run.name}, seed {run.seed}: {accuracy:.2f} %", flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
