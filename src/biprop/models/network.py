"""The network of a run: from options to a model, converted or dense, in which exactly the
parameters train that the options say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import config as options
from .. import rng
from ..config import Config
from ..errors import UserError, abbreviated, one_line
from ..subnetwork import Subnetwork, convert
from ..subnetwork.attention import split_attention
from ..subnetwork.init import draw_weight
from ..subnetwork.layers import BinaryActivation, maskable
from . import build, defaults, own, plans


@dataclass(frozen=True)
class Task:
    """What the data require of a network.

    Attributes:
        num_classes: of the labels.
        channels: of images and series; features of a table.
        input_size: (height, width) of images, (length,) of series, () of tables.
    """

    num_classes: int
    channels: int
    input_size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (channels, *input_size)."""
        return (self.channels, *self.input_size)

    def __str__(self) -> str:
        kinds = {1: "features", 2: "series", 3: "images"}
        kind = kinds.get(len(self.shape), "arrays")
        return f"{self.num_classes} classes of {' x '.join(map(str, self.shape))} {kind}"


@dataclass
class Network:
    """A model, and its subnetwork unless it is a dense baseline.

    Attributes:
        subnetwork: of the model; None for a dense baseline.
        of_ancestor: built with the oddities of the original research code, see `models.build`.
    """

    model: nn.Module
    subnetwork: Subnetwork | None
    of_ancestor: bool = False

    @property
    def density(self) -> float:
        """Fraction of the weights that is kept, in (0, 1]; 1 for a dense baseline."""
        return self.subnetwork.density if self.subnetwork else 1.0

    @property
    def binary_activations(self) -> bool:
        """Whether this is an MPT-1/1 rather than an MPT-1/32."""
        return any(isinstance(module, BinaryActivation) for module in self.model.modules())


def build_network(config: Config, task: Task, ancestor: bool = False) -> Network:
    """Build the network of `config` for `task`, weights and scores drawn from the run's seed.

    Inside `torch.device("meta")`, nothing is drawn.

    Args:
        config: options of the network, its initialisation and its pruning.
        task: classes and images.
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
    """The state dict of the network before it is converted, as tensors on the meta device: shapes
    without memory.

    Raises:
        UserError: network, task and options do not fit together.
    """
    try:
        with torch.device("meta"):
            return _build_dense(config, task, ancestor).state_dict()
    except (ValueError, RuntimeError, TypeError) as e:  # a width beyond all integers
        raise UserError(
            f"arch = {abbreviated(config.arch)}: cannot be built: {one_line(e)}"
        ) from None


def _build_dense(config: Config, task: Task, ancestor: bool) -> nn.Module:
    """The network, with the names of its tensors that it has as a subnetwork too."""
    model = _module(config, task, ancestor)
    split_attention(model)
    return model


def _module(config: Config, task: Task, ancestor: bool) -> nn.Module:
    arguments = (config.arch_args, task.num_classes, task.shape)
    if options.is_own(config.arch):
        return own.build(config.arch, *arguments)  # type: ignore[no-any-return]
    if options.has_graph(config.arch):
        return defaults.build(config.arch, *arguments)  # type: ignore[no-any-return]
    if len(task.input_size) != 2:
        raise UserError(
            f"arch = {abbreviated(config.arch)}: takes images, and the data have {task}: leave out"
            " --arch, or pass a network of your own (--arch FILE.py:NAME)"
        )
    return build.build(
        config.arch,
        num_classes=task.num_classes,
        channels=task.channels,
        input_size=(task.input_size[0], task.input_size[1]),
        bn_type=config.bn_type,
        width_mult=config.width_mult if plans.takes_width(config.arch) else 1,
        head_bias=config.last_layer_dense,
        ancestor=ancestor,
    )


def _convert(model: nn.Module, config: Config) -> Subnetwork | None:
    """Convert the model unless the options ask for a dense one, and draw the weights of its dense
    layers.
    """
    names = [name for name, module in model.named_modules() if maskable(module)]
    draw: dict[str, Any] = {
        "init": config.init,
        "mode": config.mode,
        "nonlinearity": config.nonlinearity,
    }
    subnetwork = None
    if config.conv_type != "DenseConv":
        densities = {"*": config.prune_rate, **(config.layer_prune_rates or {})}
        first, last = names[:1] * config.first_layer_dense, names[-1:] * config.last_layer_dense
        try:
            subnetwork = convert(
                model,
                densities,  # type: ignore[arg-type]
                config.scope,  # type: ignore[arg-type]
                first + last,
                seed=config.seed,
                scale_fan=config.scale_fan,
                floor=config.layer_floor,
                **draw,
            )
        except UserError as e:
            if not config.layer_prune_rates:
                raise
            raise UserError(f"--layer-prune-rates: {e} (layers: {', '.join(names)})") from None
    for name in subnetwork.exempt if subnetwork else names:
        weight = model.get_parameter(f"{name}.weight")
        _draw_dense(weight, config.seed, names.index(name), draw)
    return subnetwork


@torch.no_grad()
def _draw_dense(weight: Tensor, seed: int, number: int, draw: dict[str, Any]) -> None:
    """Fill the weight of a dense layer, in place, as that of a masked layer of this number."""
    if not weight.is_meta:
        weight.copy_(draw_weight(weight.shape, seed, number, **draw))


def _set_batch_norm(model: nn.Module, config: Config) -> None:
    """Set the initial values of batch norm's parameters, and which train: all in a dense network,
    else what the options say.
    """
    is_dense = config.conv_type == "DenseConv"
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or not module.affine:
            continue
        if config.bn_weight_init is not None:
            nn.init.constant_(module.weight, config.bn_weight_init)
        if config.bn_bias_init is not None:
            nn.init.constant_(module.bias, config.bn_bias_init)
        train_weight = is_dense or config.learn_batchnorm
        module.weight.requires_grad_(train_weight)
        module.bias.requires_grad_(train_weight or config.bn_bias_only)
