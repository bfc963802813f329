"""From a configuration file and the command line to one checked `Config`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UserError
from .own import as_given, check_given, has_graph, is_own, label
from .schema import FIELDS, HAS_WIDTH_MULT, Config
from .values import coerce, reject_unknown
from .yaml_files import ARRAYS_CONFIG, DEFAULT_CONFIG, FAST_CONFIG, find_file, read_file


def resolve(config: str | None, overrides: Mapping[str, Any]) -> tuple[Config, str]:
    """The options of a run: those of a configuration file, overridden by the command line.

    Args:
        config: path or name of a file, see `find_file`; None: `default_config`.
        overrides: option name -> value, from the command line.

    Returns:
        The options, and the name under which the run is filed, which is that of the file without
        suffix, or data set and network if there is no file for the data.

    Raises:
        UserError: see `find_file`, `read_file`, `coerce`; or options contradict each other.
    """
    path = find_file(config or default_config(overrides))
    values = read_file(path)
    check_given(values, overrides, path)
    result = override(Config(**values), overrides)
    # The default files are for the digits: a run on other data is not filed under its name.
    is_named_by_file = bool(config) or result.set == "digits"
    return result, path.stem if is_named_by_file else f"{result.set}-{label(result.arch)}"


def default_config(overrides: Mapping[str, Any]) -> str:
    """The name of the configuration where the user names none: for arrays one of their own, with a
    budget of time one whose search is fast.

    `overrides`: option name -> value, from the command line.
    """
    if overrides.get("set") == "arrays":
        return ARRAYS_CONFIG
    return FAST_CONFIG if overrides.get("minutes") is not None else DEFAULT_CONFIG


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with the values of the command line (option name -> value), checked as a whole.

    Raises:
        UserError: an unknown option, an invalid value, or options contradict each other.
    """
    values = {}
    for key, value in overrides.items():
        flag = f"--{key.replace('_', '-')}"
        reject_unknown(key, value, flag)
        values[key] = coerce(key, value, flag)
    _choose_budget(values)
    if values.get("conv_type") == "DenseConv":  # instead of the subnetwork of the configuration
        values = {"freeze_weights": False, "prune_rate": None, **values}
    values = as_given(values)
    result = dataclasses.replace(config, **values)
    check(result)
    check_data_source(result)
    check_data_path(result, values)
    return result


def _choose_budget(values: dict[str, Any]) -> None:
    """Let --epochs replace the configuration's `minutes`.

    Raises:
        UserError: both are given.
    """
    if "epochs" not in values:
        return
    if values.setdefault("minutes", None) is not None:
        raise UserError(
            f"--minutes {values['minutes']:g} and --epochs {values['epochs']}: pass one of them"
        )


def check(config: Config) -> None:
    """Raise UserError if options contradict each other.

    Where the data are is not looked at: `check_data_source` does that.
    """
    _check_network(config)
    _check_pruning(config)
    _check_batch_norm(config)
    _check_augmentation(config)
    _check_data(config)
    _check_optimisation(config)
    if config.scale_fan and config.prune_rate == 1:
        raise UserError(
            "scale_fan multiplies the fan by (1 - prune rate), which is 0 at prune rate 1: pass"
            " --no-scale-fan or a lower --prune-rate"
        )


def _check_network(config: Config) -> None:
    """Raise UserError if the network takes no arguments."""
    if config.arch_args and not has_graph(config.arch):
        raise UserError(
            f"arch_args: are for networks of your own (--arch FILE.py:NAME), and arch ="
            f" {config.arch}"
        )


def _check_pruning(config: Config) -> None:
    if config.conv_type != "DenseConv":
        if config.prune_rate is None:
            raise UserError(
                "prune_rate: the configuration does not set it; pass --prune-rate, the fraction of"
                " weights KEPT, e.g. 0.2"
            )
        return
    if config.layer_prune_rates or config.tune_batchnorm:
        raise UserError(
            "conv_type = DenseConv trains all weights: layer_prune_rates and tune_batchnorm"
            " need SubnetConv or GlobalSubnetConv"
        )
    if config.freeze_weights:
        raise UserError(
            "conv_type = DenseConv trains the weights, freeze_weights does not: pass"
            " --no-freeze-weights"
        )


def _check_batch_norm(config: Config) -> None:
    if config.bn_type == "NonAffineBatchNorm" and not has_graph(config.arch):
        for name in ("learn_batchnorm", "bn_bias_only", "bn_weight_init", "bn_bias_init"):
            if getattr(config, name) not in (False, None):
                raise UserError(
                    f"{name} needs batch norm with weight and bias: pass --bn-type AffineBatchNorm"
                )
    if config.learn_batchnorm and config.bn_bias_only:
        raise UserError("learn_batchnorm and bn_bias_only contradict each other: choose one")
    if config.tune_batchnorm and not (config.learn_batchnorm or config.bn_bias_only):
        raise UserError(
            "tune_batchnorm freezes the scores, so nothing would train: add --learn-batchnorm or"
            " --bn-bias-only"
        )


def _check_augmentation(config: Config) -> None:
    if config.augmix and config.gaussian_aug:
        raise UserError("augmix and gaussian_aug contradict each other: choose one")
    if config.jsd and not (config.augmix or config.gaussian_aug):
        raise UserError(
            "jsd compares an image with augmented views of it: add --augmix or --gaussian-aug"
        )
    if config.mixture_depth == 0:
        raise UserError("mixture_depth = 0: must be -1 (1 to 3 at random) or at least 1")


def _check_data(config: Config) -> None:
    """Raise UserError for options that the data set does not take."""
    for name in ("hub_config", "train_split", "test_split"):
        if getattr(config, name) is not None and config.set != "hub":
            raise UserError(
                f"{name} = {getattr(config, name)}: is for --set hub, and the set is {config.set}"
            )
    if config.set not in _SETS_OF_ANY_SIZE and (config.stream or config.image_size is not None):
        name = "stream" if config.stream else "image_size"
        kind = "arrays are" if config.set == "arrays" else f"those of {config.set} are"
        raise UserError(
            f"{name}: is for images in files (--set folder, hub or ImageNet), and {kind} taken as"
            " they are"
        )
    if config.channels == 2:
        raise UserError("channels = 2: must be 1 (grey) or 3 (RGB)")
    if config.channels is None or (config.set in ("folder", "hub") and not config.stream):
        return
    if config.stream:
        reason = "streamed images are read as RGB"
    else:
        reason = f"the number of channels of {config.set} is fixed"
    raise UserError(
        f"channels = {config.channels}: is for --set folder and hub, held in memory; {reason}"
    )


_SETS_OF_ANY_SIZE = ("folder", "hub", "ImageNet")


def _check_optimisation(config: Config) -> None:
    if config.start_epoch >= config.epochs:
        raise UserError(
            f"start_epoch = {config.start_epoch}: must be below epochs = {config.epochs}"
        )
    if config.minutes is not None:
        _check_clock(config)
    if config.teacher == "":
        raise UserError("teacher: must not be empty; leave it out, or name a file")
    if config.nesterov and not config.momentum:
        raise UserError("nesterov needs a momentum above 0")
    if config.optimizer == "adam" and config.nesterov:
        raise UserError("nesterov is an option of sgd: pass --optimizer sgd")
    has_score_rule = config.score_norm or config.optimizer == "muon"
    if has_score_rule and config.conv_type == "DenseConv":
        raise UserError(
            "muon and score_norm update scores, and conv_type = DenseConv has none: pass"
            " --optimizer sgd or adam, and --no-score-norm"
        )
    if has_score_rule and config.nesterov:
        raise UserError("muon and score_norm have Nesterov momentum anyway: leave out nesterov")


def _check_clock(config: Config) -> None:
    """Raise UserError for options that count epochs, beside a budget of time."""
    by_clock = ("constant_lr", "linear_lr", "cosine_lr")
    if config.lr_policy not in by_clock:
        raise UserError(
            f"minutes = {config.minutes:g}: lr_policy = {config.lr_policy} counts epochs; pass"
            f" --lr-policy {' or '.join(by_clock)}, or --epochs instead of --minutes"
        )
    for name in ("warmup_length", "start_epoch"):
        if getattr(config, name):
            raise UserError(
                f"minutes = {config.minutes:g}: {name} = {getattr(config, name)} counts epochs;"
                f" pass --{name.replace('_', '-')} 0, or --epochs instead of --minutes"
            )


def check_data_source(config: Config) -> None:
    """Raise UserError if the data set is on the Hub, or a file, and is not named.

    The default of `data` is no name: nothing is downloaded that nobody asked for.
    """
    if config.set == "arrays" and config.data == FIELDS["data"].default:
        raise UserError("set = arrays: pass --data FILE.npz, with the arrays X and y")
    if config.set == "hub" and config.data == FIELDS["data"].default:
        raise UserError("set = hub: pass --data, the name of the data set or a folder")


def check_data_path(config: Config, given: Mapping[str, Any]) -> None:
    """Raise UserError if the options `given` by the user name data that would not be read."""
    if "data" in given and config.set == "digits":
        raise UserError(
            f"--data {given['data']}: not used: the digits are part of the program; pass --set"
            " folder, for example"
        )


def warnings(config: Config) -> list[str]:
    """Warnings about options that are valid but have no effect, one line each."""
    texts = []
    if config.gaussian_aug and config.p_clean == 1:
        texts.append(
            "gaussian_aug does nothing at p_clean = 1: pass e.g. --p-clean 0.5 for noise on half"
            " of the images"
        )
    if config.gaussian_aug and config.std_gauss == 0:
        texts.append("gaussian_aug does nothing at std_gauss = 0")
    for names, has_effect, remedy in _DEPENDENT:
        unused = [name for name in names if getattr(config, name) != FIELDS[name].default]
        if unused and not has_effect(config):
            do = "does" if len(unused) == 1 else "do"
            texts.append(f"{' and '.join(unused)} {do} nothing: {remedy}")
    takes_width = re.match(HAS_WIDTH_MULT, config.arch) and not is_own(config.arch)
    if config.width_mult != 1 and not takes_width:
        texts.append(
            f"width_mult = {config.width_mult:g} does nothing: the width of {config.arch} is fixed"
        )
    return texts


_DEPENDENT: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str], ...] = (
    (("p_clean", "std_gauss"), lambda config: config.gaussian_aug, "pass --gaussian-aug"),
    (
        ("mixture_width", "mixture_depth", "aug_severity", "all_augmix_augmentations"),
        lambda config: config.augmix,
        "pass --augmix",
    ),
    (
        ("crop_padding", "crop_padding_mode"),
        lambda config: config.augment not in ("none", "flip"),
        "pass --augment crop or crop+flip",
    ),
    (
        ("teacher_views", "teacher_weight", "teacher_temperature"),
        lambda config: config.teacher is not None,
        "pass --teacher FILE",
    ),
    (
        ("layer_floor", "prune_rate_epoch"),
        lambda config: config.scope == "global",
        "pass --conv-type GlobalSubnetConv",
    ),
    (
        ("lr_gamma", "lr_adjust"),
        lambda config: config.lr_policy == "multistep_lr",
        "pass --lr-policy multistep_lr",
    ),
    (
        ("warmup_length",),
        lambda config: config.lr_policy in ("constant_lr", "cosine_lr"),
        "pass --lr-policy constant_lr or cosine_lr",
    ),
    (
        ("warmup_fraction",),
        lambda config: config.lr_policy == "linear_lr",
        "pass --lr-policy linear_lr",
    ),
    (
        ("dense_lr",),
        lambda config: config.score_norm or config.optimizer == "muon",
        "pass --optimizer muon or --score-norm",
    ),
)
"""Options that have an effect only with others: their names, whether they have one, and what to
pass.
"""


def as_dict(config: Config) -> dict[str, Any]:
    """Option name -> value, in the order of the fields."""
    values = dataclasses.asdict(config)
    return {**values, "arch": str(config.arch)}  # a plain string: files record no OwnNetwork


def as_yaml(config: Config) -> str:
    """All options as the text of a configuration file, which `read_file` reads."""
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False)
