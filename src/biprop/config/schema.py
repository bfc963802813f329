"""The schema of a run: every option once, with type, default, range and help; strict YAML below,
flags on top.

An option is a field of `Config`. The command line, the YAML reader, `--print-config` and the error
messages are all made from these fields. Loads no torch: `biprop --help` must be fast.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import did_you_mean

DATA_PLACES = (
    "set",
    "data",
    "hub_config",
    "train_split",
    "test_split",
    "image_size",
    "stream",
    "workers",
)
"""Options that say which data, and where they are."""
PLACES = ("data", "log_dir", "results", "name")
"""Options that say where to read and write: a checkpoint does not choose them, the command line or
the run folder does.
"""
CHECKPOINT_FACTS = ("arch", "width_mult", "bn_type", "conv_type", "prune_rate", "num_classes")
"""Options that a checkpoint answers: a flag that says otherwise is a mistake."""


NO_RGCONV = "the original research code has no layer type RGConv either"


FILE_NAME_RULE = (
    "must be one name: letters, numbers and signs without / or \\, at most 200 bytes, and not .."
    " or ."
)


def is_file_name(value: Any) -> bool:
    """Whether a folder can have this name, and lies where it is made: in no other folder, and not
    above.
    """
    is_one = (
        isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\\"}
    )
    return is_one and value.isprintable() and len(value.encode()) <= 200


@dataclass(frozen=True)
class Rule:
    """What the help and the checks need to know of an option."""

    help: str
    group: str
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    is_file_name: bool = False
    short: tuple[str, ...] = ()

    def broken_by(self, value: Any) -> str | None:
        """The rule that `value` breaks, in words, or None."""
        if self.choices is not None and value not in self.choices:
            return (
                f"must be one of {', '.join(self.choices)}{did_you_mean(str(value), self.choices)}"
            )
        if isinstance(value, str) and "\0" in value:
            return "must not hold a null character"
        if self.is_file_name and not is_file_name(value):
            return FILE_NAME_RULE
        if isinstance(value, int | float) and not isinstance(value, bool):
            is_number = isinstance(value, int) or math.isfinite(value)
            above = self.low is None or (value > self.low if self.open_low else value >= self.low)
            if not (is_number and above and (self.high is None or value <= self.high)):
                return f"must be {self.range_in_words()}"
        return None

    def range_in_words(self) -> str:
        low = (
            None if self.low is None else f"{'above' if self.open_low else 'at least'} {self.low:g}"
        )
        high = None if self.high is None else f"at most {self.high:g}"
        return " and ".join(part for part in (low, high) if part) or "a finite number"


def option(default: Any, help: str, group: str, **rule: Any) -> Any:
    return dataclasses.field(default=default, metadata={"rule": Rule(help, group, **rule)})


_NET, _PRUNE, _INIT, _DATA, _OPT = "network", "pruning", "random weights", "data", "optimisation"
_SPEED, _RUN = "speed (these change roundings, and so the numbers of a run)", "run and files"
_MANY = "several processes"

SETS = ("digits", "CIFAR10", "CIFAR100", "MNIST", "TinyImageNet", "ImageNet", "folder", "hub")
CONV_TYPES = ("SubnetConv", "GlobalSubnetConv", "DenseConv")
BN_TYPES = ("NonAffineBatchNorm", "AffineBatchNorm", "LearnedBatchNorm")
TAKE_WIDTH = r"Conv\dWide|Wide_VGG_Small|Fast"
"""Beginnings of the names of networks that `width_mult` acts on."""
_LR_POLICIES = (
    "constant_lr", "linear_lr", "cosine_lr", "multistep_lr", "xnor_lr", "cos_multi_lr",
    "mpt132_w34_2_lr", "mpt11_w34_2_v2_lr", "mpt11_w18_2_lr", "mpt11_w18_2_v2_lr",
)  # fmt: skip
_INITS = (
    "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_constant", "signed_constant", "unsigned_constant",
    "standard", "ones", "bernoulli", "usc_bernoulli", "binary",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """A run in full. Field order is the order of help and `--print-config`."""

    arch: str = option(
        "cResNet18",
        "network, by name (an unknown name prints the nearest one)",
        _NET,
        short=("-a",),
    )
    width_mult: float = option(
        1.0,
        "multiplies the widths of Conv2Wide to Conv8Wide and Wide_VGG_Small",
        _NET,
        low=0.001,
        high=100,
    )
    bn_type: str = option(
        "NonAffineBatchNorm",
        "batch norm: with weight and bias (Affine, Learned) or without",
        _NET,
        choices=BN_TYPES,
    )
    learn_batchnorm: bool = option(
        False, "train weight and bias of batch norm beside the scores", _NET
    )
    bn_bias_only: bool = option(False, "train the bias of batch norm beside the scores", _NET)
    tune_batchnorm: bool = option(
        False, "with one of the two above: freeze the scores, train batch norm only", _NET
    )
    bn_weight_init: float | None = option(None, "first weight of batch norm", _NET)
    bn_bias_init: float | None = option(None, "first bias of batch norm", _NET)

    prune_rate: float | None = option(
        None,
        "fraction of weights KEPT (0.2 keeps 20 % and prunes 80 %)",
        _PRUNE,
        low=0,
        high=1,
        open_low=True,
    )
    layer_prune_rates: dict[str, float | str] | None = option(
        None,
        "PATTERN=RATE pairs for single layers, fraction of weights KEPT or 'dense' (kept whole and"
        " trained): fc=0.5 conv1=dense",
        _PRUNE,
    )
    conv_type: str = option(
        "SubnetConv",
        "SubnetConv: every layer keeps the prune rate; GlobalSubnetConv: one ranking over the"
        " network; DenseConv: no pruning, the weights train (the baseline)",
        _PRUNE,
        choices=CONV_TYPES,
    )
    prune_rate_epoch: int = option(
        10,
        "global pruning: epochs from one half kept down to the prune rate (at most a third of the"
        " run)",
        _PRUNE,
        low=0,
    )
    layer_floor: float = option(
        0.001,
        "global pruning: fraction of its weights that every layer keeps in any case, at least one",
        _PRUNE,
        low=0,
        high=1,
    )
    first_layer_dense: bool = option(False, "the first layer is an ordinary one and trains", _PRUNE)
    last_layer_dense: bool = option(False, "the last layer is an ordinary one and trains", _PRUNE)
    freeze_weights: bool = option(
        False, "the random weights stay as drawn (implied by the Subnet layers)", _PRUNE
    )

    init: str = option("kaiming_normal", "how the random weights are drawn", _INIT, choices=_INITS)
    mode: str = option("fan_in", "fan of the initialisation", _INIT, choices=("fan_in", "fan_out"))
    nonlinearity: str = option(
        "relu",
        "gain of the initialisation",
        _INIT,
        choices=("relu", "leaky_relu", "linear", "sigmoid", "tanh", "selu"),
    )
    scale_fan: bool = option(
        False,
        "multiply the fan by (1 - prune rate); odd, but what the published results used",
        _INIT,
    )

    set: str = option(
        "CIFAR10",
        "data set; folder is images in one folder a class, or parquet files; hub is what the"
        " package datasets loads",
        _DATA,
        choices=SETS,
    )
    data: str = option(
        "data", "folder with the data; hub: name of the data set, or a folder", _DATA
    )
    hub_config: str | None = option(
        None, "hub: configuration of the data set, where it has several", _DATA
    )
    train_split: str | None = option(
        None, "hub: name of the part to search on, where no part is called train", _DATA
    )
    test_split: str | None = option(None, "hub: name of the part to test on", _DATA)
    channels: int | None = option(
        None,
        "folder, hub: 1 reads grey images, 3 colour; by default grey if all images are",
        _DATA,
        low=1,
        high=3,
    )
    num_classes: int | None = option(
        None, "the data say how many; another number is an error", _DATA, low=1
    )
    image_size: int | None = option(
        None, "folder, hub: resize the images to this many pixels a side; streamed: size of the cuts (224)", _DATA,
        low=1, high=16_384,
    )  # fmt: skip
    stream: bool = option(
        False,
        "folder, hub: read images while training, with random resized cuts, instead of holding them"
        " in memory (ImageNet: always)",
        _DATA,
    )
    workers: int | None = option(
        None,
        "processes that read streamed images, at most one a core (8)",
        _DATA,
        low=0,
        short=("-j",),
    )
    low_data: float = option(
        1.0, "fraction of the training images to use", _DATA, low=0, high=1, open_low=True
    )
    one_batch: bool = option(
        False, "train on one batch of images only: a check that the network can overfit", _DATA
    )
    augment: str = option(
        "auto", "random crops (padding 4) and flips of the training images; auto: what suits the set", _DATA,
        choices=("auto", "none", "crop", "flip", "crop+flip"),
    )  # fmt: skip
    augmix: bool = option(
        False, "AugMix: mix each training image with chains of random operations", _DATA
    )
    mixture_width: int = option(3, "augmix: chains per image", _DATA, low=1, high=16)
    mixture_depth: int = option(
        -1, "augmix: operations per chain; -1 draws 1 to 3", _DATA, low=-1, high=16
    )
    aug_severity: float = option(
        3, "augmix: how strong the operations are", _DATA, low=0.1, high=10
    )
    all_augmix_augmentations: bool = option(
        False,
        "augmix: color, contrast, brightness and sharpness too, which overlap with the corruptions"
        " of test sets",
        _DATA,
    )
    gaussian_aug: bool = option(False, "normal noise on training images", _DATA)
    std_gauss: float = option(
        0.1, "gaussian_aug: standard deviation of the noise, of pixels in [0, 1]", _DATA, low=0
    )
    p_clean: float = option(
        1.0,
        "gaussian_aug: probability that an image gets no noise; at 1 nothing does",
        _DATA,
        low=0,
        high=1,
    )
    jsd: bool = option(
        False,
        "consistency loss: each image counts plain and twice augmented (by augmix or gaussian_aug)",
        _DATA,
    )
    select_on: str = option(
        "validation", "what chooses the best epoch: held-out training images, or the test set as in the papers", _DATA,
        choices=("validation", "test"),
    )  # fmt: skip

    optimizer: str = option(
        "sgd",
        "of the scores; adam ignores momentum and weight decay, muon (momentum whose steps are"
        " orthogonalised, layer by layer) implies score_norm",
        _OPT,
        choices=("sgd", "adam", "muon"),
    )
    score_norm: bool = option(
        False,
        "rescale the scores to root mean square 1 at every step; lr is then the size of a step in"
        " this unit, and weight decay has no place",
        _OPT,
    )
    dense_lr: float = option(
        0.01,
        "with score_norm or muon: learning rate of Adam for what is no score (batch norm, biases)",
        _OPT,
        low=0,
    )
    lr: float = option(0.1, "learning rate", _OPT, low=0)
    lr_policy: str = option(
        "constant_lr",
        "learning-rate schedule, set per epoch; linear_lr falls to 0 and is set per step",
        _OPT,
        choices=_LR_POLICIES,
    )
    warmup_fraction: float = option(
        0.1,
        "linear_lr: fraction of all steps in which the rate rises from a fifth",
        _OPT,
        low=0,
        high=0.9,
    )
    lr_adjust: int = option(20, "multistep_lr: epochs between steps", _OPT, low=1)
    lr_gamma: float = option(0.1, "multistep_lr: factor of a step", _OPT, low=0)
    warmup_length: int = option(0, "epochs of linear warm-up", _OPT, low=0)
    momentum: float = option(0.9, "of sgd", _OPT, low=0, high=1)
    weight_decay: float = option(
        1e-4, "of sgd; acts on the scores too", _OPT, low=0, short=("--wd",)
    )
    nesterov: bool = option(False, "Nesterov momentum", _OPT)
    no_bn_decay: bool = option(False, "no weight decay on batch norm", _OPT)
    label_smoothing: float = option(0.0, "of the cross entropy", _OPT, low=0, high=1)
    grad_clip: bool = option(False, "clip every gradient value to [-1, 1]", _OPT)
    epochs: int = option(90, "passes over the training images", _OPT, low=1)
    start_epoch: int = option(
        0, "first epoch, counted from 0: leaves out the schedules' beginning", _OPT, low=0
    )
    batch_size: int = option(256, "images a step", _OPT, low=1, short=("-b",))

    amp: str = option(
        "none",
        "bf16: train with bfloat16 where autocast allows; evaluation stays in float32",
        _SPEED,
        choices=("none", "bf16"),
    )
    channels_last: bool = option(
        False, "train on images whose channels are innermost in memory", _SPEED
    )
    compile: bool = option(False, "train with torch.compile: the first step takes a minute", _SPEED)

    sync_batchnorm: bool = option(
        False,
        "batch norm in training takes the statistics of the whole batch, not of each process's"
        " share of it",
        _MANY,
    )
    bf16_gradients: bool = option(
        False, "send gradients as bfloat16: half the bytes, other roundings", _MANY
    )

    name: str = option(
        "find", "name of the experiment (the last folder of the run)", _RUN, is_file_name=True
    )
    log_dir: str = option("runs", "where run folders and results.csv go", _RUN)
    results: str | None = option(
        None, "the table of results, a .csv file or its folder; by default in log_dir", _RUN
    )
    baseline: bool = option(
        True,
        "before the search, measure the accuracy with random scores on up to 2,000 test images",
        _RUN,
    )
    histograms: bool = option(
        False,
        "histograms of scores, weights and gradients in TensorBoard, per layer and epoch",
        _RUN,
    )
    trainer: str = option(
        "default",
        "for configurations of the original research code: the one trainer",
        _RUN,
        choices=("default",),
    )
    seed: int = option(
        0,
        "of weights, scores, order and augmentation: the same command gives the same ticket",
        _RUN,
        low=0,
        high=2**64 - 1,
    )
    device: str = option(
        "auto", "cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one", _RUN
    )
    print_freq: int = option(
        10, "steps between two updates of the progress shown", _RUN, low=1, short=("-p",)
    )
    save_every: int = option(
        -1,
        "epochs between two checkpoints that stay, beside first, best and last; -1: none",
        _RUN,
        low=-1,
    )
    save_minutes: float = option(
        10,
        "minutes between two writes of the last checkpoint, within an epoch too; 0: after each"
        " epoch only",
        _RUN,
        low=0,
    )

    @property
    def scope(self) -> str:
        """The pruning scope that `conv_type` means: "layer" or "global"."""
        return "global" if self.conv_type == "GlobalSubnetConv" else "layer"


FIELDS: dict[str, dataclasses.Field[Any]] = {
    field.name: field for field in dataclasses.fields(Config)
}
TYPES: dict[str, Any] = typing.get_type_hints(Config)


def rule(name: str) -> Rule:
    return FIELDS[name].metadata["rule"]  # type: ignore[no-any-return]


def is_flag(name: str) -> bool:
    """Whether the option is on or off."""
    return TYPES[name] is bool


def metavar(name: str) -> str:
    """What stands for the option's value in the help: N for whole numbers, X for others, NAME for
    texts.
    """
    wanted = str(TYPES[name])
    return "N" if "int" in wanted else "X" if "float" in wanted else "NAME"


def groups() -> Iterator[tuple[str, list[str]]]:
    """(group, option names), in order."""
    names = list(dict.fromkeys(rule(name).group for name in FIELDS))
    for group in names:
        yield group, [name for name in FIELDS if rule(name).group == group]
