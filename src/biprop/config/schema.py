"""The options of a run: every option once, with its type, default, range, help text and role.

An option is a field of `Config`. The command line, the YAML reader, `--print-config` and the error
messages are all derived from these fields. This module loads no torch, so that `biprop --help` is
fast.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .rules import Role, Rule, option

_NET, _PRUNE, _INIT, _DATA, _OPT = "network", "pruning", "random weights", "data", "optimisation"
_SPEED, _RUN = "speed (these options change rounding, and therefore results)", "run and output"
_MANY = "distributed training"

SETS = ("digits", "CIFAR10", "CIFAR100", "MNIST", "TinyImageNet", "ImageNet", "folder", "hub")
CONV_TYPES = ("SubnetConv", "GlobalSubnetConv", "DenseConv")
BN_TYPES = ("NonAffineBatchNorm", "AffineBatchNorm", "LearnedBatchNorm")
HAS_WIDTH_MULT = r"Conv\dWide|Wide_VGG_Small|Fast"
"""Regular expression that the names of networks with a `width_mult` start with."""
MINUTES_A_DAY = 24 * 60
LR_POLICIES = (
    "constant_lr",
    "linear_lr",
    "cosine_lr",
    "multistep_lr",
    "xnor_lr",
    "cos_multi_lr",
    "mpt132_w34_2_lr",
    "mpt11_w34_2_v2_lr",
    "mpt11_w18_2_lr",
    "mpt11_w18_2_v2_lr",
)
INITS = (
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_constant",
    "signed_constant",
    "unsigned_constant",
    "standard",
    "ones",
    "bernoulli",
    "usc_bernoulli",
    "binary",
)


@dataclass(frozen=True)
class Config:
    """The options of a run. Their order is that of `--help` and `--print-config`."""

    arch: str = option(
        "cResNet18",
        "network architecture; see biprop list networks",
        _NET,
        Role.ARCHITECTURE,
        short=("-a",),
    )
    width_mult: float = option(
        1.0,
        "width multiplier of Fast6, Conv2Wide to Conv8Wide and Wide_VGG_Small",
        _NET,
        Role.NETWORK,
        low=0.001,
        high=100,
    )
    bn_type: str = option(
        "NonAffineBatchNorm",
        "batch norm: NonAffineBatchNorm has no weight and bias; AffineBatchNorm and"
        " LearnedBatchNorm, two names of the same layer, have both",
        _NET,
        Role.NETWORK,
        choices=BN_TYPES,
    )
    learn_batchnorm: bool = option(
        False, "train weight and bias of batch norm together with the scores", _NET, Role.SEARCH
    )
    bn_bias_only: bool = option(
        False, "train only the bias of batch norm together with the scores", _NET, Role.SEARCH
    )
    tune_batchnorm: bool = option(
        False,
        "freeze the scores and train batch norm only; needs --learn-batchnorm or --bn-bias-only",
        _NET,
        Role.SEARCH,
    )
    bn_weight_init: float | None = option(None, "initial weight of batch norm", _NET, Role.SEARCH)
    bn_bias_init: float | None = option(None, "initial bias of batch norm", _NET, Role.SEARCH)

    prune_rate: float | None = option(
        None,
        "fraction of weights KEPT (0.2 keeps 20 % and prunes 80 %)",
        _PRUNE,
        Role.NETWORK,
        low=0,
        high=1,
        open_low=True,
    )
    layer_prune_rates: dict[str, float | str] | None = option(
        None,
        "fraction of weights KEPT in the layers whose name matches PATTERN, or 'dense' for a"
        " layer that is not pruned and whose weights are trained: fc=0.5 conv1=dense",
        _PRUNE,
        Role.SEARCH,
    )
    conv_type: str = option(
        "SubnetConv",
        "SubnetConv: every layer keeps the fraction --prune-rate; GlobalSubnetConv: the"
        " scores of all layers are ranked together; DenseConv: no pruning, the weights are"
        " trained (the baseline)",
        _PRUNE,
        Role.NETWORK,
        choices=CONV_TYPES,
    )
    prune_rate_epoch: int = option(
        10,
        "with GlobalSubnetConv: epochs over which the kept fraction falls from 0.5 to"
        " --prune-rate (at most a third of all epochs)",
        _PRUNE,
        Role.SEARCH,
        low=0,
    )
    layer_floor: float = option(
        0.001,
        "with GlobalSubnetConv: smallest fraction of weights kept in any layer; every layer"
        " keeps at least one weight",
        _PRUNE,
        Role.SEARCH,
        low=0,
        high=1,
    )
    first_layer_dense: bool = option(
        False, "do not prune the first layer, and train its weights", _PRUNE, Role.SEARCH
    )
    last_layer_dense: bool = option(
        False, "do not prune the last layer, and train its weights", _PRUNE, Role.SEARCH
    )
    freeze_weights: bool = option(
        False,
        "keep the random weights fixed (always so in SubnetConv and GlobalSubnetConv)",
        _PRUNE,
        Role.SEARCH,
    )

    init: str = option(
        "kaiming_normal", "distribution of the random weights", _INIT, Role.SEARCH, choices=INITS
    )
    mode: str = option(
        "fan_in",
        "fan that scales the random weights, as in torch.nn.init",
        _INIT,
        Role.SEARCH,
        choices=("fan_in", "fan_out"),
    )
    nonlinearity: str = option(
        "relu",
        "nonlinearity whose gain scales the random weights, as in torch.nn.init.calculate_gain",
        _INIT,
        Role.SEARCH,
        choices=("relu", "leaky_relu", "linear", "sigmoid", "tanh", "selu"),
    )
    scale_fan: bool = option(
        False,
        "multiply the fan by (1 - prune rate) instead of the fraction kept, as the published"
        " results did",
        _INIT,
        Role.SEARCH,
    )

    set: str = option(
        "CIFAR10",
        "data set; folder: images in one subfolder per class, or Parquet files; hub: any"
        " image data set that the library datasets loads (Hugging Face)",
        _DATA,
        Role.DATA_SET,
        choices=SETS,
    )
    data: str = option(
        "data",
        "folder that contains the data; with --set hub: name of the data set on the Hugging"
        " Face Hub, or a folder",
        _DATA,
        Role.DATA_PATH,
    )
    hub_config: str | None = option(
        None, "with --set hub: configuration of a data set that has several", _DATA, Role.DATA_SET
    )
    train_split: str | None = option(
        None,
        "with --set hub: name of the training split, if it is not train",
        _DATA,
        Role.DATA_SET,
    )
    test_split: str | None = option(
        None, "with --set hub: name of the test split", _DATA, Role.DATA_SET
    )
    channels: int | None = option(
        None,
        "with --set folder or hub: read images as grey (1) or RGB (3); by default grey if all"
        " images are grey",
        _DATA,
        Role.CHANNELS,
        low=1,
        high=3,
    )
    num_classes: int | None = option(
        None,
        "expected number of classes; it is an error if the data have a different number",
        _DATA,
        Role.CLASSES,
        low=1,
    )
    image_size: int | None = option(
        None,
        "with --set folder or hub: height and width in pixels to which images are resized;"
        " streamed images: size of the crop (default 224)",
        _DATA,
        Role.DATA_SET,
        low=1,
        high=16_384,
    )
    stream: bool = option(
        False,
        "with --set folder or hub: read images during training, with random resized crops,"
        " instead of holding them in memory (ImageNet always does)",
        _DATA,
        Role.DATA_SET,
    )
    workers: int | None = option(
        None,
        "processes that load streamed images, at most one per core (default 8)",
        _DATA,
        Role.DATA_WORKERS,
        low=0,
        short=("-j",),
    )
    low_data: float = option(
        1.0,
        "fraction of the training images to use",
        _DATA,
        Role.BATCHES,
        low=0,
        high=1,
        open_low=True,
    )
    one_batch: bool = option(
        False,
        "train on a single batch of images, to check that the network can overfit",
        _DATA,
        Role.BATCHES,
    )
    augment: str = option(
        "auto",
        "random crops (padding 4) and horizontal flips of training images; auto: the usual"
        " choice for the data set",
        _DATA,
        Role.VIEWS,
        choices=("auto", "none", "crop", "flip", "crop+flip"),
    )
    augmix: bool = option(
        False,
        "AugMix (Hendrycks et al., 2020): mix each training image with chains of random operations",
        _DATA,
        Role.AUGMENTATION,
    )
    mixture_width: int = option(
        3, "with --augmix: number of chains per image", _DATA, Role.AUGMENTATION, low=1, high=16
    )
    mixture_depth: int = option(
        -1,
        "with --augmix: operations per chain; -1 draws 1 to 3",
        _DATA,
        Role.AUGMENTATION,
        low=-1,
        high=16,
    )
    aug_severity: float = option(
        3, "with --augmix: severity of the operations", _DATA, Role.AUGMENTATION, low=0.1, high=10
    )
    all_augmix_augmentations: bool = option(
        False,
        "with --augmix: add color, contrast, brightness and sharpness, which overlap with the"
        " corruptions of the common-corruption benchmarks",
        _DATA,
        Role.AUGMENTATION,
    )
    gaussian_aug: bool = option(
        False, "add Gaussian noise to training images", _DATA, Role.AUGMENTATION
    )
    std_gauss: float = option(
        0.1,
        "with --gaussian-aug: standard deviation of the noise, for pixels in [0, 1]",
        _DATA,
        Role.AUGMENTATION,
        low=0,
    )
    p_clean: float = option(
        1.0,
        "with --gaussian-aug: probability that an image stays without noise (at 1,"
        " --gaussian-aug has no effect)",
        _DATA,
        Role.VIEWS,
        low=0,
        high=1,
    )
    jsd: bool = option(
        False,
        "add the Jensen-Shannon consistency loss between each image and two augmented views"
        " of it; needs --augmix or --gaussian-aug",
        _DATA,
        Role.VIEWS,
    )
    select_on: str = option(
        "validation",
        "images that select the best epoch: validation, held out from the training images; or"
        " test, as in the papers",
        _DATA,
        Role.SELECTION,
        choices=("validation", "test"),
    )

    optimizer: str = option(
        "sgd",
        "optimizer; adam ignores momentum and weight decay; muon orthogonalises the momentum of the"
        " scores, layer by layer, and implies score_norm",
        _OPT,
        Role.SEARCH,
        choices=("sgd", "adam", "muon"),
    )
    score_norm: bool = option(
        False,
        "rescale scores to root mean square 1 at every step; lr is then the size of a step in that"
        " unit, and weight_decay is not used",
        _OPT,
        Role.SEARCH,
    )
    dense_lr: float = option(
        0.01,
        "with muon or score_norm: learning rate of Adam for parameters that are no scores",
        _OPT,
        Role.SEARCH,
        low=0,
    )
    lr: float = option(0.1, "learning rate", _OPT, Role.SEARCH, low=0)
    lr_policy: str = option(
        "constant_lr",
        "learning-rate schedule, evaluated once per epoch; linear_lr: once per step, down to 0",
        _OPT,
        Role.SEARCH,
        choices=LR_POLICIES,
    )
    warmup_fraction: float = option(
        0.1,
        "linear_lr: fraction of the run in which the learning rate rises",
        _OPT,
        Role.SEARCH,
        low=0,
        high=0.9,
    )
    lr_adjust: int = option(
        20,
        "with multistep_lr: epochs between two decays of the learning rate",
        _OPT,
        Role.SEARCH,
        low=1,
    )
    lr_gamma: float = option(
        0.1, "with multistep_lr: factor of each decay", _OPT, Role.SEARCH, low=0
    )
    warmup_length: int = option(
        0, "epochs of linear warm-up of the learning rate", _OPT, Role.SEARCH, low=0
    )
    momentum: float = option(0.9, "momentum of sgd", _OPT, Role.SEARCH, low=0, high=1)
    weight_decay: float = option(
        1e-4,
        "weight decay of sgd; it applies to the scores as well",
        _OPT,
        Role.SEARCH,
        low=0,
        short=("--wd",),
    )
    nesterov: bool = option(False, "Nesterov momentum", _OPT, Role.SEARCH)
    no_bn_decay: bool = option(False, "exclude batch norm from weight decay", _OPT, Role.SEARCH)
    label_smoothing: float = option(
        0.0, "label smoothing of the cross-entropy loss", _OPT, Role.SEARCH, low=0, high=1
    )
    grad_clip: bool = option(
        False, "clip each element of the gradients to [-1, 1]", _OPT, Role.SEARCH
    )
    epochs: int = option(90, "number of passes over the training images", _OPT, Role.SEARCH, low=1)
    minutes: float | None = option(
        None,
        "budget of time that takes the place of --epochs: minutes of training and validation, at"
        " most a day; the learning rate follows the clock, with linear_lr down to 0 at the end",
        _OPT,
        Role.SEARCH,
        low=0,
        high=MINUTES_A_DAY,
        open_low=True,
    )
    start_epoch: int = option(
        0,
        "first epoch, counted from 0; skips the earlier epochs of all schedules",
        _OPT,
        Role.SEARCH,
        low=0,
    )
    batch_size: int = option(
        256, "training images per step", _OPT, Role.BATCHES, low=1, short=("-b",)
    )

    amp: str = option(
        "none",
        "automatic mixed precision: bf16 trains under autocast with bfloat16; auto does so where"
        " the processor or the GPU has instructions for it; evaluation stays in float32",
        _SPEED,
        Role.SEARCH,
        choices=("none", "bf16", "auto"),
    )
    channels_last: bool = option(
        False, "train with images in the channels_last memory format", _SPEED, Role.SEARCH
    )
    compile: bool = option(
        False, "train with torch.compile; the first step takes about a minute", _SPEED, Role.SEARCH
    )

    sync_batchnorm: bool = option(
        False,
        "synchronise batch norm: compute its training statistics over the batches of all processes",
        _MANY,
        Role.SEARCH,
    )
    bf16_gradients: bool = option(
        False,
        "communicate gradients in bfloat16, which halves the traffic and changes rounding",
        _MANY,
        Role.SEARCH,
    )

    name: str = option(
        "find",
        "name of the experiment, which is the last folder of the run folder",
        _RUN,
        Role.RUN_NAME,
        is_file_name=True,
    )
    log_dir: str = option("runs", "folder for run folders and results.csv", _RUN, Role.OUTPUT_PATH)
    results: str | None = option(
        None,
        "table of results: a .csv file, or the folder that contains it (default: --log-dir)",
        _RUN,
        Role.OUTPUT_PATH,
    )
    baseline: bool = option(
        True,
        "before the search, measure the accuracy with random scores on up to 2,000 test images",
        _RUN,
        Role.MACHINE,
    )
    histograms: bool = option(
        False,
        "write histograms of scores, weights and gradients of every layer to TensorBoard"
        " after each epoch",
        _RUN,
        Role.MACHINE,
    )
    trainer: str = option(
        "default",
        "accepted for configurations of the original research code; there is only one trainer",
        _RUN,
        Role.COMPATIBILITY,
        choices=("default",),
    )
    seed: int = option(
        0,
        "random seed of weights, scores, image order and augmentation; the same command gives"
        " the same ticket",
        _RUN,
        Role.SEED,
        low=0,
        high=2**64 - 1,
    )
    device: str = option(
        "auto",
        "device of PyTorch: cpu, cuda, cuda:1, mps, ...; auto takes a GPU if there is one",
        _RUN,
        Role.MACHINE,
    )
    print_freq: int = option(
        10,
        "steps between two updates of the progress display",
        _RUN,
        Role.MACHINE,
        low=1,
        short=("-p",),
    )
    save_every: int = option(
        -1,
        "epochs between two checkpoints that are kept beside the first, the best and the"
        " last; -1: none",
        _RUN,
        Role.MACHINE,
        low=-1,
    )
    save_minutes: float = option(
        10,
        "minutes between two writes of the last checkpoint; 0: write it after each epoch only",
        _RUN,
        Role.MACHINE,
        low=0,
    )

    @property
    def scope(self) -> str:
        """Which scores are ranked together: those of a "layer", or all ("global")."""
        return "global" if self.conv_type == "GlobalSubnetConv" else "layer"


FIELDS: dict[str, dataclasses.Field[Any]] = {
    field.name: field for field in dataclasses.fields(Config)
}
TYPES: dict[str, Any] = typing.get_type_hints(Config)


def rule(name: str) -> Rule:
    """The rule of option `name`, a key of `FIELDS`."""
    return FIELDS[name].metadata["rule"]  # type: ignore[no-any-return]


def is_flag(name: str) -> bool:
    """Whether option `name` is a boolean: --name or --no-name, without a value."""
    return TYPES[name] is bool


def metavar(name: str) -> str:
    """The placeholder of the option's value in `--help`: N (integer), X (float) or NAME (text)."""
    type_name = str(TYPES[name])
    return "N" if "int" in type_name else "X" if "float" in type_name else "NAME"


def groups() -> Iterator[tuple[str, list[str]]]:
    """Yield (heading, option names) in the order of `--help`."""
    headings = list(dict.fromkeys(rule(name).group for name in FIELDS))
    for heading in headings:
        yield heading, [name for name in FIELDS if rule(name).group == heading]


def with_roles(*roles: Role) -> tuple[str, ...]:
    """Names of the options that have one of `roles`: role by role, each in order of the fields."""
    return tuple(name for role in roles for name in FIELDS if rule(name).role is role)


DATA_SOURCE_OPTIONS = with_roles(Role.DATA_SET, Role.DATA_PATH, Role.DATA_WORKERS)
"""Options that a command needs to load the images that a ticket or checkpoint was made for."""
PATH_OPTIONS = with_roles(Role.DATA_PATH, Role.OUTPUT_PATH, Role.RUN_NAME)
"""Options that name paths to read from and write to. They come from the command line or the run
folder, never from a checkpoint, which may be somebody else's.
"""
NETWORK_OPTIONS = with_roles(Role.ARCHITECTURE, Role.NETWORK, Role.CLASSES)
"""Options that a checkpoint or a ticket answers: a flag that contradicts it is an error."""
