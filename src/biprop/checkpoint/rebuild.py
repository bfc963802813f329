"""Restoring the network of a checkpoint, masks included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import config as options
from ..config import Config
from ..errors import UserError, abbreviated, one_line
from ..models.network import Network, Task, build_network, dense_shapes
from .format import Content, differences, load_state, raise_differences, read


def check_size(config: Config, task: Task, content: Content) -> None:
    """Compare the network of these options with a checkpoint before memory is allocated for it: a
    small file can ask for a huge network.

    Raises:
        UserError: the checkpoint is of another network.
    """
    if options.is_own(config.arch):
        return  # code that only its user knows may compute what the meta device cannot
    wanted = dense_shapes(config, task, content.of_ancestor)
    given = {key: value for key, value in content.state.items() if key in wanted}
    raise_differences(differences(wanted, given), content.path)


@dataclass
class Restored:
    """The network of a checkpoint.

    Attributes:
        network: with the checkpoint's weights, scores and masks.
        content: the checkpoint.
        mean, std: the normalisation that the network was trained with, per channel; None where the
            file does not say.
    """

    network: Network
    content: Content
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def restore(
    path: str | Path, flags: Mapping[str, Any], fallback: Mapping[str, Any] | None = None
) -> Restored:
    """Load a checkpoint and restore its network, masks included; arguments and errors as of `read`
    and `load_state`.
    """
    content = read(path, flags, fallback)
    options.check_given(options.as_dict(content.config), flags, path)
    check_size(content.config, content.task, content)
    network = _empty_network(content)
    load_state(network.model, content.state, path)
    if content.ours is None:
        return Restored(network, content)
    try:
        if network.subnetwork:
            network.subnetwork.set_densities(_densities(content.ours["densities"]))
        mean, std = _normalisation(content.ours["mean"], content.ours["std"], content.task)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(
            f"{path}: a damaged checkpoint: {type(e).__name__}: {one_line(e)}"
        ) from None
    return Restored(network, content, mean, std)


def _empty_network(content: Content) -> Network:
    """The network of a checkpoint on the CPU, for `load_state` to fill.

    It is built on the meta device: nothing is drawn that the checkpoint would replace. A network of
    the user's own is built as its code does it: it may hold tensors that no state dict has.
    """
    if options.has_graph(content.config.arch):
        return build_network(content.config, content.task)
    with torch.device("meta"):
        network = build_network(content.config, content.task, ancestor=content.of_ancestor)
    network.model.to_empty(device="cpu")
    return network


def _densities(densities: Any) -> dict[str, float]:
    """Layer name -> density, as a checkpoint stores them.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(densities, dict):
        raise ValueError(f"densities = {abbreviated(densities)}")
    for name, density in densities.items():
        is_number = type(density) in (int, float)
        if type(name) is not str or not is_number or not 0 <= density <= 1:
            raise ValueError(f"the density of {abbreviated(name)} is {abbreviated(density)}")
    return densities


def _normalisation(mean: Any, std: Any, task: Task) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as a checkpoint stores them: a number per channel or one for all.

    Raises:
        ValueError: they are something else.
    """
    for numbers in (mean, std):
        is_list = isinstance(numbers, list) and len(numbers) in (1, task.channels)
        if not is_list or not all(_is_finite(number) for number in numbers):
            raise ValueError(f"mean or std = {abbreviated(numbers)}")
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(f"std = {abbreviated(std)}")
    return tuple(map(float, mean)), tuple(map(float, std))


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
