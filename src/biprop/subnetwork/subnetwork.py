"""The subnetwork of a converted model: scores, masks, densities."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from . import binarize, masks
from .binarize import addressable
from .layers import Masked
from .masks import Ranking

T = TypeVar("T")


@dataclass(frozen=True)
class LayerReport:
    """One masked layer in numbers.

    Attributes:
        name: of the module.
        shape: of its weight: [outputs, inputs / groups, ...].
        weights: number of weights.
        kept: number of weights that the mask keeps.
        gain: magnitude of the kept weights.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    gain: float

    @property
    def density(self) -> float:
        """Fraction of the weights that is kept, in [0, 1]."""
        return self.kept / self.weights


class Subnetwork:
    """The masked layers of a converted model, and their masks.

    A mask always follows from the scores that its layer has in a forward pass: it is recomputed, by
    `update()` or by the layer, when the scores are other tensors than before, when their values
    have changed, and after a backward pass. Only writing through `.data` (`p.data.copy_(...)`) goes
    unnoticed, and in a model compiled by `torch.compile` any change in place but those of a
    training step and of `load_state_dict`: call `update()` then. Inside `torch.func`'s transforms
    and `torch.export`, the mask is computed from the scores given there, as part of what is
    transformed or exported.

    Attributes:
        layers: name -> masked layer, in the model's order.
        exempt: names of maskable layers that stay dense and train.
        left_alone: name -> type of the other modules that own parameters.
        scope: "layer" (each layer keeps its density) or "global" (one ranking over all layers).
        densities: name -> requested density; under global scope the same for all.
        seed: what `convert` drew the signs from; None if it kept the weights as they were.
        numbers: name -> the layer's number among the model's maskable layers, on which its draw
            depends.
        origin: an identifier that all copies of a subnetwork share.
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
        """See `biprop.convert`, which makes one."""
        self.layers = layers
        self.densities = densities
        self.scope = scope
        self.floor = floor
        self.exempt = exempt
        self.left_alone = left_alone
        self.seed = seed
        self.numbers = numbers
        self.origin = uuid.uuid4().hex
        # Under global scope, the first layer's ranking is that of all.
        self._rankings = {name: Ranking() for name in layers}
        self._passes = 0  # forward passes of the whole model that are running
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

    def update(self, check: bool = True) -> None:
        """Recompute all masks and gains: after each optimizer step, or any change of the scores.

        Layers on the meta device and sharded layers (FSDP) follow in their next forward pass.

        Args:
            check: False: do not make the CPU wait for a GPU. Where a score is not finite, the
                layer's gain is NaN, and with it the loss; see `check_finite`.

        Raises:
            FloatingPointError: a score is infinite or not a number; the message names the layer.
        """
        for layer in self.layers.values():
            layer.source.forget()
        self._refresh(check)

    def check_finite(self) -> None:
        """Raise FloatingPointError, with the layer's name, if a score is infinite or not a number.

        On a GPU, one host-device synchronisation.
        """
        self._raising_by_name(lambda layers: masks.check_finite(_scores(layers)), self.layers)

    def mask_and_gain(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """The mask and the gain of the scores and the weight that a layer has at this moment.

        Returns:
            Bool tensor of the shape of the weight, and a scalar tensor.

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
        if getattr(layer, "_is_replica", False):  # nn.DataParallel's copy, for one forward pass
            device = layer.scores.device
            return layer.mask.to(device), layer.gain.to(device)
        if not (layer.weight.is_meta or layer.source.came_from(layer.scores, layer.weight)):
            raise UserError(self._why_not_refreshed(layer))
        return layer.mask, layer.gain

    def set_density(self, density: float) -> None:
        """Set the density of all masked layers, as the schedule of global pruning does, and
        recompute the masks; errors as of `set_densities`.
        """
        self.set_densities(dict.fromkeys(self.densities, density))

    def set_densities(self, densities: Mapping[str, float]) -> None:
        """Set the density of each masked layer, by name, and recompute the masks.

        Raises:
            UserError: unknown or missing names, or a density out of range; the densities are then
                unchanged.
            FloatingPointError: as `update`.
        """
        different = sorted(densities.keys() ^ self.layers.keys())
        if different:
            raise UserError(f"densities are given for other layers: {different[:4]}")
        for density in densities.values():
            check_density(density)
        densities = {name: densities[name] for name in self.layers}
        if self.scope == "global":
            sizes = [layer.weight.numel() for layer in self.layers.values()]
            check_global(densities, sizes, self.floor)
        self.densities = densities
        self.update()

    def report(self) -> list[LayerReport]:
        """The masked layers in numbers, in the model's order.

        Raises:
            UserError: the model is on the meta device.
        """
        kept = self._kept()
        return [
            LayerReport(
                name,
                tuple(layer.weight.shape),
                layer.weight.numel(),
                kept[name],
                float(layer.gain),
            )
            for name, layer in self.layers.items()
        ]

    def __repr__(self) -> str:
        if self._is_meta:
            kept = f"{self.weights:,} weights on the meta device"
        else:
            kept = f"{self.kept:,} of {self.weights:,} weights kept ({100 * self.density:.2f} %)"
        dense = f", dense: {', '.join(self.exempt)}" if self.exempt else ""
        names = ", ".join(f"{name} ({kind})" for name, kind in self.left_alone.items())
        left = f", left alone: {names}" if names else ""
        return f"Subnetwork({len(self.layers)} layers, {kept}, scope {self.scope}{dense}{left})"

    @property
    def _is_meta(self) -> bool:
        return any(layer.weight.is_meta or layer.scores.is_meta for layer in self.layers.values())

    def _kept(self) -> dict[str, int]:
        """Name -> number of weights kept, with one host-device synchronisation for all."""
        if self._is_meta:
            raise UserError(
                "the model is on the meta device: its masks are known once it has numbers"
            )
        self._refresh()
        counts = [layer.mask.count_nonzero() for layer in self.layers.values()]
        stacked = torch.stack([count.to(counts[0].device) for count in counts])
        return dict(zip(self.layers, stacked.tolist(), strict=True))

    def _is_current(self, layer: Masked) -> bool:
        """Whether a layer's mask is that of its scores and weight, as far as that shows."""
        if not layer.source.holds(layer.scores, layer.weight):
            return False
        # Each layer looks at itself alone. In a common ranking, every mask depends on the scores of
        # all layers: they are checked when a pass of the whole model begins, or here where a part
        # of the model is called alone.
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
        return [
            name
            for name, layer in self.layers.items()
            if not layer.source.holds(layer.scores, layer.weight)
        ]

    @torch.no_grad()
    def _refresh(self, check: bool = True) -> None:
        """Recompute the masks that are out of date, of layers whose values can be read.

        `check`: as of `update`.
        """
        outdated = self._outdated()
        if outdated and torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise UserError(
                "the masks are older than the scores: call subnetwork.update() before"
                " torch.jit.trace"
            )
        if self.scope == "global" and outdated:
            outdated = list(self.layers)
        layers = {name: self.layers[name] for name in outdated if _is_readable(self.layers[name])}
        if not layers or (self.scope == "global" and len(layers) < len(self.layers)):
            return
        # Masks are ordinary tensors, also where the layer computes inside one of torch.func's
        # transforms; and tensors of inference mode could not be changed outside of it.
        with torch._C._DisableFuncTorch(), torch.inference_mode(False):
            new_masks = self._raising_by_name(lambda some: self._masks(some, check), layers)
            for (name, layer), mask in zip(layers.items(), new_masks, strict=True):
                gain = binarize.gain(layer.weight, mask, self._divisor(name))
                _store(layer, mask, gain if check else gain + _not_a_number_in(layer.scores))

    def _masks(self, layers: Mapping[str, Masked], check: bool) -> list[Tensor]:
        """The masks of these layers; under global scope of all layers.

        Raises:
            FloatingPointError: a score is infinite or not a number.
        """
        if self.scope == "layer":
            return self._layerwise_masks(layers, check)
        return self._global_masks(_scores(layers), check)

    def _raising_by_name(
        self, compute: Callable[[Mapping[str, Masked]], T], layers: Mapping[str, Masked]
    ) -> T:
        """`compute(layers)`; the message of its FloatingPointError gets the name of the layer."""
        try:
            return compute(layers)
        except FloatingPointError as e:
            name = next(
                name for name, layer in layers.items() if not torch.isfinite(layer.scores).all()
            )
            raise FloatingPointError(f"layer {name}: {e}") from None

    def _layerwise_masks(self, layers: Mapping[str, Masked], check: bool) -> list[Tensor]:
        kept = [
            masks.kept_count(layer.scores.numel(), self.densities[name])
            for name, layer in layers.items()
        ]
        rankings = [self._rankings[name] for name in layers]
        return masks.keep_top_of_each(_scores(layers), kept, rankings, check)

    def _global_masks(self, scores: Sequence[Tensor], check: bool) -> list[Tensor]:
        density = next(iter(self.densities.values()))
        kept = masks.kept_count(self.weights, density)
        floors = [masks.floor_count(layer.numel(), self.floor) for layer in scores]
        ranking = next(iter(self._rankings.values()))
        return masks.keep_top_global(scores, kept, floors, ranking, check)

    def _divisor(self, name: str) -> int | None:
        """The divisor of a layer's gain; None: the number of weights that it keeps.

        The method prescribes int(k * n) under layerwise pruning, the true count under global
        pruning.
        """
        if self.scope == "global":
            return None
        return int(self.densities[name] * self.layers[name].weight.numel())

    def _mask_and_gain_in_graph(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """`mask_and_gain` while a graph is being compiled or exported."""
        source = layer.source
        known = source.came_from(layer.scores, layer.weight) and not source.stale
        exporting = torch.compiler.is_exporting()
        if self.scope == "global" and not (known or exporting):
            _refresh_outside(self)
        elif exporting or not known:
            return self._mask_and_gain_traced(layer)
        # The compiled graph runs only where `stale` is False when it starts. Without update()
        # after the training step that may follow, the next pass compiles another graph, which
        # computes the masks.
        if torch.is_grad_enabled() and layer.scores.requires_grad:
            source.stale = True
        return layer.mask, layer.gain

    @torch.no_grad()
    def _mask_and_gain_traced(self, layer: Masked) -> tuple[Tensor, Tensor]:
        """`mask_and_gain` by tensor operations alone, without reading a value; the layer's own mask
        and gain stay as they are.

        Where a score is not finite, the gain is NaN: nothing can be raised here.
        """
        name, scores, weight = layer.source.layer, layer.scores.detach(), layer.weight.detach()
        if hasattr(scores, "full_tensor"):
            raise UserError(self._why_not_refreshed(layer))
        if self.scope == "global":
            raise UserError(
                "the common ranking of global scope cannot be computed inside torch.func's"
                " transforms or torch.export: convert with scope='layer', or use the plain model"
                " Ticket.from_model(model, subnetwork).to_model(new_model)"
            )
        kept = masks.kept_count(scores.numel(), self.densities[name])
        mask = masks.keep_top_traced(scores, kept)
        gain = binarize.gain(weight, mask, self._divisor(name))
        return mask, torch.where(torch.isfinite(scores).all(), gain, torch.nan)

    def _why_not_refreshed(self, layer: Masked) -> str:
        """Why a layer's mask cannot be computed where it is needed."""
        name, scores, weight = layer.source.layer, layer.scores, layer.weight
        if hasattr(scores, "full_tensor"):
            return (
                f"layer {name}: its scores are sharded while it computes: of sharded models only"
                " those of fully_shard work"
            )
        if scores.shape != weight.shape:
            shapes = f"its scores are {list(scores.shape)} and its weight is {list(weight.shape)}"
            return f"layer {name}: {shapes}: must be equal"
        return (
            f"layer {name}: global scope ranks the scores of all layers together, and some are not"
            " at hand while it computes: give the whole model to fully_shard in one call, or"
            " convert with scope='layer'"
        )


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason=(
        "global scope ranks all scores together: call subnetwork.update() after each optimiser step"
    )
)
def _refresh_outside(subnetwork: Subnetwork) -> None:
    """Recompute masks between two graphs of a compiled model: a common ranking reads values."""
    subnetwork._refresh()


def _is_readable(layer: Masked) -> bool:
    """Whether the values of a layer's scores and weight can be read: not on the meta device, not
    sharded.
    """
    scores, weight = layer.scores, layer.weight
    if scores.is_meta or weight.is_meta:
        return False
    if scores.shape != weight.shape or weight.shape != layer.mask.shape:
        return False
    return addressable(scores) and addressable(weight)


def _scores(layers: Mapping[str, Masked]) -> list[Tensor]:
    return [layer.scores for layer in layers.values()]


def _not_a_number_in(scores: Tensor) -> Tensor:
    """0, or NaN where a score is infinite or not a number: a scalar, without reading it."""
    return 0 * scores.detach().abs().amax() if scores.numel() else scores.new_zeros(())


def _store(layer: Masked, mask: Tensor, gain: Tensor) -> None:
    """Set a layer's mask and gain, and record what they were computed from."""
    if layer.mask.device == mask.device and layer.gain.dtype == gain.dtype:
        layer.mask.copy_(mask)  # in place: a compiled graph may hold these tensors
        layer.gain.copy_(gain)
    else:
        layer.mask, layer.gain = mask, gain
    layer.source.remember(layer.scores, layer.weight)


def sharded_part(model: nn.Module) -> str | None:
    """The name of a sharded module or parameter (FSDP, DTensor), or None.

    Each process holds a part only of a sharded parameter.
    """
    name: str
    for name, module in model.named_modules():
        classes = {base.__name__ for base in type(module).__mro__}
        if classes & {"FSDPModule", "FullyShardedDataParallel"}:
            return name
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):
            return name
    return None


def check_density(density: float) -> None:
    """Raise UserError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise UserError(
            f"density = {density}: must be above 0 and at most 1 (the fraction of weights kept)"
        )


def check_global(densities: Mapping[str, float], sizes: Sequence[int], floor: float) -> None:
    """Raise UserError unless layers of these numbers of weights can have a common ranking."""
    if len(set(densities.values())) > 1:
        raise UserError(
            "global scope ranks all layers together: give one density (layers may be 'dense')"
        )
    kept = masks.kept_count(sum(sizes), max(densities.values()))
    masks.check_floors(kept, [masks.floor_count(size, floor) for size in sizes])
