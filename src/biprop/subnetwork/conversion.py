"""`convert` turns a network of random weights into a subnetwork.

Layers that are not converted stay trainable as they were, and are listed in
`Subnetwork.left_alone`: normalisation layers, embeddings, recurrent cells, subclasses of PyTorch's
linear and convolution classes, and layers whose weight is computed by something else (weight norm,
spectral norm, `torch.nn.utils.prune`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UserError, did_you_mean
from . import init as initialisation
from .attention import join_attention, split_attention
from .binarize import addressable
from .init import draw_scores, draw_signs, draw_weight
from .layers import Masked, mask_layer, maskable
from .subnetwork import Subnetwork, check_density, check_global, sharded_part

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_OWN_WEIGHTS = ("own", "keep")
"""Values of `init` that start from the weights that the model has."""

Density = float | Mapping[str, "float | Literal['dense']"]
Exempt = Sequence[str] | Callable[[str, nn.Module], bool]
Layers = Mapping[str, nn.Module]
Densities = Mapping[str, float]


def convert(
    model: nn.Module,
    density: Density = 0.2,
    scope: Literal["layer", "global"] = "layer",
    exempt: Exempt = (),
    *,
    seed: int = 0,
    init: str = "own",
    mode: str = "fan_in",
    nonlinearity: str = "relu",
    scale_fan: bool = False,
    floor: float = 0.001,
) -> Subnetwork:
    """Turn a model into a subnetwork of random binary weights, in place; its forward is unchanged.

    Every Linear, Conv1d/2d/3d and ConvTranspose1d/2d/3d (grouped ones too) becomes a masked layer:
    its weight and bias are frozen, and it gets trainable `scores`, one per weight. So do the two
    projections of each MultiheadAttention: its parameter `in_proj_weight` becomes the weight of a
    layer `in_proj`, under which name state dicts have it.

    Args:
        model: any module of float32, bfloat16 or float16 parameters, or on the meta device.
        density: fraction of weights kept, above 0 and at most 1; or a mapping of layer names or
            shell-style patterns to densities or "dense", whose last match counts: {"*": 0.2,
            "fc": 0.5, "conv1": "dense"}.
        scope: "layer" (each layer keeps its density) or "global" (one ranking, one density).
        exempt: names, patterns, or a function of (name, module): layers that stay dense and train.
        seed: 0 .. 2**64 - 1, of signs, scores and, for a named `init`, magnitudes. A layer's draw
            depends on the seed and its place among the maskable layers only.
        init: "own" keeps the magnitudes of the model's weights and draws their signs anew; "keep"
            leaves the weights as they are (a trained model); or one of
            `biprop.subnetwork.init.INITS`.
        mode, nonlinearity, scale_fan: see `biprop.subnetwork.init.draw_weight`.
        floor: fraction of its weights, at least one, that each layer keeps under global scope.

    Returns:
        The `Subnetwork`, with its masks computed.

    Raises:
        UserError: a value out of range, an unmatched pattern, or a model that cannot be converted
            (the message says why). The model is then unchanged.
    """
    _check_model(model)
    draw = _Draw(seed, init, mode, nonlinearity, scale_fan)
    split = split_attention(model)
    try:
        layers = {name: module for name, module in model.named_modules() if maskable(module)}
        densities = _densities(layers, density, _exempt_names(layers, exempt))
        _check_choice(layers, densities, scope, floor)
        _refuse_shared_weights(model, densities)
        draw.check(layers, densities)
        return _converted(model, layers, densities, scope, floor, draw)
    except BaseException:
        join_attention(split)
        raise


@torch.no_grad()
def _converted(
    model: nn.Module,
    layers: Layers,
    densities: dict[str, float],
    scope: str,
    floor: float,
    draw: _Draw,
) -> Subnetwork:
    """The subnetwork of a model for which everything has been checked.

    All weights and scores are drawn before the first layer changes: an error leaves the model as it
    was.
    """
    numbers = {name: number for number, name in enumerate(layers) if name in densities}
    drawn = {
        name: draw.weight_and_scores(_weight(layers[name]), number, densities[name])
        for name, number in numbers.items()
    }
    masked: dict[str, Masked] = {}
    for name, (weight, scores) in drawn.items():
        _weight(layers[name]).copy_(weight)
        masked[name] = mask_layer(layers[name], name, scores)
    dense = [name for name in layers if name not in densities]
    left_alone = _left_alone(model, layers)
    sign_seed = None if draw.init == "keep" else draw.seed
    return Subnetwork(model, masked, densities, scope, floor, dense, left_alone, sign_seed, numbers)


def _left_alone(model: nn.Module, layers: Layers) -> dict[str, str]:
    """Name -> type of the modules with parameters that cannot become masked layers."""
    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if name not in layers and next(module.parameters(recurse=False), None) is not None
    }


@dataclass(frozen=True)
class _Draw:
    """How weights and scores are drawn: the arguments of `convert` of these names."""

    seed: int
    init: str
    mode: str
    nonlinearity: str
    scale_fan: bool

    def check(self, layers: Layers, densities: Densities) -> None:
        """Raise UserError unless the weights of these layers can be drawn."""
        if self.init in _OWN_WEIGHTS:
            _check_magnitudes(layers, densities, self.init)
        else:
            highest = max(densities.values())
            initialisation.check(self.init, self.scale_fan, highest, self.mode, self.nonlinearity)

    def weight_and_scores(
        self, weight: Tensor, number: int, density: float
    ) -> tuple[Tensor, Tensor]:
        """New values of a layer's weight, and its first scores, both of the weight's shape.

        Args:
            weight: the layer's weight now.
            number: the layer's place among the model's maskable layers.
            density: of the layer.
        """
        if weight.is_meta:
            return weight, torch.empty_like(weight)
        scores = draw_scores(weight.shape, self.seed, number)
        if self.init == "keep":
            return weight, scores
        if self.init == "own":
            signs = draw_signs(weight.shape, self.seed, number)
            return weight.abs() * signs.to(weight), scores
        values = draw_weight(
            weight.shape,
            self.seed,
            number,
            init=self.init,
            mode=self.mode,
            nonlinearity=self.nonlinearity,
            scale_fan=self.scale_fan,
            density=density,
        )
        return values, scores


def _check_model(model: nn.Module) -> None:
    """Raise UserError unless the model can be converted, whatever the options."""
    if torch.is_inference_mode_enabled():
        raise UserError(
            "inside torch.inference_mode no scores can train: call convert outside of it"
        )
    if not isinstance(model, nn.Module):
        raise UserError(f"model is of type {type(model).__name__}: must be a torch.nn.Module")
    for name, module in model.named_modules():
        _check_module(name, module)
    if (name := sharded_part(model)) is not None:
        raise UserError(
            f"{name!r} is sharded: convert the model first, then shard it (fully_shard)"
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float64:
            raise UserError(
                f"parameter {name!r} is float64, and tickets hold float32: call model.float(), then"
                " convert it"
            )


def _check_module(name: str, module: nn.Module) -> None:
    """Raise UserError if a module is a masked layer already, or lazy."""
    if isinstance(module, Masked):
        raise UserError(f"the model is a subnetwork already (layer {name!r}): convert a new model")
    if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
        raise UserError(
            f"layer {name!r} is lazy ({type(module).__name__}), its shape not yet known: "
            "run one batch through the model, then convert it"
        )


def _check_choice(layers: Layers, densities: Densities, scope: str, floor: float) -> None:
    """Raise UserError unless the layers that get a density can be masked."""
    if not densities:
        raise UserError(
            "nothing to mask: the model has no linear or convolutional layer that is not exempt"
        )
    if scope not in ("layer", "global"):
        raise UserError(f"scope = {scope!r}: must be 'layer' or 'global'")
    if not 0 <= floor <= 1:
        raise UserError(
            f"floor = {floor}: must be between 0 and 1 (the fraction that each layer keeps in any"
            " case)"
        )
    weights = {name: _weight(layers[name]) for name in densities}
    if scope == "global":
        check_global(densities, [weight.numel() for weight in weights.values()], floor)
    for name, weight in weights.items():
        _check_weight(name, weight)


def _check_weight(name: str, weight: Tensor) -> None:
    """Raise UserError unless the weight of a layer can be masked."""
    if weight.dtype not in _FLOATS:
        raise UserError(
            f"layer {name!r} is {weight.dtype}: must be float32, bfloat16 or float16, or exempt"
        )
    if not weight.numel():
        raise UserError(
            f"layer {name!r} has no weights, its shape is {list(weight.shape)}: exempt it"
        )
    if weight.is_inference() or 0 in weight.stride():
        raise UserError(
            f"the weight of layer {name!r} cannot be changed in place (made in"
            " torch.inference_mode, or expanded): give it one of its own: layer.weight ="
            " torch.nn.Parameter(layer.weight.clone())"
        )


def _check_magnitudes(layers: Layers, densities: Densities, init: str) -> None:
    """Raise UserError unless the model's own weights can be the random weights of a subnetwork."""
    for name in densities:
        weight = _weight(layers[name])
        if weight.is_meta:
            continue
        if not torch.isfinite(weight).all():
            raise UserError(f"layer {name!r} has a weight that is infinite or not a number")
        if not weight.any():
            raise UserError(
                f"all weights of layer {name!r} are 0, so its scores would get no gradient under"
                f" init={init!r}: exempt it, or let convert draw its weights"
                " (init='kaiming_normal')"
            )


def _weight(module: nn.Module) -> nn.Parameter:
    assert isinstance(module.weight, nn.Parameter)
    return module.weight


def _exempt_names(layers: Layers, exempt: Exempt) -> set[str]:
    """Names of the layers that stay dense."""
    if callable(exempt):
        return {name for name, module in layers.items() if exempt(name, module)}
    patterns = [exempt] if isinstance(exempt, str) else exempt
    return {name for pattern in patterns for name in _matching(layers, pattern)}


def _densities(layers: Layers, density: Density, dense: set[str]) -> dict[str, float]:
    """Name -> density of the layers to mask, in the model's order.

    Raises:
        UserError: a density out of range, a pattern that matches nothing, or a layer without one.
    """
    chosen = _matched_densities(layers, density)
    missing = [name for name in layers if name not in chosen and name not in dense]
    if missing:
        raise UserError(
            f"no density for layer {missing[0]!r}: name it, or begin with a pattern for the rest:"
            " {'*': 0.2, ...}"
        )
    densities: dict[str, float] = {}
    for name in layers:
        value = "dense" if name in dense else chosen[name]
        if not isinstance(value, str):
            densities[name] = value
    return densities


def _matched_densities(layers: Layers, density: Density) -> dict[str, float | str]:
    """Name -> what the last pattern that matches it says: a density, or "dense"."""
    patterns = density if isinstance(density, Mapping) else {"*": density}
    chosen: dict[str, float | str] = {}
    for pattern, value in patterns.items():
        if not isinstance(value, str):
            check_density(value)
        elif value != "dense":
            raise UserError(f"density of {pattern!r} = {value!r}: must be a number or 'dense'")
        chosen |= dict.fromkeys(_matching(layers, pattern), value)
    return chosen


def _matching(layers: Layers, pattern: str) -> list[str]:
    """Names of the layers that a name or a shell-style pattern matches.

    Raises:
        UserError: it matches none.
    """
    if pattern in layers:  # also a name with brackets, which mean something in a pattern
        return [pattern]
    names = [name for name in layers if fnmatchcase(name, pattern)]
    if not names and pattern != "*":
        raise UserError(f"no layer is named {pattern!r}{did_you_mean(pattern, layers)}")
    return names


def _refuse_shared_weights(model: nn.Module, densities: Densities) -> None:
    """Raise UserError if a masked layer shares a parameter, or its memory, with another module."""
    for names in _owners(model):
        ours = [name for name in names if name in densities]
        if len(names) > 1 and ours:
            raise UserError(
                f"layers {', '.join(map(repr, names))} share a weight or bias: add {ours} to exempt"
            )


def _owners(model: nn.Module) -> list[list[str]]:
    """For each parameter, and each address of one in memory: the names of the modules it is in."""
    owners: dict[Any, dict[str, None]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), {})[name] = None
            address = parameter.data_ptr() if addressable(parameter) else 0
            if address:  # 0 on the meta device, and of empty ones
                owners.setdefault((parameter.device, address), {})[name] = None
    return [list(names) for names in owners.values()]
