"""What `biprop find` shows before and after the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import next_step
from .common import layer_rows, split_sizes

if TYPE_CHECKING:
    from ..config import Config
    from ..console import Console
    from ..data import DataSet
    from ..models.network import Network
    from ..search.outcome import Result
    from ..search.teacher import Teacher

FEW_TEST_IMAGES = 300
"""With fewer test images, the accuracy is shown with its confidence interval, which is about ten
percentage points wide for 300 images.
"""


def headline(
    config: Config, network: Network, images: DataSet, device: object, processes: int
) -> str:
    """One line with the network, the data set and the device of a search."""
    counts = f"{split_sizes(config, images)} {images.noun}"
    watched = len(images.validation)
    if config.select_on == "last" and watched < len(images.test):
        counts += f", of which {watched:,} are looked at after each epoch"
    where = f"{device}" if processes == 1 else f"{processes} processes, {device}"
    if network.subnetwork is None:
        return f"training {config.arch}, dense, on {config.set} ({counts}), {where}"
    return (
        f"searching {config.arch} for a ticket that keeps {100 * (config.prune_rate or 0):.3g} % of"
        f" its {network.subnetwork.weights:,} random weights, on {config.set} ({counts}), {where}"
    )


def teacher_line(config: Config, teacher: Teacher) -> str:
    """One line with the network that a search learns from, and its part of the loss."""
    return (
        f"teacher {config.teacher}: {teacher.arch}; its predictions are"
        f" {100 * config.teacher_weight:.3g} % of the loss"
    )


def show(
    console: Console, config: Config, network: Network, result: Result, images: DataSet
) -> None:
    """Print the result of a search as a table, and the next command to type."""
    rows = [
        *_network_rows(config, result),
        *_accuracy_rows(config, result, images),
        ("time", f"{result.seconds:.0f} s"),
        ("files", f"{result.folder}/  (checkpoints/model_best.pth, logs/, settings.txt)"),
    ]
    console.table(_title(network, result, images), rows)
    console.line("", *next_step.after_find(config, result.folder, bool(result.weights)))


def _title(network: Network, result: Result, images: DataSet) -> str:
    unbeaten = _unbeaten_baseline(result, images)
    if not result.weights:
        return f"Trained, but {unbeaten}" if unbeaten else "Dense baseline trained"
    kind = "MPT-1/32: binary weights"
    if network.binary_activations:
        kind = "MPT-1/1: binary weights and activations"
    if unbeaten:
        return f"Search done, but {unbeaten}: no Multi-Prize Ticket ({kind})"
    return f"Multi-Prize Ticket found ({kind})"


def _network_rows(config: Config, result: Result) -> list[tuple[str, str]]:
    if not result.weights:
        return [("network", f"{config.arch}, dense")]
    kept = f"{result.kept:,}  ({100 * result.density:.2f} %), each +gain or -gain, one gain a layer"
    return [
        ("network", f"{config.arch}, random weights, never trained"),
        ("weights in all", f"{result.weights:,}"),
        ("weights kept", kept),
        *layer_rows(config, result.layers),
    ]


def _accuracy_rows(config: Config, result: Result, images: DataSet) -> list[tuple[str, str]]:
    from ..evaluation.counts import confidence_interval
    from ..search.outcome import sample_in_words

    test = result.test
    chosen = f"epoch {result.epoch}, {_how_chosen(config, result, images)}"
    accuracy = f"{test.top1:.2f} %  ({test.right:,} of {test.images:,} {images.noun}; {chosen})"
    rows = [("test accuracy", accuracy)]
    if test.images < FEW_TEST_IMAGES:
        low, high = confidence_interval(test)
        why = f"95 %; there are only {test.images:,} test {images.noun}"
        rows.append(("confidence interval", f"{low:.0f} to {high:.0f} %  ({why})"))
    if result.random_scores and result.weights:
        sample = sample_in_words(result.random_scores, test.images)
        about = f"the same network, no search{f'; {sample}' if sample else ''}"
        rows.append(("with random scores", f"{result.random_scores.top1:.2f} %  ({about})"))
    return rows


def _how_chosen(config: Config, result: Result, images: DataSet) -> str:
    """How the epoch of the result was selected."""
    if config.select_on == "test":
        return "best on the test data themselves, as in the papers"
    if config.select_on == "last":
        return "the last; no image was held out to choose one"
    count = f"{result.validation.images:,} validation {images.noun}"
    validation = f"{count}: {result.validation.top1:.1f} %"
    return f"best on {validation}" if images.validation_chooses else f"the last; {validation}"


def _unbeaten_baseline(result: Result, images: DataSet) -> str | None:
    """Which baseline the network is not significantly better than, in words; None: it is better.

    The baselines are the same network with random scores, and always the most frequent class.
    """
    from ..evaluation.counts import Counts, is_better

    test, labels = result.test, images.test.labels
    most_frequent = Counts(len(labels), int(labels.bincount().max()))
    baselines = {"always predicting the most frequent class": most_frequent}
    if result.random_scores:
        baselines = {"random scores": result.random_scores, **baselines}
    for name, baseline in baselines.items():
        if not is_better(test, baseline):
            how = "no better" if test.top1 <= baseline.top1 else "not clearly better"
            return f"{how} than {name} ({test.top1:.1f} and {baseline.top1:.1f} %)"
    return None
