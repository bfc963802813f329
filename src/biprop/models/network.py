"""The network of a run: from options to a model, converted or dense, in which exactly the right
parameters train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import rng
from ..config import Config
from ..errors import UserError, one_line, shown
from ..subnetwork import Subnetwork, convert
from ..subnetwork.init import draw_weight
from ..subnetwork.layers import BinaryActivation, maskable
from . import build, plans


@dataclass(frozen=True)
class Task:
    """What the data ask of a network."""

    num_classes: int
    channels: int
    input_size: tuple[int, int]

    def __str__(self) -> str:
        return (
            f"{self.num_classes} classes of {self.channels} x {self.input_size[0]} x"
            f" {self.input_size[1]} images"
        )


@dataclass
class Network:
    """A model, and its subnetwork unless it is a dense baseline.

    Attributes:
        of_ancestor: built with the oddities of the original research code, see `models.build`.
    """

    model: nn.Module
    subnetwork: Subnetwork | None
    of_ancestor: bool = False

    @property
    def density(self) -> float:
        return self.subnetwork.density if self.subnetwork else 1.0

    @property
    def binary_activations(self) -> bool:
        """Whether this is an MPT-1/1 rather than an MPT-1/32."""
        return any(isinstance(module, BinaryActivation) for module in self.model.modules())


def build_network(config: Config, task: Task, ancestor: bool = False) -> Network:
    """Build the network of `config` for `task`, weights and scores drawn from the run's seed.

    Args:
        ancestor: see `models.build`.

    Raises:
        UserError: network, task and options do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.derive(config.seed, rng.Stream.DENSE))
        try:
            model = _build_dense(config, task, ancestor)
            subnetwork = _convert(model, config)
        except ValueError as e:
            raise UserError(str(e)) from None
    _set_batch_norm(model, config)
    if config.tune_batchnorm and subnetwork:
        for layer in subnetwork.layers.values():
            layer.scores.requires_grad_(False)
    return Network(model, subnetwork, ancestor)


def dense_shapes(config: Config, task: Task, ancestor: bool = False) -> dict[str, Tensor]:
    """The state dict of the network before it is converted, of tensors that have a shape and take
    no memory.

    Raises:
        UserError: network, task and options do not fit together.
    """
    try:
        with torch.device("meta"):
            return _build_dense(config, task, ancestor).state_dict()
    except (ValueError, RuntimeError, TypeError) as e:  # a width beyond all integers
        raise UserError(f"arch = {shown(config.arch)}: cannot be built: {one_line(e)}") from None


def _build_dense(config: Config, task: Task, ancestor: bool) -> nn.Module:
    return build.build(
        config.arch,
        num_classes=task.num_classes,
        channels=task.channels,
        input_size=task.input_size,
        bn_type=config.bn_type,
        width_mult=config.width_mult if plans.takes_width(config.arch) else 1,
        head_bias=config.last_layer_dense,
        ancestor=ancestor,
    )


def _convert(model: nn.Module, config: Config) -> Subnetwork | None:
    names = [name for name, module in model.named_modules() if maskable(module)]
    draw: dict[str, Any] = {
        "init": config.init,
        "mode": config.mode,
        "nonlinearity": config.nonlinearity,
    }
    subnetwork = None
    if config.conv_type != "DenseConv":
        subnetwork = convert(
            model,
            {"*": config.prune_rate, **(config.layer_prune_rates or {})},  # type: ignore[dict-item]
            config.scope,  # type: ignore[arg-type]
            [names[0]] * config.first_layer_dense + [names[-1]] * config.last_layer_dense,
            seed=config.seed, scale_fan=config.scale_fan, floor=config.layer_floor, **draw,
        )  # fmt: skip
    with torch.no_grad():
        for name in subnetwork.exempt if subnetwork else names:
            weight = model.get_parameter(f"{name}.weight")
            if not weight.is_meta:
                weight.copy_(draw_weight(weight.shape, config.seed, names.index(name), **draw))
    return subnetwork


def _set_batch_norm(model: nn.Module, config: Config) -> None:
    """First values of batch norm, and which of them train: all in a dense network, else what the
    options say.
    """
    dense = config.conv_type == "DenseConv"
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            if config.bn_weight_init is not None:
                nn.init.constant_(module.weight, config.bn_weight_init)
            if config.bn_bias_init is not None:
                nn.init.constant_(module.bias, config.bn_bias_init)
            module.weight.requires_grad_(dense or config.learn_batchnorm)
            module.bias.requires_grad_(dense or config.learn_batchnorm or config.bn_bias_only)
