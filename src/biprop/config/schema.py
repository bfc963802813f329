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

SETS = (
    "digits",
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "TinyImageNet",
    "ImageNet",
    "folder",
    "hub",
    "arrays",
)
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
        "network: a name of biprop list networks; or your own, FILE.py:NAME or MODULE:NAME, a class"
        " or function whose result is a torch.nn.Module (docs/own-networks.md); or timm:NAME. It"
        " gets the number of classes and the shape of the data as num_classes, in_channels and"
        " image_size, if it takes arguments of these names. Code is run only if the command line"
        " names it: with --resume and --pretrained, pass it again",
        _NET,
        Role.ARCHITECTURE,
        short=("-a",),
    )
    arch_args: dict[str, bool | int | float | str] | None = option(
        None,
        "keyword arguments of a network of your own: depth=3 width=64",
        _NET,
        Role.NETWORK,
    )
    width_mult: float = option(
        1.0,
        "width multiplier of Fast6, FastRes6_BinAct, Conv2Wide to Conv8Wide and Wide_VGG_Small",
        _NET,
        Role.NETWORK,
        low=0.001,
        high=100,
    )
    bn_type: str = option(
        "NonAffineBatchNorm",
        "kind of batch norm: NonAffineBatchNorm has neither weight nor bias; AffineBatchNorm and"
        " LearnedBatchNorm, two names of the same layer, have both",
        _NET,
        Role.NETWORK,
        choices=BN_TYPES,
    )
    learn_batchnorm: bool = option(
        False,
        "train weight and bias of batch norm together with the scores; needs --bn-type"
        " AffineBatchNorm",
        _NET,
        Role.SEARCH,
    )
    bn_bias_only: bool = option(
        False,
        "train the bias of batch norm, but not its weight, together with the scores; needs"
        " --bn-type AffineBatchNorm",
        _NET,
        Role.SEARCH,
    )
    tune_batchnorm: bool = option(
        False,
        "freeze the scores and train batch norm only, usually from --pretrained; needs"
        " --learn-batchnorm or --bn-bias-only",
        _NET,
        Role.SEARCH,
    )
    bn_weight_init: float | None = option(
        None, "initial weight of batch norm; needs --bn-type AffineBatchNorm", _NET, Role.SEARCH
    )
    bn_bias_init: float | None = option(
        None, "initial bias of batch norm; needs --bn-type AffineBatchNorm", _NET, Role.SEARCH
    )

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
        "fraction of weights KEPT in the layers whose name matches PATTERN (with * and ?), or"
        " 'dense' for layers that are not pruned and whose weights are trained: conv1=dense"
        " layer4.*=0.1",
        _PRUNE,
        Role.SEARCH,
    )
    conv_type: str = option(
        "SubnetConv",
        "SubnetConv: every layer keeps the fraction --prune-rate of its weights; GlobalSubnetConv:"
        " the scores of all layers are ranked together, and layers keep different fractions;"
        " DenseConv: no pruning, the weights are trained as usual (the dense baseline)",
        _PRUNE,
        Role.NETWORK,
        choices=CONV_TYPES,
    )
    prune_rate_epoch: int = option(
        10,
        "with GlobalSubnetConv: epochs over which the fraction kept falls from 0.5 to"
        " --prune-rate, at most a third of all epochs; 0: it does not fall. With --minutes, any"
        " other value means a third of the time",
        _PRUNE,
        Role.SEARCH,
        low=0,
    )
    layer_floor: float = option(
        0.001,
        "with GlobalSubnetConv: smallest fraction of its weights that a layer keeps; every layer"
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
        "accepted for configurations of the original research code: the random weights of pruned"
        " layers are always frozen; DenseConv, which trains all weights, refuses it",
        _PRUNE,
        Role.SEARCH,
    )

    init: str = option(
        "kaiming_normal",
        "distribution of the random weights. With std = gain / sqrt(fan): kaiming_normal,"
        " kaiming_uniform, signed_constant (+std or -std), unsigned_constant (std), usc_bernoulli"
        " (0 or std). With Xavier's std: xavier_normal, xavier_constant (+std or -std). Others:"
        " standard (uniform up to 1 / sqrt(fan in)), binary (+1 or -1), ones, bernoulli (0 or 1)",
        _INIT,
        Role.SEARCH,
        choices=INITS,
    )
    mode: str = option(
        "fan_in",
        "which fan the std above divides by, as in torch.nn.init",
        _INIT,
        Role.SEARCH,
        choices=("fan_in", "fan_out"),
    )
    nonlinearity: str = option(
        "relu",
        "nonlinearity whose gain the std above has, as in torch.nn.init.calculate_gain",
        _INIT,
        Role.SEARCH,
        choices=("relu", "leaky_relu", "linear", "sigmoid", "tanh", "selu"),
    )
    scale_fan: bool = option(
        False,
        "multiply the fan by (1 - prune rate), the fraction of weights that is PRUNED, as the"
        " published results did; acts on kaiming_normal, signed_constant, unsigned_constant and"
        " usc_bernoulli",
        _INIT,
        Role.SEARCH,
    )

    set: str = option(
        "CIFAR10",
        "data set; digits: embedded in the program; folder: images in one subfolder per class, or"
        " Parquet files; hub: any image data set that Hugging Face's library datasets loads;"
        " arrays: a .npz file with X (tables, series, images) and y, the labels",
        _DATA,
        Role.DATA_SET,
        choices=SETS,
    )
    data: str = option(
        "data",
        "folder that contains the data, or a .npz file; if neither --set nor the configuration"
        " names a data set, biprop find detects which one it is; with --set hub: name of a data set"
        " on the Hugging Face Hub, or a folder",
        _DATA,
        Role.DATA_PATH,
    )
    hub_config: str | None = option(
        None,
        "with --set hub: which configuration, if the data set has several",
        _DATA,
        Role.DATA_SET,
    )
    train_split: str | None = option(
        None,
        "with --set hub: name of the training split, if it is not a usual one (train, training)",
        _DATA,
        Role.DATA_SET,
    )
    test_split: str | None = option(
        None,
        "with --set hub: name of the test split, if it is not a usual one (test, validation, ...)",
        _DATA,
        Role.DATA_SET,
    )
    channels: int | None = option(
        None,
        "with --set folder or hub: read images as greyscale (1) or RGB (3); by default greyscale"
        " if all images are greyscale",
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
        "with --set folder or hub: height and width in pixels to which images are resized, needed"
        " if their sizes differ; streamed images: size of the crop (default 224)",
        _DATA,
        Role.DATA_SET,
        low=1,
        high=16_384,
    )
    stream: bool = option(
        False,
        "with --set folder or hub: decode images while the network trains, with random resized"
        " crops, for data that do not fit into memory (ImageNet is always streamed)",
        _DATA,
        Role.DATA_SET,
    )
    workers: int | None = option(
        None,
        "processes that load streamed images (default 8, but at most one per core)",
        _DATA,
        Role.DATA_WORKERS,
        low=0,
        short=("-j",),
    )
    low_data: float = option(
        1.0,
        "fraction of the training images to use, for quick trials",
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
        "random crops and horizontal flips of training images; auto: the usual choice"
        " for the data set, which is crop+flip for photographs, crop for the digits, none for"
        " MNIST",
        _DATA,
        Role.VIEWS,
        choices=("auto", "none", "crop", "flip", "crop+flip"),
    )
    crop_padding: int = option(
        4,
        "pixels added to each side of a training image before its random crop",
        _DATA,
        Role.VIEWS,
        low=1,
        high=1024,
    )
    crop_padding_mode: str = option(
        "zeros",
        "the pixels that --crop-padding adds: zeros, or the image reflected at its border",
        _DATA,
        Role.VIEWS,
        choices=("zeros", "reflect"),
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
        "with --augmix: operations per chain; -1: 1 to 3, drawn for each chain",
        _DATA,
        Role.AUGMENTATION,
        low=-1,
        high=16,
    )
    aug_severity: float = option(
        3,
        "with --augmix: largest severity of an operation",
        _DATA,
        Role.AUGMENTATION,
        low=0.1,
        high=10,
    )
    all_augmix_augmentations: bool = option(
        False,
        "with --augmix: add color, contrast, brightness and sharpness, which overlap with the"
        " corruptions of the common-corruption benchmarks",
        _DATA,
        Role.AUGMENTATION,
    )
    gaussian_aug: bool = option(
        False,
        "add Gaussian noise to training images; set --p-clean too",
        _DATA,
        Role.AUGMENTATION,
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
        "with --gaussian-aug: probability that an image stays without noise, e.g. 0.5; at the"
        " default 1, --gaussian-aug has no effect",
        _DATA,
        Role.VIEWS,
        low=0,
        high=1,
    )
    jsd: bool = option(
        False,
        "add the Jensen-Shannon consistency loss between the predictions for each image and for"
        " two augmented views of it; needs --augmix or --gaussian-aug",
        _DATA,
        Role.VIEWS,
    )
    select_on: str = option(
        "validation",
        "images on which the best epoch is chosen: validation, held out from the training images"
        " or a part of the data's own; or test, as in the papers. last: no images choose; the last"
        " epoch is kept, and all training images train; the accuracy shown after an epoch is that"
        " on at most 2,000 test images",
        _DATA,
        Role.SELECTION,
        choices=("validation", "test", "last"),
    )

    optimizer: str = option(
        "sgd",
        "optimizer of the scores; adam ignores --momentum and --weight-decay; muon (Jordan et al.,"
        " 2024) orthogonalises the momentum of each layer's scores, and implies --score-norm",
        _OPT,
        Role.SEARCH,
        choices=("sgd", "adam", "muon"),
    )
    score_norm: bool = option(
        False,
        "rescale the scores to root mean square 1 at every step, so that --lr is the size of a"
        " step relative to the scores; --weight-decay is then not used",
        _OPT,
        Role.SEARCH,
    )
    dense_lr: float = option(
        0.01,
        "with --optimizer muon or --score-norm: learning rate of the parameters that are not scores"
        " (batch norm, biases), which Adam updates",
        _OPT,
        Role.SEARCH,
        low=0,
    )
    lr: float = option(0.1, "largest learning rate of the schedule", _OPT, Role.SEARCH, low=0)
    lr_policy: str = option(
        "constant_lr",
        "learning-rate schedule: constant_lr, cosine_lr (to 0) and multistep_lr change once per"
        " epoch; linear_lr changes at every step, up from a fifth of --lr and then down to 0;"
        " xnor_lr, cos_multi_lr, mpt132_w34_2_lr, mpt11_w34_2_v2_lr, mpt11_w18_2_lr and"
        " mpt11_w18_2_v2_lr decay at the fixed epochs of the published searches",
        _OPT,
        Role.SEARCH,
        choices=LR_POLICIES,
    )
    warmup_fraction: float = option(
        0.1,
        "with linear_lr: fraction of the run in which the learning rate rises",
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
        0.1,
        "with multistep_lr: factor by which each decay multiplies the learning rate",
        _OPT,
        Role.SEARCH,
        low=0,
    )
    warmup_length: int = option(
        0,
        "with constant_lr or cosine_lr: epochs of linear warm-up of the learning rate",
        _OPT,
        Role.SEARCH,
        low=0,
    )
    momentum: float = option(0.9, "momentum of sgd and muon", _OPT, Role.SEARCH, low=0, high=1)
    weight_decay: float = option(
        1e-4,
        "weight decay of sgd; it applies to the scores as well",
        _OPT,
        Role.SEARCH,
        low=0,
        short=("--wd",),
    )
    nesterov: bool = option(
        False,
        "Nesterov momentum for sgd (muon and --score-norm always use it)",
        _OPT,
        Role.SEARCH,
    )
    no_bn_decay: bool = option(False, "exclude batch norm from weight decay", _OPT, Role.SEARCH)
    label_smoothing: float = option(
        0.0, "label smoothing of the cross-entropy loss", _OPT, Role.SEARCH, low=0, high=1
    )
    teacher: str | None = option(
        None,
        "ticket, run folder or checkpoint of a network for the same classes: the search learns its"
        " predictions on the training images too (distillation; Hinton et al., 2015). A larger"
        " ticket will do, or a dense network (--conv-type DenseConv)",
        _OPT,
        Role.TEACHER_PATH,
    )
    teacher_views: str = option(
        "augmented",
        "with --teacher: the images that it sees. augmented: each training batch, cropped and"
        " flipped, which takes its forward pass at every step; plain: every training image as it"
        " is, and its mirror image where images are flipped, once before the first step",
        _OPT,
        Role.SEARCH,
        choices=("augmented", "plain"),
    )
    teacher_weight: float = option(
        0.9,
        "with --teacher: weight of its predictions in the loss; the labels have the rest",
        _OPT,
        Role.SEARCH,
        low=0,
        high=1,
    )
    teacher_temperature: float = option(
        2.0,
        "with --teacher: what logits are divided by before predictions are compared; a higher one"
        " gives unlikely classes more say",
        _OPT,
        Role.SEARCH,
        low=0.01,
        high=100,
    )
    grad_clip: bool = option(
        False, "clip each element of the gradients to [-1, 1]", _OPT, Role.SEARCH
    )
    epochs: int = option(90, "number of passes over the training images", _OPT, Role.SEARCH, low=1)
    minutes: float | None = option(
        None,
        "budget of time that takes the place of --epochs: minutes of training and validation (and"
        " of --teacher-views plain), at most a day; the learning rate follows the clock, with"
        " linear_lr down to 0 at the end",
        _OPT,
        Role.SEARCH,
        low=0,
        high=MINUTES_A_DAY,
        open_low=True,
    )
    start_epoch: int = option(
        0,
        "number of the first epoch, counted from 0: a search that starts later in all schedules",
        _OPT,
        Role.SEARCH,
        low=0,
    )
    batch_size: int = option(
        256,
        "training images per step, of all processes together",
        _OPT,
        Role.BATCHES,
        low=1,
        short=("-b",),
    )

    amp: str = option(
        "none",
        "automatic mixed precision: bf16 trains under autocast with bfloat16; auto does so where"
        " the processor or the GPU has instructions for it; evaluation stays in float32",
        _SPEED,
        Role.SEARCH,
        choices=("none", "bf16", "auto"),
    )
    channels_last: bool | None = option(
        None,
        "train and evaluate with images in the channels_last memory format, which changes rounding;"
        " if not given, on the CPU, where it is faster, for networks that take it",
        _SPEED,
        Role.SEARCH,
    )
    compile: bool = option(
        False,
        "train with torch.compile; compilation takes about a minute in the first step",
        _SPEED,
        Role.SEARCH,
    )

    sync_batchnorm: bool = option(
        False,
        "compute the training statistics of batch norm over the images of all processes, instead"
        " of each process's share of the batch",
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
        "name of the run, the end of its folder's path LOG_DIR/CONFIGURATION/prune-rate=K/NAME"
        " (width_mult=W before prune-rate if it is not 1);"
        " if that exists already, the folder is /0, /1, ... in it",
        _RUN,
        Role.RUN_NAME,
        is_file_name=True,
    )
    log_dir: str = option(
        "runs", "folder that holds the run folders and results.csv", _RUN, Role.OUTPUT_PATH
    )
    results: str | None = option(
        None,
        "table to which the run appends its results: a .csv file, or the folder of results.csv"
        " (default: --log-dir)",
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
        "accepted for configurations of the original research code; has no effect",
        _RUN,
        Role.COMPATIBILITY,
        choices=("default",),
    )
    seed: int = option(
        0,
        "random seed of weights, scores, image order and augmentation; on the same CPU, with the"
        " same version of PyTorch and number of threads, the same command gives the same ticket",
        _RUN,
        Role.SEED,
        low=0,
        high=2**64 - 1,
    )
    device: str = option(
        "auto",
        "PyTorch device: cpu, cuda, cuda:1, mps, ...; auto: a GPU if there is one",
        _RUN,
        Role.MACHINE,
    )
    print_freq: int = option(
        10,
        "steps between two updates of the progress bar",
        _RUN,
        Role.MACHINE,
        low=1,
        short=("-p",),
    )
    save_every: int = option(
        -1,
        "keep one more checkpoint every N epochs, beside the first, the best and the most recent;"
        " -1: keep none",
        _RUN,
        Role.MACHINE,
        low=-1,
    )
    save_minutes: float = option(
        10,
        "minutes between two writes of the most recent checkpoint, within epochs too; 0: write it"
        " after each epoch only",
        _RUN,
        Role.MACHINE,
        low=0,
    )

    @property
    def scope(self) -> str:
        """Which scores are ranked together: those of a "layer", or all ("global")."""
        return "global" if self.conv_type == "GlobalSubnetConv" else "layer"

    @property
    def holds_out(self) -> bool:
        """Whether images that train otherwise are held out, to choose the best epoch."""
        return self.select_on == "validation"

    @property
    def measured_on(self) -> str:
        """The images on which each epoch is measured: "validation", or "test" where no images are
        held out.
        """
        return "validation" if self.holds_out else "test"


FIELDS: dict[str, dataclasses.Field[Any]] = {
    field.name: field for field in dataclasses.fields(Config)
}
TYPES: dict[str, Any] = typing.get_type_hints(Config)


def rule(name: str) -> Rule:
    """The rule of option `name`, a key of `FIELDS`."""
    return FIELDS[name].metadata["rule"]  # type: ignore[no-any-return]


def is_flag(name: str) -> bool:
    """Whether option `name` is a boolean: --name or --no-name, without a value."""
    return TYPES[name] in (bool, bool | None)


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
PATH_OPTIONS = with_roles(Role.DATA_PATH, Role.TEACHER_PATH, Role.OUTPUT_PATH, Role.RUN_NAME)
"""Options that name paths to read from and write to. They come from the command line or the run
folder, never from a checkpoint, which may be somebody else's.
"""
INCIDENTAL_OPTIONS = with_roles(
    Role.DATA_PATH,
    Role.DATA_WORKERS,
    Role.RUN_NAME,
    Role.OUTPUT_PATH,
    Role.MACHINE,
    Role.COMPATIBILITY,
)
"""Options that do not change what a search finds, if the data are the same."""
UNRECORDED_OPTIONS = (*INCIDENTAL_OPTIONS, *with_roles(Role.TEACHER_PATH))
"""Options that a ticket does not record: they name paths, or they do not change what is found."""
NETWORK_OPTIONS = with_roles(Role.ARCHITECTURE, Role.NETWORK, Role.CLASSES)
"""Options that a checkpoint or a ticket answers: a flag that contradicts it is an error."""
