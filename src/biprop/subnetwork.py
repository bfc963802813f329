"""`convert` turns a network of random weights into a subnetwork; `Subnetwork` keeps its masks and gains up to date."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import binarize, prune
from .binarize import addressable
from .errors import UserError, did_you_mean
from .init import check as check_init
from .init import draw_scores, draw_signs, draw_weight
from .layers import Masked, mask_layer, maskable

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

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
    """The masked layers of a converted model, and their masks.

    A mask always follows from the scores that its layer has when it computes: it is computed anew, by `update()` or by the layer,
    when these are other tensors than before, or hold other numbers, or a backward pass has been there. Only writing through
    `.data` (`p.data.copy_(...)`) goes unnoticed, and in a model compiled by `torch.compile` any change in place but those of a
    training step and of `load_state_dict`: call `update()` then. Inside `torch.func`'s transforms and `torch.export`, the mask is
    computed from the scores given there, as part of what is transformed or exported.

    Attributes:
        layers: name -> masked layer, in the model's order.
        exempt: names of maskable layers that stay dense and train.
        left_alone: name -> type of the other modules that own parameters.
        scope: "layer" (each layer keeps its density) or "global" (one ranking over all layers).
        densities: name -> density asked for; under global scope the same for all.
        seed: what `convert` drew the signs from; None if it kept the weights as they were.
        numbers: name -> the layer's number among the model's maskable layers, which the draw depends on.
        origin: the same in all copies of a subnetwork, and in no other.
    """

    def __init__(
        self,
        model: nn.Module,
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
        self.origin = uuid.uuid4().hex
        # What each layer remembers of its last ranking; under global scope the first serves all.
        self._rankings = {name: prune.Ranking() for name in layers}
        self._passes = 0  # of the whole model, that are under way
        for layer in layers.values():
            layer.subnetwork = self
        if scope == "global":
            model.register_forward_pre_hook(self._begin_pass)
            model.register_forward_hook(self._end_pass, always_call=True)
        self.update()

    @property
    def weights(self) -> int:
        """Number of masked weights."""
        return sum(layer.weight.numel() for layer in self.layers.values())

    @property
    def kept(self) -> int:
        """Number of weights that the masks keep now."""
        return sum(self._kept().values())

    @property
    def density(self) -> float:
        """Fraction of the masked weights that the masks keep now."""
        return self.kept / self.weights

    def update(self) -> None:
        """Compute all masks and gains anew.

        Those of layers without numbers (on the meta device) and of sharded layers (FSDP) follow when the layers compute.

        Raises:
            FloatingPointError: a score is infinite or not a number; the message names the layer.
        """
        for layer in self.layers.values():
            layer.source.forget()
        self._refresh()

    def mask_and_gain(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """The mask and the gain of the scores and the weight that a layer has at this moment.

        Raises:
            FloatingPointError: as `update`.
            UserError: they cannot be computed here; the message says why.
        """
        if torch.compiler.is_compiling():
            return self._mask_and_gain_in_graph(layer)
        if self._is_current(layer):
            return layer.mask, layer.gain
        if not (addressable(layer.scores) and addressable(layer.weight)):
            return self._mask_and_gain_traced(layer)
        self._refresh()
        if getattr(layer, "_is_replica", False):  # nn.DataParallel's copy for the length of a forward pass
            return layer.mask.to(layer.scores.device), layer.gain.to(layer.scores.device)
        if not (layer.weight.is_meta or layer.source.came_from(layer.scores, layer.weight)):
            raise UserError(self._why_not_refreshed(layer))
        return layer.mask, layer.gain

    def set_density(self, density: float) -> None:
        """Change the density of all masked layers (the schedule of global pruning does) and update the masks."""
        self.set_densities(dict.fromkeys(self.densities, density))

    def set_densities(self, densities: Mapping[str, float]) -> None:
        """Change the density of every masked layer, by name, and update the masks.

        Raises:
            UserError: a name or a density that cannot be; the densities stay as they were then.
            FloatingPointError: as `update`.
        """
        if densities.keys() != self.layers.keys():
            raise UserError(f"densities are given for other layers: {sorted(densities.keys() ^ self.layers.keys())[:4]}")
        for density in densities.values():
            check_density(density)
        densities = {name: densities[name] for name in self.layers}
        if self.scope == "global":
            _check_global(densities, [layer.weight.numel() for layer in self.layers.values()], self.floor)
        self.densities = densities
        self.update()

    def report(self) -> list[LayerReport]:
        """One entry per masked layer."""
        kept = self._kept()
        return [
            LayerReport(name, tuple(m.weight.shape), m.weight.numel(), kept[name], float(m.gain))
            for name, m in self.layers.items()
        ]

    def __repr__(self) -> str:
        left = f", left alone: {', '.join(f'{n} ({t})' for n, t in self.left_alone.items())}" if self.left_alone else ""
        dense = f", dense: {', '.join(self.exempt)}" if self.exempt else ""
        if self._is_meta:
            kept = f"{self.weights:,} weights on the meta device"
        else:
            kept = f"{self.kept:,} of {self.weights:,} weights kept ({100 * self.density:.2f} %)"
        return f"Subnetwork({len(self.layers)} layers, {kept}, scope {self.scope}{dense}{left})"

    @property
    def _is_meta(self) -> bool:
        return any(layer.weight.is_meta or layer.scores.is_meta for layer in self.layers.values())

    def _kept(self) -> dict[str, int]:
        if self._is_meta:
            raise UserError("the model is on the meta device: its masks are known once it has numbers")
        self._refresh()
        counts = [layer.mask.count_nonzero() for layer in self.layers.values()]
        at_once = torch.stack([count.to(counts[0].device) for count in counts]).tolist()
        return dict(zip(self.layers, at_once, strict=True))

    def _is_current(self, layer: Masked) -> bool:
        if not layer.source.holds(layer.scores, layer.weight):
            return False
        # Each layer looks at itself alone. In a common ranking the scores of all have a say in every mask, and are looked at
        # when a pass of the model begins, or here where a part of it is called alone.
        return self.scope == "layer" or self._passes > 0 or not self._outdated()

    def _begin_pass(self, *_: Any) -> None:
        if not torch.compiler.is_compiling():
            self._refresh()
            self._passes += 1

    def _end_pass(self, *_: Any) -> None:
        if not torch.compiler.is_compiling():
            self._passes -= 1

    def _outdated(self) -> list[str]:
        """Names of the layers whose scores or weight are not those of their mask."""
        return [name for name, layer in self.layers.items() if not layer.source.holds(layer.scores, layer.weight)]

    @torch.no_grad()
    def _refresh(self) -> None:
        """Bring the masks up to date that are not, where the layers' numbers are at hand."""
        outdated = self._outdated()
        if outdated and torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise UserError("the masks are older than the scores: call subnetwork.update() before torch.jit.trace")
        if self.scope == "global" and outdated:
            outdated = list(self.layers)
        layers = {name: self.layers[name] for name in outdated if _is_readable(self.layers[name])}
        if not layers or (self.scope == "global" and len(layers) < len(self.layers)):
            return
        # These tensors are ordinary ones, also where the layer computes in one of torch.func's transforms; and masks of
        # inference mode could not be changed outside of it.
        with torch._C._DisableFuncTorch(), torch.inference_mode(False):
            for (name, layer), mask in zip(layers.items(), self._masks(layers), strict=True):
                _store(layer, mask, binarize.gain(layer.weight, mask, self._divisor(name)))

    def _masks(self, layers: Mapping[str, Masked]) -> list[Tensor]:
        """The masks of these layers; under global scope of all."""
        scores = [layer.scores for layer in layers.values()]
        try:
            if self.scope == "layer":
                kept = [prune.kept_count(s.numel(), self.densities[name]) for s, name in zip(scores, layers, strict=True)]
                return prune.keep_top_of_each(scores, kept, [self._rankings[name] for name in layers])
            density = next(iter(self.densities.values()))
            floors = [prune.floor_count(s.numel(), self.floor) for s in scores]
            ranking = next(iter(self._rankings.values()))
            return prune.keep_top_global(scores, prune.kept_count(self.weights, density), floors, ranking)
        except FloatingPointError as e:
            bad = next(name for name, m in layers.items() if not torch.isfinite(m.scores).all())
            raise FloatingPointError(f"layer {bad}: {e}") from None

    def _divisor(self, name: str) -> int | None:
        """What the layer's gain is divided by; None: by the number of weights that it keeps."""
        # The divisors are the method's: int(k * n) under layerwise pruning, the true count under global pruning.
        return None if self.scope == "global" else int(self.densities[name] * self.layers[name].weight.numel())

    def _mask_and_gain_in_graph(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """`mask_and_gain` where a program is being compiled or exported."""
        source = layer.source
        known = source.came_from(layer.scores, layer.weight) and not source.stale
        exporting = torch.compiler.is_exporting()
        if self.scope == "global" and not (known or exporting):
            _refresh_outside(self)
        elif exporting or not known:
            return self._mask_and_gain_traced(layer)
        # The compiled program runs where `stale` is False when it starts. Without update() after the step that may follow on
        # this pass, the next pass is another program, which computes the masks.
        if torch.is_grad_enabled() and layer.scores.requires_grad:
            source.stale = True
        return layer.mask, layer.gain

    @torch.no_grad()
    def _mask_and_gain_traced(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """`mask_and_gain` by tensor operations alone, without looking at any number; nothing of it is remembered.

        The gain is not a number where a score is none: nothing can be raised here.
        """
        name, scores, weight = layer.source.layer, layer.scores.detach(), layer.weight.detach()
        if hasattr(scores, "full_tensor"):
            raise UserError(self._why_not_refreshed(layer))
        if self.scope == "global":
            raise UserError(
                "the common ranking of global scope cannot be computed inside torch.func's transforms or torch.export: "
                "convert with scope='layer', or use the plain model Ticket.from_model(model, subnetwork).to_model(new_model)"
            )
        mask = prune.keep_top_traced(scores, prune.kept_count(scores.numel(), self.densities[name]))
        gain = binarize.gain(weight, mask, self._divisor(name))
        return mask, torch.where(torch.isfinite(scores).all(), gain, torch.nan)

    def _why_not_refreshed(self, layer: Masked) -> str:
        """Why a layer's mask cannot be computed where it is asked for."""
        name, scores = layer.source.layer, layer.scores
        if hasattr(scores, "full_tensor"):
            return f"layer {name}: its scores are sharded while it computes: of sharded models only those of fully_shard work"
        if scores.shape != layer.weight.shape:
            shapes = f"its scores are {list(scores.shape)} and its weight is {list(layer.weight.shape)}"
            return f"layer {name}: {shapes}: must be equal"
        return (
            f"layer {name}: global scope ranks the scores of all layers together, and some are not at hand while it computes: "
            "give the whole model to fully_shard in one call, or convert with scope='layer'"
        )


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="global scope ranks all scores together: call subnetwork.update() after each optimiser step"
)
def _refresh_outside(subnetwork: Subnetwork) -> None:
    """Between the parts of a compiled program: a common ranking looks at numbers."""
    subnetwork._refresh()


def _is_readable(layer: Masked) -> bool:
    """Whether all numbers of a layer's scores and weight are at hand: neither on the meta device nor sharded."""
    scores, weight = layer.scores, layer.weight
    if scores.is_meta or weight.is_meta or scores.shape != weight.shape or weight.shape != layer.mask.shape:
        return False
    return addressable(scores) and addressable(weight)


def _store(layer: Masked, mask: Tensor, gain: Tensor) -> None:
    """Give a layer its mask and gain, and note what they came from."""
    if layer.mask.device == mask.device and layer.gain.dtype == gain.dtype:
        layer.mask.copy_(mask)  # in place: a compiled program may hold these tensors
        layer.gain.copy_(gain)
    else:
        layer.mask, layer.gain = mask, gain
    layer.source.remember(layer.scores, layer.weight)


def sharded_part(model: nn.Module) -> str | None:
    """The name of a module or parameter of which each process holds a part only (FSDP, DTensor), or None."""
    name: str
    for name, module in model.named_modules():
        if {"FSDPModule", "FullyShardedDataParallel"} & {base.__name__ for base in type(module).__mro__}:
            return name
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):
            return name
    return None


def check_density(density: float) -> None:
    """Raise UserError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise UserError(f"density = {density}: must be above 0 and at most 1 (the fraction of weights kept)")


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
    `Subnetwork.left_alone`: normalisation layers, embeddings, recurrent cells, subclasses of the classes above, layers whose
    weight something else computes (weight norm, spectral norm, `torch.nn.utils.prune`).

    Args:
        model: any module; may itself be a layer. Its parameters are float32, bfloat16 or float16, or on the meta device.
        density: fraction of weights kept, above 0 and at most 1; or a mapping of layer names or name patterns (shell style) to
            densities or "dense", of which the last that matches counts: {"*": 0.2, "fc": 0.5, "conv1": "dense"}.
        scope: "layer" (every layer keeps its density) or "global" (one ranking over all; one density).
        exempt: names or patterns of names, or a function of (name, module), for layers that stay dense and train.
        seed: 0 .. 2**64 - 1, of signs, scores and, for a named `init`, magnitudes. A layer's draw depends on the seed and on
            its place among the model's maskable layers, not on torch's version, the device or which others are exempt.
        init: "own" keeps the magnitudes of the weights as the model drew them and draws only their signs anew; "keep" leaves the
            weights as they are (a trained model); otherwise one of `biprop.init.INITS`.
        mode, nonlinearity, scale_fan: see `biprop.init.draw_weight`.
        floor: under global scope, the fraction of its weights that each layer keeps in any case (at least one weight).

    Returns:
        The `Subnetwork`; its masks are ready.

    Raises:
        UserError: a value out of range, a pattern that matches no layer, a layer without a density, nothing to mask, a model that
            is a subnetwork already, a parameter shared with another module, lazy layers before the first batch, double
            precision, sharded parameters, weights that are all 0 or not finite. The model is then as it was.
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
        options = {"mode": mode, "nonlinearity": nonlinearity, "scale_fan": scale_fan, "density": densities[name]}
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
    return Subnetwork(model, layers, densities, scope, floor, exempt_names, left_alone, drawn_from, numbers)


def _check_model(model: nn.Module) -> None:
    """Raise UserError unless a subnetwork can be made of the model, whatever is chosen of it."""
    if torch.is_inference_mode_enabled():
        raise UserError("inside torch.inference_mode no scores can train: call convert outside of it")
    for name, module in model.named_modules():
        if isinstance(module, Masked):
            raise UserError(f"the model is a subnetwork already (layer {name!r}): convert a new model")
        if any(nn.parameter.is_lazy(parameter) for parameter in module._parameters.values()):
            raise UserError(
                f"layer {name!r} is lazy ({type(module).__name__}), its shape not yet known: "
                "run one batch through the model, then convert it"
            )
    if (name := sharded_part(model)) is not None:
        raise UserError(f"{name!r} is sharded: convert the model first, then shard it (fully_shard)")
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float64:
            raise UserError(f"parameter {name!r} is float64, and tickets hold float32: call model.float(), then convert it")


def _check_choice(found: Mapping[str, nn.Module], densities: Mapping[str, float], scope: str, floor: float) -> None:
    """Raise UserError unless the chosen layers can be masked."""
    if not densities:
        raise UserError("nothing to mask: the model has no linear or convolutional layer that is not exempt")
    if scope not in ("layer", "global"):
        raise UserError(f"scope = {scope!r}: must be 'layer' or 'global'")
    if not 0 <= floor <= 1:
        raise UserError(f"floor = {floor}: must be between 0 and 1 (the fraction that each layer keeps in any case)")
    if scope == "global":
        _check_global(densities, [_weight(found[name]).numel() for name in densities], floor)
    for name in densities:
        weight = _weight(found[name])
        if weight.dtype not in _FLOATS:
            raise UserError(f"layer {name!r} is {weight.dtype}: must be float32, bfloat16 or float16, or exempt")
        if not weight.numel():
            raise UserError(f"layer {name!r} has no weights, its shape is {list(weight.shape)}: exempt it")
        if weight.is_inference() or 0 in weight.stride():
            raise UserError(
                f"the weight of layer {name!r} cannot be changed in place (made in torch.inference_mode, or expanded): "
                "give it one of its own: layer.weight = torch.nn.Parameter(layer.weight.clone())"
            )


def _check_global(densities: Mapping[str, float], sizes: Sequence[int], floor: float) -> None:
    """Raise ValueError unless layers of these sizes can have a common ranking."""
    if len(set(densities.values())) > 1:
        raise UserError("global scope ranks all layers together: give one density (layers may be 'dense')")
    kept = prune.kept_count(sum(sizes), max(densities.values()))
    prune.check_floors(kept, [prune.floor_count(n, floor) for n in sizes])


def _check_magnitudes(found: Mapping[str, nn.Module], masked: Mapping[str, float], init: str) -> None:
    """Raise UserError unless the model's own weights can be the random weights of a subnetwork."""
    for name in masked:
        weight = _weight(found[name])
        if weight.is_meta:
            continue
        if not torch.isfinite(weight).all():
            raise UserError(f"layer {name!r} has a weight that is infinite or not a number")
        if not weight.any():
            raise UserError(
                f"all weights of layer {name!r} are 0, so its scores would get no gradient under init={init!r}: "
                "exempt it, or let convert draw its weights (init='kaiming_normal')"
            )


def _weight(module: nn.Module) -> nn.Parameter:
    assert isinstance(module.weight, nn.Parameter)
    return module.weight


@torch.no_grad()
def _draw(weight: Tensor, seed: int, number: int, how: str, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
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


def _densities(found: Mapping[str, nn.Module], density: Density, dense: set[str]) -> dict[str, float]:
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
        raise UserError(f"no density for layer {missing[0]!r}: name it, or begin with a pattern for the rest: {{'*': 0.2, ...}}")
    return {name: v for name in found if name not in dense and not isinstance(v := chosen[name], str)}


def _matching(found: Mapping[str, nn.Module], pattern: str) -> list[str]:
    if pattern in found:  # also a name with brackets, which mean something in a pattern
        return [pattern]
    names = [name for name in found if fnmatchcase(name, pattern)]
    if not names and pattern != "*":
        raise UserError(f"no layer is named {pattern!r}{did_you_mean(pattern, found)}")
    return names


def _refuse_shared_weights(model: nn.Module, masked: Mapping[str, float]) -> None:
    """Raise UserError if a parameter of a masked layer is, or lies where, another module's parameter is too."""
    owners: dict[Any, dict[str, None]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), {})[name] = None
            if addressable(parameter) and (at := parameter.data_ptr()):  # 0 on the meta device, and of empty ones
                owners.setdefault((parameter.device, at), {})[name] = None
    for names in owners.values():
        if len(names) > 1 and (ours := [name for name in names if name in masked]):
            raise UserError(f"layers {', '.join(map(repr, names))} share a weight or bias: add {ours} to exempt")
