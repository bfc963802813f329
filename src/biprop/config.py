"""The schema of a run: every option once, with type, default, range and help; strict YAML below, flags on top.

An option is a field of `Config`. The command line, the YAML reader, `--print-config` and the error messages are all made from
these fields. Loads no torch: `biprop --help` must be fast.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean, one_line, shown
from .files import is_file

DEFAULT_CONFIG = "digits"
MOST_YAML = 1 << 20
"""Bytes of a configuration file."""
DATA_PLACES = ("set", "data", "hub_config", "train_split", "test_split", "image_size", "stream", "workers")
"""Options that say which data, and where they are."""
PLACES = ("data", "log_dir", "results", "name")
"""Options that say where to read and write: a checkpoint does not choose them, the command line or the run folder does."""
CHECKPOINT_FACTS = ("arch", "width_mult", "bn_type", "conv_type", "prune_rate", "num_classes")
"""Options that a checkpoint answers: a flag that says otherwise is a mistake."""

LEFT_OUT = ("conv4wide_05_baseline", "conv4wide_hlrrg_wide", "conv4wide_rg_wide", "conv6wide_hlrrg_wide", "conv6wide_rg_wide")
"""Published configurations of a layer type, RGConv, that the original research code does not have either."""
_UNUSED = "the unused layer types and trainers of the original research code are left out"
_PROCESSES = "processes are started by --multigpu, torchrun, srun, jsrun or mpirun, which say that themselves"
LEFT_OUT_KEYS = {
    "random_subnet": "with its first scores frozen, nothing would be searched for",
    "world_size": _PROCESSES,
    "rank": _PROCESSES,
    "first_layer_type": "pass --first-layer-dense for an ordinary first layer; else it is like the others",
    "score_init_constant": "with equal scores nothing tells weights apart; scores are drawn at random, by --seed",
}
"""Options of the original research code that are left out, and why."""
ALIASES = {"learning_rate": "lr", "multistep_lr_adjust": "lr_adjust", "multistep_lr_gamma": "lr_gamma"}
"""Other names of options, on the command line and in files: those of the original research code."""
_NO_RGCONV = "the original research code has no layer type RGConv either"


FILE_NAME_RULE = "must be one name: letters, numbers and signs without / or \\, at most 200 bytes, and not .. or ."


def is_file_name(value: Any) -> bool:
    """Whether a folder can have this name, and lies where it is made: in no other folder, and not above."""
    is_one = isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\\"}
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
            return f"must be one of {', '.join(self.choices)}{did_you_mean(str(value), self.choices)}"
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
        low = None if self.low is None else f"{'above' if self.open_low else 'at least'} {self.low:g}"
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
TAKE_WIDTH = r"Conv\dWide|Wide_VGG_Small"
"""Beginnings of the names of networks that `width_mult` acts on."""
_LR_POLICIES = (
    "constant_lr", "cosine_lr", "multistep_lr", "xnor_lr", "cos_multi_lr",
    "mpt132_w34_2_lr", "mpt11_w34_2_v2_lr", "mpt11_w18_2_lr", "mpt11_w18_2_v2_lr",
)  # fmt: skip
_INITS = (
    "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_constant", "signed_constant", "unsigned_constant",
    "standard", "ones", "bernoulli", "usc_bernoulli", "binary",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """A run in full. Field order is the order of help and `--print-config`."""

    arch: str = option("cResNet18", "network, by name (an unknown name prints the nearest one)", _NET, short=("-a",))
    width_mult: float = option(
        1.0, "multiplies the widths of Conv2Wide to Conv8Wide and Wide_VGG_Small", _NET, low=0.001, high=100
    )
    bn_type: str = option(
        "NonAffineBatchNorm", "batch norm: with weight and bias (Affine, Learned) or without", _NET, choices=BN_TYPES
    )
    learn_batchnorm: bool = option(False, "train weight and bias of batch norm beside the scores", _NET)
    bn_bias_only: bool = option(False, "train the bias of batch norm beside the scores", _NET)
    tune_batchnorm: bool = option(False, "with one of the two above: freeze the scores, train batch norm only", _NET)
    bn_weight_init: float | None = option(None, "first weight of batch norm", _NET)
    bn_bias_init: float | None = option(None, "first bias of batch norm", _NET)

    prune_rate: float | None = option(
        None, "fraction of weights KEPT (0.2 keeps 20 % and prunes 80 %)", _PRUNE, low=0, high=1, open_low=True
    )
    layer_prune_rates: dict[str, float | str] | None = option(
        None,
        "PATTERN=RATE pairs for single layers, fraction of weights KEPT or 'dense' (kept whole and trained): fc=0.5 conv1=dense",
        _PRUNE,
    )
    conv_type: str = option(
        "SubnetConv",
        "SubnetConv: every layer keeps the prune rate; GlobalSubnetConv: one ranking over the network; DenseConv: no pruning, "
        "the weights train (the baseline)",
        _PRUNE,
        choices=CONV_TYPES,
    )
    prune_rate_epoch: int = option(
        10, "global pruning: epochs from one half kept down to the prune rate (at most a third of the run)", _PRUNE, low=0
    )
    layer_floor: float = option(
        0.001, "global pruning: fraction of its weights that every layer keeps in any case, at least one", _PRUNE, low=0, high=1
    )
    first_layer_dense: bool = option(False, "the first layer is an ordinary one and trains", _PRUNE)
    last_layer_dense: bool = option(False, "the last layer is an ordinary one and trains", _PRUNE)
    freeze_weights: bool = option(False, "the random weights stay as drawn (implied by the Subnet layers)", _PRUNE)

    init: str = option("kaiming_normal", "how the random weights are drawn", _INIT, choices=_INITS)
    mode: str = option("fan_in", "fan of the initialisation", _INIT, choices=("fan_in", "fan_out"))
    nonlinearity: str = option(
        "relu", "gain of the initialisation", _INIT, choices=("relu", "leaky_relu", "linear", "sigmoid", "tanh", "selu")
    )
    scale_fan: bool = option(False, "multiply the fan by (1 - prune rate); odd, but what the published results used", _INIT)

    set: str = option(
        "CIFAR10",
        "data set; folder is images in one folder a class, or parquet files; hub is what the package datasets loads",
        _DATA,
        choices=SETS,
    )
    data: str = option("data", "folder with the data; hub: name of the data set, or a folder", _DATA)
    hub_config: str | None = option(None, "hub: configuration of the data set, where it has several", _DATA)
    train_split: str | None = option(None, "hub: name of the part to search on, where no part is called train", _DATA)
    test_split: str | None = option(None, "hub: name of the part to test on", _DATA)
    channels: int | None = option(
        None, "folder, hub: 1 reads grey images, 3 colour; by default grey if all images are", _DATA, low=1, high=3
    )
    num_classes: int | None = option(None, "the data say how many; another number is an error", _DATA, low=1)
    image_size: int | None = option(
        None, "folder, hub: resize the images to this many pixels a side; streamed: size of the cuts (224)", _DATA,
        low=1, high=16_384,
    )  # fmt: skip
    stream: bool = option(
        False,
        "folder, hub: read images while training, with random resized cuts, instead of holding them in memory (ImageNet: always)",
        _DATA,
    )
    workers: int | None = option(None, "processes that read streamed images, at most one a core (8)", _DATA, low=0, short=("-j",))
    low_data: float = option(1.0, "fraction of the training images to use", _DATA, low=0, high=1, open_low=True)
    one_batch: bool = option(False, "train on one batch of images only: a check that the network can overfit", _DATA)
    augment: str = option(
        "auto", "random crops (padding 4) and flips of the training images; auto: what suits the set", _DATA,
        choices=("auto", "none", "crop", "flip", "crop+flip"),
    )  # fmt: skip
    augmix: bool = option(False, "AugMix: mix each training image with chains of random operations", _DATA)
    mixture_width: int = option(3, "augmix: chains per image", _DATA, low=1, high=16)
    mixture_depth: int = option(-1, "augmix: operations per chain; -1 draws 1 to 3", _DATA, low=-1, high=16)
    aug_severity: float = option(3, "augmix: how strong the operations are", _DATA, low=0.1, high=10)
    all_augmix_augmentations: bool = option(
        False, "augmix: color, contrast, brightness and sharpness too, which overlap with the corruptions of test sets", _DATA
    )
    gaussian_aug: bool = option(False, "normal noise on training images", _DATA)
    std_gauss: float = option(0.1, "gaussian_aug: standard deviation of the noise, of pixels in [0, 1]", _DATA, low=0)
    p_clean: float = option(1.0, "gaussian_aug: probability that an image gets no noise; at 1 nothing does", _DATA, low=0, high=1)
    jsd: bool = option(False, "consistency loss: each image counts plain and twice augmented (by augmix or gaussian_aug)", _DATA)
    select_on: str = option(
        "validation", "what chooses the best epoch: held-out training images, or the test set as in the papers", _DATA,
        choices=("validation", "test"),
    )  # fmt: skip

    optimizer: str = option("sgd", "sgd, or adam (which ignores momentum and weight decay)", _OPT, choices=("sgd", "adam"))
    lr: float = option(0.1, "learning rate", _OPT, low=0)
    lr_policy: str = option("constant_lr", "course of the learning rate, set per epoch", _OPT, choices=_LR_POLICIES)
    lr_adjust: int = option(20, "multistep_lr: epochs between steps", _OPT, low=1)
    lr_gamma: float = option(0.1, "multistep_lr: factor of a step", _OPT, low=0)
    warmup_length: int = option(0, "epochs of linear warm-up", _OPT, low=0)
    momentum: float = option(0.9, "of sgd", _OPT, low=0, high=1)
    weight_decay: float = option(1e-4, "of sgd; acts on the scores too", _OPT, low=0, short=("--wd",))
    nesterov: bool = option(False, "Nesterov momentum", _OPT)
    no_bn_decay: bool = option(False, "no weight decay on batch norm", _OPT)
    label_smoothing: float = option(0.0, "of the cross entropy", _OPT, low=0, high=1)
    grad_clip: bool = option(False, "clip every gradient value to [-1, 1]", _OPT)
    epochs: int = option(90, "passes over the training images", _OPT, low=1)
    start_epoch: int = option(0, "first epoch, counted from 0: leaves out the schedules' beginning", _OPT, low=0)
    batch_size: int = option(256, "images a step", _OPT, low=1, short=("-b",))

    amp: str = option(
        "none", "bf16: train with bfloat16 where autocast allows; evaluation stays in float32", _SPEED, choices=("none", "bf16")
    )
    channels_last: bool = option(False, "train on images whose channels are innermost in memory", _SPEED)
    compile: bool = option(False, "train with torch.compile: the first step takes a minute", _SPEED)

    sync_batchnorm: bool = option(
        False, "batch norm in training takes the statistics of the whole batch, not of each process's share of it", _MANY
    )
    bf16_gradients: bool = option(False, "send gradients as bfloat16: half the bytes, other roundings", _MANY)

    name: str = option("find", "name of the experiment (the last folder of the run)", _RUN, is_file_name=True)
    log_dir: str = option("runs", "where run folders and results.csv go", _RUN)
    results: str | None = option(None, "the table of results, a .csv file or its folder; by default in log_dir", _RUN)
    baseline: bool = option(True, "before the search, measure the accuracy with random scores on up to 2,000 test images", _RUN)
    histograms: bool = option(False, "histograms of scores, weights and gradients in TensorBoard, per layer and epoch", _RUN)
    trainer: str = option(
        "default", "for configurations of the original research code: the one trainer", _RUN, choices=("default",)
    )
    seed: int = option(
        0, "of weights, scores, order and augmentation: the same command gives the same ticket", _RUN, low=0, high=2**64 - 1
    )
    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one", _RUN)
    print_freq: int = option(10, "steps between two updates of the progress shown", _RUN, low=1, short=("-p",))
    save_every: int = option(-1, "epochs between two checkpoints that stay, beside first, best and last; -1: none", _RUN, low=-1)
    save_minutes: float = option(
        10,
        "minutes between two writes of the last checkpoint, within an epoch too; 0: after each epoch only",
        _RUN,
        low=0,
    )

    @property
    def scope(self) -> str:
        """The pruning scope that `conv_type` means: "layer" or "global"."""
        return "global" if self.conv_type == "GlobalSubnetConv" else "layer"


FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Config)}
TYPES: dict[str, Any] = typing.get_type_hints(Config)


def rule(name: str) -> Rule:
    return FIELDS[name].metadata["rule"]  # type: ignore[no-any-return]


def is_flag(name: str) -> bool:
    """Whether the option is on or off."""
    return TYPES[name] is bool


def metavar(name: str) -> str:
    """What stands for the option's value in the help: N for whole numbers, X for others, NAME for texts."""
    wanted = str(TYPES[name])
    return "N" if "int" in wanted else "X" if "float" in wanted else "NAME"


def coerce(name: str, value: Any, where: str) -> Any:
    """`value`, checked against the type and the rule of option `name`.

    Args:
        name: a field of `Config`.
        value: from YAML, or a string from the command line.
        where: file or flag, for the message.

    Raises:
        UserError: one line with place, key, value and rule.
    """
    wanted = TYPES[name]
    optional = isinstance(wanted, types.UnionType) and type(None) in typing.get_args(wanted)
    if optional:
        wanted = next(t for t in typing.get_args(wanted) if t is not type(None))
    if value is None and optional:
        return None
    if not isinstance(value, str | int | float | Mapping | list | None):
        raise UserError(f"{_place(where, name, type(value).__name__)}: must be a plain value")
    if name == "prune_rate" and value in (-1, "-1"):
        return None  # the published configurations write -1 for "to be given on the command line"
    if typing.get_origin(wanted) is dict:
        return _coerce_rates(name, value, where)
    try:
        converted = _convert(wanted, value)
    except (TypeError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[wanted]
        raise UserError(f"{_place(where, name, value)}: must be {kind}") from None
    broken = rule(name).broken_by(converted)
    if broken:
        note = " (the fraction of weights KEPT)" if name == "prune_rate" else ""
        if converted == "RGConv":
            note = f" ({_NO_RGCONV})"
        elif name in ("conv_type", "trainer"):
            note = f" ({_UNUSED})"
        raise UserError(f"{_place(where, name, value)}: {broken}{note}")
    return converted


def _place(where: str, name: str, value: Any) -> str:
    """ "--prune-rate 2" for a flag, "file.yml: prune_rate = 2" for a file."""
    return f"{where} {shown(value)}" if where.startswith("--") else f"{where}: {name} = {shown(value)}"


def _convert(wanted: type, value: Any) -> Any:
    if wanted is bool or isinstance(value, bool):
        if wanted is bool and isinstance(value, bool):
            return value
        raise TypeError
    if wanted is int:
        if isinstance(value, float) and not value.is_integer():
            raise TypeError
        return int(value)
    if wanted is float:
        return float(value)  # YAML 1.1 reads 1e-4 as a string
    if not isinstance(value, str | int | float):
        raise TypeError
    return str(value)


def _coerce_rates(name: str, value: Any, where: str) -> dict[str, float | str]:
    if not isinstance(value, Mapping):
        raise UserError(f"{_place(where, name, value)}: must be pairs of layer pattern and prune rate")
    return {
        str(pattern): "dense" if rate == "dense" else coerce("prune_rate", rate, f"{where} {pattern}=")
        for pattern, rate in value.items()
    }


def _reject_unknown(key: str, value: Any, where: str) -> None:
    if key in LEFT_OUT_KEYS:
        raise UserError(f"{where}: {key} is left out: {LEFT_OUT_KEYS[key]}")
    if key not in FIELDS:
        hint = did_you_mean(key, FIELDS) or "; see biprop find --help"
        raise UserError(f"{where}: unknown key {shown(repr(key))} = {shown(value)}{hint}")


def packaged() -> Any:
    """The folder of configurations inside the package."""
    return resources.files("biprop") / "configs"


def packaged_files() -> list[Path]:
    """The configurations inside the package, sorted; files whose name starts with _ are bases of others and no runs."""
    return sorted(path for path in Path(str(packaged())).rglob("*.y*ml") if not path.name.startswith("_"))


def find_file(name: str) -> Path:
    """The configuration file that `name` means: a path, a path below configs/, or a bare name.

    Raises:
        UserError: no such file (the nearest name is offered), or several of that bare name.
    """
    path = Path(name)
    if is_file(path):
        return path
    root = Path(str(packaged()))
    relative = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    if is_file(root / relative):
        return root / relative
    files = packaged_files()
    same = [p for p in files if p.stem == name]
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(
            f"--config {name}: several files have that name: " + ", ".join(f"configs/{p.relative_to(root)}" for p in same)
        )
    if path.stem in LEFT_OUT:
        raise UserError(f"--config {name}: left out: it asks for RGConv, and {_NO_RGCONV}")
    raise UserError(f"--config {name}: no such file{did_you_mean(path.stem, [p.stem for p in files])}")


def read_file(path: Path) -> dict[str, Any]:
    """The checked values of one YAML file, on top of those of the file that its key `base` names, if any.

    Raises:
        UserError: unreadable, not a mapping, an unknown key or a value that breaks its rule.
    """
    return _read_file(path, ())


def _read_file(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """See `read_file`; `above`: the files whose base this one is, resolved."""
    raw = _plain_yaml(path)
    values: dict[str, Any] = {}
    if (base := raw.pop("base", None)) is not None:
        base_path, own = path.parent / str(base), path.resolve()
        if not is_file(base_path):
            raise UserError(f"{path}: base = {shown(repr(base))}: no such file")
        if base_path.resolve() in (*above, own):
            raise UserError(f"{path}: base = {shown(repr(base))}: a circle: that file is built on this one")
        values = _read_file(base_path, (*above, own))
    for given, value in raw.items():
        key = ALIASES.get(str(given), str(given))
        if key != given and key in raw:
            raise UserError(f"{path}: {given} and {key} are one option: give one of them")
        _reject_unknown(key, value, str(path))
        if key == "prune_rate" and value == 0 and raw.get("conv_type", values.get("conv_type")) == "DenseConv":
            value = None  # a published baseline writes 0 for "nothing is pruned"
        values[key] = coerce(key, value, str(path))
    return values


def _plain_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: see `read_file`.
    """
    import yaml

    from .yaml_loader import PlainLoader

    try:
        if path.stat().st_size > MOST_YAML:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes: no configuration has more than {MOST_YAML:,}")
        raw = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read: {one_line(e)}") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as e:  # ValueError: a day that no month has, a number of too many digits
        raise UserError(f"{path}: not valid YAML: {one_line(e)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold one 'key: value' a line")
    return raw


def resolve(config: str | None, overrides: Mapping[str, Any]) -> tuple[Config, str]:
    """The configuration of a run: the file (default: `DEFAULT_CONFIG`), with overrides on top.

    Args:
        config: what `find_file` takes, or None.
        overrides: option name -> value, from the command line.

    Returns:
        The configuration and its name: the file's without the ending, or, where only flags say what to do, data set and network.

    Raises:
        UserError: see `find_file`, `read_file`, `coerce`; or options that contradict each other.
    """
    path = find_file(config or DEFAULT_CONFIG)
    result = override(Config(**read_file(path)), overrides)
    # The default file is for the digits: a run on other data is not filed under its name.
    return result, path.stem if config or result.set == "digits" else f"{result.set}-{result.arch}"


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with the command line's values (option name -> value) on top, checked as `resolve` does."""
    values = {}
    for key, value in overrides.items():
        flag = f"--{key.replace('_', '-')}"
        _reject_unknown(key, value, flag)
        values[key] = coerce(key, value, flag)
    result = dataclasses.replace(config, **values)
    check(result)
    check_place(result, values)
    return result


def check(config: Config) -> None:
    """Raise UserError where options contradict each other."""
    check_source(config)
    if config.conv_type == "DenseConv":
        if config.layer_prune_rates or config.tune_batchnorm:
            raise UserError("conv_type = DenseConv trains all weights: layer_prune_rates and tune_batchnorm need a Subnet layer")
        if config.freeze_weights:
            raise UserError("conv_type = DenseConv trains the weights, freeze_weights does not: pass --no-freeze-weights")
    elif config.prune_rate is None:
        raise UserError("prune_rate: the configuration leaves it open; pass --prune-rate, the fraction of weights KEPT, e.g. 0.2")
    if config.bn_type == "NonAffineBatchNorm":
        for name in ("learn_batchnorm", "bn_bias_only", "bn_weight_init", "bn_bias_init"):
            if getattr(config, name) not in (False, None):
                raise UserError(f"{name} needs batch norm with weight and bias: pass --bn-type AffineBatchNorm")
    if config.learn_batchnorm and config.bn_bias_only:
        raise UserError("learn_batchnorm and bn_bias_only contradict each other: choose one")
    if config.tune_batchnorm and not (config.learn_batchnorm or config.bn_bias_only):
        raise UserError("tune_batchnorm freezes the scores, so nothing would train: add --learn-batchnorm or --bn-bias-only")
    if config.augmix and config.gaussian_aug:
        raise UserError("augmix and gaussian_aug contradict each other: choose one")
    if config.jsd and not (config.augmix or config.gaussian_aug):
        raise UserError("jsd compares an image with augmented versions of it: add --augmix or --gaussian-aug")
    if config.mixture_depth == 0:
        raise UserError("mixture_depth = 0: must be -1 (1 to 3 at random) or at least 1")
    _check_data(config)
    if config.start_epoch >= config.epochs:
        raise UserError(f"start_epoch = {config.start_epoch}: must be below epochs = {config.epochs}")
    if config.nesterov and not config.momentum:
        raise UserError("nesterov needs a momentum above 0")
    if config.optimizer == "adam" and config.nesterov:
        raise UserError("nesterov is an option of sgd: pass --optimizer sgd")
    if config.scale_fan and config.prune_rate == 1:
        raise UserError("scale_fan multiplies the fan by (1 - prune rate), which is 0 at prune rate 1: turn it off or keep fewer")


def check_source(config: Config) -> None:
    """Raise UserError where a data set of the Hub is asked for, and not which: nothing is downloaded that nobody named."""
    if config.set == "hub" and config.data == FIELDS["data"].default:
        raise UserError("set = hub: pass --data, the name of the data set or a folder")


def check_place(config: Config, given: Mapping[str, Any]) -> None:
    """Raise UserError if the user names data that would not be looked at."""
    if "data" in given and config.set == "digits":
        raise UserError(f"--data {given['data']}: not used: the digits are part of the program; pass --set folder, for example")


def _check_data(config: Config) -> None:
    """Raise UserError for options of data that the data set does not take."""
    for name in ("hub_config", "train_split", "test_split"):
        if getattr(config, name) is not None and config.set != "hub":
            raise UserError(f"{name} = {getattr(config, name)}: is for --set hub, and the set is {config.set}")
    if config.channels == 2:
        raise UserError("channels = 2: must be 1 (grey) or 3 (colour)")
    if config.channels is not None and (config.set not in ("folder", "hub") or config.stream):
        what = "streamed images are read in colour" if config.stream else f"{config.set} has its own"
        raise UserError(f"channels = {config.channels}: is for --set folder and hub, held in memory; {what}")


def warnings(config: Config) -> list[str]:
    """What the user should know of options that are allowed and do nothing, one line each."""
    found = []
    if config.gaussian_aug and config.p_clean == 1:
        found.append("gaussian_aug does nothing at p_clean = 1: pass --p-clean 0.5, say, for noise on half of the images")
    if config.gaussian_aug and config.std_gauss == 0:
        found.append("gaussian_aug does nothing at std_gauss = 0")
    if config.width_mult != 1 and not re.match(TAKE_WIDTH, config.arch):
        found.append(f"width_mult = {config.width_mult:g} does nothing: the width of {config.arch} is fixed")
    return found


def as_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def as_yaml(config: Config) -> str:
    """The configuration in full, as a file that `--config` reads."""
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False)


def groups() -> Iterator[tuple[str, list[str]]]:
    """(group, option names), in order."""
    names = list(dict.fromkeys(rule(name).group for name in FIELDS))
    for group in names:
        yield group, [name for name in FIELDS if rule(name).group == group]
