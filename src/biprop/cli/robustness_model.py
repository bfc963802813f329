"""What biprop robustness does with a PyTorch model of the user's own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config as options
from ..errors import UserError
from .common import warn

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..console import Console
    from ..data import DataSet
    from ..data.sources import Expect


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a model of the user's own; --arch is one of the options."""
    group = parser.add_argument_group("a PyTorch model of your own (--arch FILE.py:NAME, no FILE)")
    group.add_argument(
        "--weights",
        metavar="FILE",
        help="state dict of the model: a file of torch.save, of which only tensors are read, or"
        " .safetensors [the model as --arch makes it]",
    )
    group.add_argument(
        "--on-pixels",
        action="store_true",
        help="the model takes pixels in 0 .. 1 and normalises them itself, as the models of"
        " RobustBench do",
    )
    group.add_argument(
        "--mean",
        metavar="X,X,X",
        help="mean of the normalisation per channel, of pixels in 0 .. 1 [that of the data set]",
    )
    group.add_argument(
        "--std", metavar="X,X,X", help="standard deviation, likewise [that of the data set]"
    )


def taken_spec(arguments: argparse.Namespace, given: dict[str, Any]) -> str | None:
    """The model of the user's own that the arguments name, FILE.py:NAME, which is removed from the
    options; None if they name a file of biprop's.

    Args:
        arguments: of the command line.
        given: its options, see `parser.overrides`.

    Raises:
        UserError: neither is named, or flags that are for a model of the user's own go with FILE.
    """
    names = ("weights", "on_pixels", "mean", "std")
    flags = [name for name in names if getattr(arguments, name)]
    if arguments.file is not None:
        if flags:
            flag = f"--{flags[0].replace('_', '-')}"
            raise UserError(f"{flag}: is for a model of your own: leave out {arguments.file}")
        return None
    if "arch" not in given:
        raise UserError(
            "name what to measure: biprop robustness FILE, or --arch FILE.py:NAME for a PyTorch"
            " model of your own"
        )
    return str(given.pop("arch"))


def load(
    spec: str, weights: str | None, flags: Mapping[str, Any], console: Console, device: torch.device
) -> tuple[nn.Module, DataSet]:
    """The model, and the data set that the flags name (`with_data_set`). The model is made before
    images are decoded.

    Raises:
        UserError: see `data.load`; or the model cannot be imported or made, or its weights do not
            fit.
    """
    models: list[nn.Module] = []

    def make(num_classes: int, shape: tuple[int, ...]) -> None:
        models.append(_model(spec, flags.get("arch_args"), weights, num_classes, shape))

    images = _load_data(flags, console, make)
    return models[0].to(device), images


def check_spec(spec: str) -> None:
    """Raise UserError unless `spec` names a network of the user's own."""
    if not options.is_own(spec):
        raise UserError(f"--arch {spec}: must be FILE.py:NAME, PACKAGE.MODULE:NAME or timm:NAME")


def with_data_set(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags, with the data set that is found in --data if it is not named.

    Raises:
        UserError: neither is given, or the folder contains no known data set.
    """
    from ..data.listings import recognise

    if "set" not in flags and "data" not in flags:
        raise UserError("pass --data DIR, or --set digits: the model does not tell its data")
    named = flags.get("set")
    return {**flags, "set": recognise(Path(flags["data"])) if named is None else named}


def _load_data(flags: Mapping[str, Any], console: Console, expect: Expect) -> DataSet:
    from .. import data

    places = {name: flags[name] for name in options.DATA_SOURCE_OPTIONS if name in flags}
    config = dataclasses.replace(options.Config(), **places)
    options.check_data_path(config, places)
    options.check_data_source(config)
    images = data.load(config, console.track, expect)
    warn(images.notes)
    return images


def _model(
    spec: str,
    arguments: Mapping[str, Any] | None,
    weights: str | None,
    num_classes: int,
    shape: tuple[int, ...],
) -> nn.Module:
    from ..models import own
    from ..robustness.weights import load_weights

    model: nn.Module = own.build(options.OwnNetwork(spec), arguments, num_classes, shape)
    if weights:
        load_weights(model, weights)
    return model


def normalisation(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `robustness.measure` that say what images the model takes."""
    return {
        "on_pixels": arguments.on_pixels,
        "mean": _numbers("--mean", arguments.mean),
        "std": _numbers("--std", arguments.std),
    }


def _numbers(flag: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} {text}: must be numbers, e.g. 0.49,0.48,0.45") from None


def normalised_by(arguments: argparse.Namespace) -> str:
    """Who normalises the images, for the result."""
    if arguments.on_pixels:
        return "the model"
    return "the given mean and std" if arguments.mean else "the data set's mean and std"
