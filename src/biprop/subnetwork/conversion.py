"""`convert` turns a network of random weights into a subnetwork; `Subnetwork` keeps its masks and
gains up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UserError, did_you_mean
from .binarize import addressable
from .init import check as check_init
from .init import draw_scores, draw_signs, draw_weight
from .layers import Masked, mask_layer, maskable
from .subnetwork import Subnetwork, check_density, check_global, sharded_part

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Density = float | Mapping[str, "float | Literal['dense']"]
Exempt = Sequence[str] | Callable[[str, nn.Module], bool]


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
    """Turn a model into a subnetwork of random binary weights, in place; its own forward stays as
    it is.

    Every Linear, Conv1d/2d/3d and ConvTranspose1d/2d/3d (grouped ones too) becomes a masked layer:
    its weight and bias are frozen, and it gets `scores`, one per weight, which train. Everything
    else is left alone, trainable as it was, and listed in `Subnetwork.left_alone`: normalisation
    layers, embeddings, recurrent cells, subclasses of the classes above, layers whose weight
    something else computes (weight norm, spectral norm, `torch.nn.utils.prune`).

    Args:
        model: any module; may itself be a layer. Its parameters are float32, bfloat16 or float16,
            or on the meta device.
        density: fraction of weights kept, above 0 and at most 1; or a mapping of layer names or
            name patterns (shell style) to densities or "dense", of which the last that matches
            counts: {"*": 0.2, "fc": 0.5, "conv1": "dense"}.
        scope: "layer" (every layer keeps its density) or "global" (one ranking over all; one
            density).
        exempt: names or patterns of names, or a function of (name, module), for layers that stay
            dense and train.
        seed: 0 .. 2**64 - 1, of signs, scores and, for a named `init`, magnitudes. A layer's draw
            depends on the seed and on its place among the model's maskable layers, not on torch's
            version, the device or which others are exempt.
        init: "own" keeps the magnitudes of the weights as the model drew them and draws only their
            signs anew; "keep" leaves the weights as they are (a trained model); otherwise one of
            `biprop.init.INITS`.
        mode, nonlinearity, scale_fan: see `biprop.init.draw_weight`.
        floor: under global scope, the fraction of its weights that each layer keeps in any case (at
            least one weight).

    Returns:
        The `Subnetwork`; its masks are ready.

    Raises:
        UserError: a value out of range, a pattern that matches no layer, a layer without a density,
            nothing to mask, a model that is a subnetwork already, a parameter shared with another
            module, lazy layers before the first batch, double precision, sharded parameters,
            weights that are all 0 or not finite. The model is then as it was.
    """
    _check_model(model)
    found = {name: m for name, m in model.named_modules() if maskable(m)}
    densities = _densities(found, density, _exempt_names(found, exempt))
    _check_choice(found, densities, scope, floor)
    _refuse_shared_weights(model, densities)
    if init not in ("own", "keep"):
        check_init(init, scale_fan, max(densities.values()), mode, nonlinearity)
    else:
        _check_magnitudes(found, densities, init)
    numbers = {name: number for number, name in enumerate(found) if name in densities}

    def draw(name: str) -> tuple[Tensor, Tensor]:
        options = {
            "mode": mode,
            "nonlinearity": nonlinearity,
            "scale_fan": scale_fan,
            "density": densities[name],
        }
        return _draw(_weight(found[name]), seed, numbers[name], init, options)

    drawn = {name: draw(name) for name in densities}
    # From here on nothing can be refused: all is checked, and all is drawn.
    layers: dict[str, Masked] = {}
    for name, (weight, scores) in drawn.items():
        with torch.no_grad():
            _weight(found[name]).copy_(weight)
        layers[name] = mask_layer(found[name], name, scores)
    exempt_names = [name for name in found if name not in densities]
    left_alone = {
        name: type(m).__name__
        for name, m in model.named_modules()
        if name not in found and next(m.parameters(recurse=False), None) is not None
    }
    drawn_from = None if init == "keep" else seed
    return Subnetwork(
        model, layers, densities, scope, floor, exempt_names, left_alone, drawn_from, numbers
    )


def _check_model(model: nn.Module) -> None:
    """Raise UserError unless a subnetwork can be made of the model, whatever is chosen of it."""
    if torch.is_inference_mode_enabled():
        raise UserError(
            "inside torch.inference_mode no scores can train: call convert outside of it"
        )
    for name, module in model.named_modules():
        if isinstance(module, Masked):
            raise UserError(
                f"the model is a subnetwork already (layer {name!r}): convert a new model"
            )
        if any(nn.parameter.is_lazy(parameter) for parameter in module._parameters.values()):
            raise UserError(
                f"layer {name!r} is lazy ({type(module).__name__}), its shape not yet known: "
                "run one batch through the model, then convert it"
            )
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


def _check_choice(
    found: Mapping[str, nn.Module], densities: Mapping[str, float], scope: str, floor: float
) -> None:
    """Raise UserError unless the chosen layers can be masked."""
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
    if scope == "global":
        check_global(densities, [_weight(found[name]).numel() for name in densities], floor)
    for name in densities:
        weight = _weight(found[name])
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


def _check_magnitudes(
    found: Mapping[str, nn.Module], masked: Mapping[str, float], init: str
) -> None:
    """Raise UserError unless the model's own weights can be the random weights of a subnetwork."""
    for name in masked:
        weight = _weight(found[name])
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


@torch.no_grad()
def _draw(
    weight: Tensor, seed: int, number: int, how: str, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """New values of a layer's weight, and its scores."""
    if weight.is_meta:
        return weight, torch.empty_like(weight)
    scores = draw_scores(weight.shape, seed, number)
    if how == "own":
        return weight.abs() * draw_signs(weight.shape, seed, number).to(weight), scores
    if how == "keep":
        return weight, scores
    return draw_weight(weight.shape, seed, number, init=how, **options), scores


def _exempt_names(found: Mapping[str, nn.Module], exempt: Exempt) -> set[str]:
    if callable(exempt):
        return {name for name, module in found.items() if exempt(name, module)}
    if isinstance(exempt, str):
        exempt = [exempt]
    return {name for pattern in exempt for name in _matching(found, pattern)}


def _densities(
    found: Mapping[str, nn.Module], density: Density, dense: set[str]
) -> dict[str, float]:
    patterns = density if isinstance(density, Mapping) else {"*": density}
    chosen: dict[str, float | str] = {}
    for pattern, value in patterns.items():
        if isinstance(value, str) and value != "dense":
            raise UserError(f"density of {pattern!r} = {value!r}: must be a number or 'dense'")
        if not isinstance(value, str):
            check_density(value)
        chosen |= dict.fromkeys(_matching(found, pattern), value)
    missing = [name for name in found if name not in chosen and name not in dense]
    if missing:
        raise UserError(
            f"no density for layer {missing[0]!r}: name it, or begin with a pattern for the rest:"
            " {'*': 0.2, ...}"
        )
    return {
        name: v for name in found if name not in dense and not isinstance(v := chosen[name], str)
    }


def _matching(found: Mapping[str, nn.Module], pattern: str) -> list[str]:
    if pattern in found:  # also a name with brackets, which mean something in a pattern
        return [pattern]
    names = [name for name in found if fnmatchcase(name, pattern)]
    if not names and pattern != "*":
        raise UserError(f"no layer is named {pattern!r}{did_you_mean(pattern, found)}")
    return names


def _refuse_shared_weights(model: nn.Module, masked: Mapping[str, float]) -> None:
    """Raise UserError if a parameter of a masked layer is, or lies where, another module's
    parameter is too.
    """
    owners: dict[Any, dict[str, None]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), {})[name] = None
            if addressable(parameter) and (
                at := parameter.data_ptr()
            ):  # 0 on the meta device, and of empty ones
                owners.setdefault((parameter.device, at), {})[name] = None
    for names in owners.values():
        if len(names) > 1 and (ours := [name for name in names if name in masked]):
            raise UserError(
                f"layers {', '.join(map(repr, names))} share a weight or bias: add {ours} to exempt"
            )
