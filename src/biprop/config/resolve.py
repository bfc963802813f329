"""From a configuration file and the command line to one checked `Config`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .schema import FIELDS, TAKE_WIDTH, Config
from .values import coerce, reject_unknown
from .yaml_files import DEFAULT_CONFIG, find_file, read_file


def resolve(config: str | None, overrides: Mapping[str, Any]) -> tuple[Config, str]:
    """The configuration of a run: the file (default: `DEFAULT_CONFIG`), with overrides on top.

    Args:
        config: what `find_file` takes, or None.
        overrides: option name -> value, from the command line.

    Returns:
        The configuration and its name: the file's without the ending, or, where only flags say what
            to do, data set and network.

    Raises:
        UserError: see `find_file`, `read_file`, `coerce`; or options that contradict each other.
    """
    path = find_file(config or DEFAULT_CONFIG)
    result = override(Config(**read_file(path)), overrides)
    # The default file is for the digits: a run on other data is not filed under its name.
    return result, path.stem if config or result.set == "digits" else f"{result.set}-{result.arch}"


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with the command line's values (option name -> value) on top, checked as `resolve`
    does.
    """
    values = {}
    for key, value in overrides.items():
        flag = f"--{key.replace('_', '-')}"
        reject_unknown(key, value, flag)
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
            raise UserError(
                "conv_type = DenseConv trains all weights: layer_prune_rates and tune_batchnorm"
                " need a Subnet layer"
            )
        if config.freeze_weights:
            raise UserError(
                "conv_type = DenseConv trains the weights, freeze_weights does not: pass"
                " --no-freeze-weights"
            )
    elif config.prune_rate is None:
        raise UserError(
            "prune_rate: the configuration leaves it open; pass --prune-rate, the fraction of"
            " weights KEPT, e.g. 0.2"
        )
    if config.bn_type == "NonAffineBatchNorm":
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
    if config.augmix and config.gaussian_aug:
        raise UserError("augmix and gaussian_aug contradict each other: choose one")
    if config.jsd and not (config.augmix or config.gaussian_aug):
        raise UserError(
            "jsd compares an image with augmented versions of it: add --augmix or --gaussian-aug"
        )
    if config.mixture_depth == 0:
        raise UserError("mixture_depth = 0: must be -1 (1 to 3 at random) or at least 1")
    _check_data(config)
    if config.start_epoch >= config.epochs:
        raise UserError(
            f"start_epoch = {config.start_epoch}: must be below epochs = {config.epochs}"
        )
    if config.nesterov and not config.momentum:
        raise UserError("nesterov needs a momentum above 0")
    if config.optimizer == "adam" and config.nesterov:
        raise UserError("nesterov is an option of sgd: pass --optimizer sgd")
    if (config.score_norm or config.optimizer == "muon") and config.conv_type == "DenseConv":
        raise UserError(
            f"optimizer = {config.optimizer}, score_norm = {str(config.score_norm).lower()}: these"
            " rules are for scores, and DenseConv has none: pass --optimizer sgd or adam"
        )
    if config.scale_fan and config.prune_rate == 1:
        raise UserError(
            "scale_fan multiplies the fan by (1 - prune rate), which is 0 at prune rate 1: turn it"
            " off or keep fewer"
        )


def check_source(config: Config) -> None:
    """Raise UserError where a data set of the Hub is asked for, and not which: nothing is
    downloaded that nobody named.
    """
    if config.set == "hub" and config.data == FIELDS["data"].default:
        raise UserError("set = hub: pass --data, the name of the data set or a folder")


def check_place(config: Config, given: Mapping[str, Any]) -> None:
    """Raise UserError if the user names data that would not be looked at."""
    if "data" in given and config.set == "digits":
        raise UserError(
            f"--data {given['data']}: not used: the digits are part of the program; pass --set"
            " folder, for example"
        )


def _check_data(config: Config) -> None:
    """Raise UserError for options of data that the data set does not take."""
    for name in ("hub_config", "train_split", "test_split"):
        if getattr(config, name) is not None and config.set != "hub":
            raise UserError(
                f"{name} = {getattr(config, name)}: is for --set hub, and the set is {config.set}"
            )
    if config.channels == 2:
        raise UserError("channels = 2: must be 1 (grey) or 3 (colour)")
    if config.channels is not None and (config.set not in ("folder", "hub") or config.stream):
        what = (
            "streamed images are read in colour" if config.stream else f"{config.set} has its own"
        )
        raise UserError(
            f"channels = {config.channels}: is for --set folder and hub, held in memory; {what}"
        )


def warnings(config: Config) -> list[str]:
    """What the user should know of options that are allowed and do nothing, one line each."""
    found = []
    if config.gaussian_aug and config.p_clean == 1:
        found.append(
            "gaussian_aug does nothing at p_clean = 1: pass --p-clean 0.5, say, for noise on half"
            " of the images"
        )
    if config.gaussian_aug and config.std_gauss == 0:
        found.append("gaussian_aug does nothing at std_gauss = 0")
    if config.width_mult != 1 and not re.match(TAKE_WIDTH, config.arch):
        found.append(
            f"width_mult = {config.width_mult:g} does nothing: the width of {config.arch} is fixed"
        )
    return found


def as_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def as_yaml(config: Config) -> str:
    """The configuration in full, as a file that `--config` reads."""
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False)
