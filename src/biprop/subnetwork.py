"""`convert` turns a network of random weights into a subnetwork; `Subnetwork` keeps its masks and gains up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from . import binarize, prune
from .errors import did_you_mean
from .init import check as check_init
from .init import draw_scores, draw_signs, draw_weight
from .layers import Masked, mask_layer, maskable

Density = float | Mapping[str, "float | Literal['dense']"]
Exempt = Sequence[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class LayerReport:
    """One masked layer in numbers."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    gain: float

    @property
    def density(self) -> float:
        return self.kept / self.weights


class Subnetwork:
    """The masked layers of a converted model, and who is kept in them.

    Masks and gains are computed when scores change: by `update()`, or else by the first masked layer that runs after a backward
    pass or an in-place change such as `load_state_dict`. Writing through `.data` goes unnoticed: call `update()` then.

    Attributes:
        layers: name -> masked layer, in the model's order.
        exempt: names of maskable layers that stay dense and train.
        left_alone: name -> type of the other modules that own parameters.
        scope: "layer" (each layer keeps its density) or "global" (one ranking over all layers).
        densities: name -> density asked for; under global scope the same for all.
        seed: what `convert` drew the signs from; None if it kept the weights as they were.
        numbers: name -> the layer's number among the model's maskable layers, which the draw depends on.
    """

    def __init__(
        self,
        layers: dict[str, Masked],
        densities: dict[str, float],
        scope: str,
        floor: float,
        exempt: list[str],
        left_alone: dict[str, str],
        seed: int | None,
        numbers: dict[str, int],
    ) -> None:
        self.layers = layers
        self.densities = densities
        self.scope = scope
        self.floor = floor
        self.exempt = exempt
        self.left_alone = left_alone
        self.seed = seed
        self.numbers = numbers
        self._versions: list[int] = []
        self._rankings = [prune.Ranking() for _ in layers]  # of each layer; under global scope the first serves all
        for layer in layers.values():
            # A pre-hook on each layer, not one on the model: it also runs when a part of the model is called alone, and its
            # presence keeps nn.TransformerEncoderLayer off its fused path, which reads the raw weights.
            layer.register_forward_pre_hook(self._refresh)
        self.update()

    @property
    def weights(self) -> int:
        """Number of masked weights."""
        return sum(layer.weight.numel() for layer in self.layers.values())

    @property
    def kept(self) -> int:
        """Number of weights that the masks keep now."""
        return int(torch.stack([layer.mask.count_nonzero() for layer in self.layers.values()]).sum())

    @property
    def density(self) -> float:
        """Fraction of the masked weights that the masks keep now."""
        return self.kept / self.weights

    @torch.no_grad()
    def update(self) -> None:
        """Choose anew who is kept, exactly, and compute the gains.

        Raises:
            FloatingPointError: a score is infinite or not a number; the message names the layer.
        """
        if any(layer.weight.is_meta for layer in self.layers.values()):
            return
        for (name, layer), mask in zip(self.layers.items(), self._masks(), strict=True):
            # The divisors are the method's: int(k * n) under layerwise pruning, the true count under global pruning.
            divisor = None if self.scope == "global" else int(self.densities[name] * layer.weight.numel())
            layer.mask.copy_(mask)
            layer.gain.copy_(binarize.gain(layer.weight, mask, divisor))
            layer.had_gradient = False
        self._versions = self._current_versions()

    def set_density(self, density: float) -> None:
        """Change the density of all masked layers (the schedule of global pruning does) and update the masks."""
        self.set_densities(dict.fromkeys(self.densities, density))

    def set_densities(self, densities: Mapping[str, float]) -> None:
        """Change the density of every masked layer, by name, and update the masks."""
        if densities.keys() != self.layers.keys():
            raise ValueError(f"densities are given for other layers: {sorted(densities.keys() ^ self.layers.keys())[:4]}")
        for density in densities.values():
            check_density(density)
        self.densities = dict(densities)
        self.update()

    def report(self) -> list[LayerReport]:
        """One entry per masked layer."""
        return [
            LayerReport(name, tuple(m.weight.shape), m.weight.numel(), int(m.mask.count_nonzero()), float(m.gain))
            for name, m in self.layers.items()
        ]

    def __repr__(self) -> str:
        left = f", left alone: {', '.join(f'{n} ({t})' for n, t in self.left_alone.items())}" if self.left_alone else ""
        dense = f", dense: {', '.join(self.exempt)}" if self.exempt else ""
        return (
            f"Subnetwork({len(self.layers)} layers, {self.kept:,} of {self.weights:,} weights kept "
            f"({100 * self.density:.2f} %), scope {self.scope}{dense}{left})"
        )

    def _masks(self) -> list[torch.Tensor]:
        scores = [layer.scores for layer in self.layers.values()]
        try:
            if self.scope == "layer":
                kept = [prune.kept_count(s.numel(), k) for s, k in zip(scores, self.densities.values(), strict=True)]
                return prune.keep_top_of_each(scores, kept, self._rankings)
            density = next(iter(self.densities.values()))
            floors = [prune.floor_count(s.numel(), self.floor) for s in scores]
            return prune.keep_top_global(scores, prune.kept_count(self.weights, density), floors, self._rankings[0])
        except FloatingPointError as e:
            bad = next(name for name, m in self.layers.items() if not torch.isfinite(m.scores).all())
            raise FloatingPointError(f"layer {bad}: {e}") from None

    def _current_versions(self) -> list[int]:
        return [v for m in self.layers.values() for v in (m.scores._version, m.weight._version)]

    def _refresh(self, *_: Any) -> None:
        # A compiled graph cannot look: with torch.compile, call update() after the optimiser's step.
        if torch.compiler.is_compiling():
            return
        # Version counters alone are not enough: optimisers with fused=True change parameters without counting.
        if any(layer.had_gradient for layer in self.layers.values()) or self._versions != self._current_versions():
            self.update()


def check_density(density: float) -> None:
    """Raise ValueError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise ValueError(f"density = {density}: must be above 0 and at most 1 (the fraction of weights kept)")


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
    """Turn a model into a subnetwork of random binary weights, in place; its own forward stays as it is.

    Every Linear, Conv1d/2d/3d and ConvTranspose1d/2d/3d (grouped ones too) becomes a masked layer: its weight and bias are
    frozen, and it gets `scores`, one per weight, which train. Everything else is left alone, trainable as it was, and listed in
    `Subnetwork.left_alone`: normalisation layers, embeddings, recurrent cells, subclasses of the classes above.

    Args:
        model: any module; may itself be a layer.
        density: fraction of weights kept, above 0 and at most 1; or a mapping of layer name patterns (shell style) to
            densities or "dense", of which the last that matches counts: {"*": 0.2, "fc": 0.5, "conv1": "dense"}.
        scope: "layer" (every layer keeps its density) or "global" (one ranking over all; one density).
        exempt: patterns of names, or a function of (name, module), for layers that stay dense and train.
        seed: 0 .. 2**64 - 1, of signs, scores and, for a named `init`, magnitudes. A layer's draw depends on the seed and on
            its place among the model's maskable layers, not on torch's version, the device or which others are exempt.
        init: "own" keeps the magnitudes of the weights as the model drew them and draws only their signs anew; "keep" leaves the
            weights as they are (a trained model); otherwise one of `biprop.init.INITS`.
        mode, nonlinearity, scale_fan: see `biprop.draw_weight`.
        floor: under global scope, the fraction of its weights that each layer keeps in any case (at least one weight).

    Returns:
        The `Subnetwork`; its masks are ready.

    Raises:
        ValueError: a value out of range, a pattern that matches no layer, a layer without a density, nothing to mask, a model
            that is a subnetwork already, or a weight shared with another module.
    """
    found = {name: m for name, m in model.named_modules() if maskable(m)}
    densities = _densities(found, density, _exempt_names(found, exempt))
    _check(model, found, densities, scope, floor)
    if init not in ("own", "keep"):
        check_init(init, scale_fan, max(densities.values()))

    layers: dict[str, Masked] = {}
    for number, (name, module) in enumerate(found.items()):
        if name not in densities:
            continue
        _draw(module, seed, number, init, mode, nonlinearity, scale_fan, densities[name])
        layers[name] = module  # mask_layer changed its class
    exempt_names = [name for name in found if name not in densities]
    left_alone = {
        name: type(m).__name__
        for name, m in model.named_modules()
        if name not in found and next(m.parameters(recurse=False), None) is not None
    }
    numbers = {name: number for number, name in enumerate(found) if name in layers}
    return Subnetwork(layers, densities, scope, floor, exempt_names, left_alone, None if init == "keep" else seed, numbers)


def _check(model: nn.Module, found: Mapping[str, nn.Module], densities: Mapping[str, float], scope: str, floor: float) -> None:
    """Raise ValueError before anything is changed."""
    if any(isinstance(m, Masked) for m in model.modules()):
        raise ValueError("the model is a subnetwork already")
    if not densities:
        raise ValueError("nothing to mask: the model has no linear or convolutional layer that is not exempt")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope = {scope!r}: must be 'layer' or 'global'")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor = {floor}: must be between 0 and 1 (the fraction that each layer keeps in any case)")
    if scope == "global":
        if len(set(densities.values())) > 1:
            raise ValueError("global scope ranks all layers together: give one density (layers may be 'dense')")
        sizes = [_weight(found[name]).numel() for name in densities]
        prune.check_floors(prune.kept_count(sum(sizes), max(densities.values())), [prune.floor_count(n, floor) for n in sizes])
    _refuse_shared_weights(model, densities)


def _weight(module: nn.Module) -> nn.Parameter:
    assert isinstance(module.weight, nn.Parameter)
    return module.weight


@torch.no_grad()
def _draw(
    module: nn.Module, seed: int, number: int, how: str, mode: str, nonlinearity: str, scale_fan: bool, density: float
) -> None:
    weight = _weight(module)
    if weight.is_meta:
        mask_layer(module, torch.empty_like(weight))
        return
    if how == "own":
        weight.copy_(weight.abs() * draw_signs(weight.shape, seed, number).to(weight))
    elif how != "keep":
        weight.copy_(
            draw_weight(
                weight.shape, seed, number,
                init=how, mode=mode, nonlinearity=nonlinearity, scale_fan=scale_fan, density=density,
            )
        )  # fmt: skip
    mask_layer(module, draw_scores(weight.shape, seed, number))


def _exempt_names(found: Mapping[str, nn.Module], exempt: Exempt) -> set[str]:
    if callable(exempt):
        return {name for name, module in found.items() if exempt(name, module)}
    if isinstance(exempt, str):
        exempt = [exempt]
    return {name for pattern in exempt for name in _matching(found, pattern)}


def _densities(found: Mapping[str, nn.Module], density: Density, dense: set[str]) -> dict[str, float]:
    patterns = density if isinstance(density, Mapping) else {"*": density}
    chosen: dict[str, float | str] = {}
    for pattern, value in patterns.items():
        if isinstance(value, str) and value != "dense":
            raise ValueError(f"density of {pattern!r} = {value!r}: must be a number or 'dense'")
        if not isinstance(value, str):
            check_density(value)
        chosen |= dict.fromkeys(_matching(found, pattern), value)
    missing = [name for name in found if name not in chosen and name not in dense]
    if missing:
        raise ValueError(f"no density for layer {missing[0]!r}: name it, or add a pattern for the rest ('*')")
    return {name: v for name in found if name not in dense and not isinstance(v := chosen[name], str)}


def _matching(found: Mapping[str, nn.Module], pattern: str) -> list[str]:
    names = [name for name in found if fnmatchcase(name, pattern)]
    if not names and pattern != "*":
        raise ValueError(f"no layer is named {pattern!r}{did_you_mean(pattern, found)}")
    return names


def _refuse_shared_weights(model: nn.Module, masked: Mapping[str, float]) -> None:
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            first = owners.setdefault(id(parameter), name)
            if first != name and (first in masked or name in masked):
                raise ValueError(f"layers {first!r} and {name!r} share a weight: exempt both")
