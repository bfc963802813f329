"""Between PyTorch and tickets: the layers and numbers of a model, and the module of a ticket."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .. import rng
from ..errors import TicketError, UserError, one_line
from ..models.build import build
from ..models.interpreter import Interpreter
from ..models.operations import Graph, check_graph
from ..models.trace import trace
from ..subnetwork import Subnetwork
from ..subnetwork.attention import join_attention, split_attention
from ..subnetwork.layers import MASKED_CLASS, Masked
from ..subnetwork.subnetwork import sharded_part
from . import entropy_coding
from .layer import Layer, Plane, Signs

_COUNTER = "num_batches_tracked"
"""A buffer of batch norm that only training uses: it is not in tickets."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@dataclass
class ModelContent:
    """What a ticket stores of a model.

    Attributes:
        seed: of the subnetwork, if the signs of a layer follow from it.
        layers: the masked layers, in the order of `modules`.
        state: everything else, name to float32 array.
        modules: the model's masked layers.
    """

    seed: int | None
    layers: list[Layer]
    state: dict[str, NDArray[np.float32]]
    modules: list[Masked]

    @torch.no_grad()
    def check_weights(self, rebuilt: Iterable[NDArray[np.float32]]) -> None:
        """Compare every weight with what a ticket rebuilds, one array a layer.

        Raises:
            TicketError: a weight differs.
        """
        for layer, module, weight in zip(self.layers, self.modules, rebuilt, strict=True):
            expected = module.effective_weight().cpu().double().numpy()
            if differing := int(np.count_nonzero(weight != expected)):
                raise TicketError(
                    f"layer {layer.name}: {differing} weights cannot be rebuilt exactly"
                )


def content_of(model: nn.Module, subnetwork: Subnetwork) -> ModelContent:
    """Read a model for a ticket; arguments and errors as of `Ticket.from_model`."""
    subnetwork = _subnetwork_of(model, subnetwork)
    subnetwork.update()
    masked = {name: module for name, module in model.named_modules() if isinstance(module, Masked)}
    layers = _layers(model, masked, subnetwork)
    modules = list(masked.values())
    state = _dense_state(model, layers, modules)
    uses_seed = any(layer.signs == "seed" for layer in layers)
    return ModelContent(subnetwork.seed if uses_seed else None, layers, state, modules)


def _layers(model: nn.Module, masked: Mapping[str, Masked], subnetwork: Subnetwork) -> list[Layer]:
    plain = plain_names(model)
    layers = []
    for name, module in masked.items():
        if module.weight.dtype == torch.float64:
            raise TicketError(
                f"layer {name} is float64, and a ticket holds float32: call model.float() first"
            )
        number = subnetwork.numbers[module.source.layer]
        plain_name = plain(f"{name}.").removesuffix(".")
        layers.append(_layer(plain_name, number, module, subnetwork.seed))
    return layers


def _dense_state(
    model: nn.Module, layers: Sequence[Layer], modules: Sequence[Masked]
) -> dict[str, NDArray[np.float32]]:
    """The tensors that are neither masked weights nor scores, by name."""
    keys = {id(module.weight): layer.key for layer, module in zip(layers, modules, strict=True)}
    scores = {id(module.scores) for module in modules}
    state = {}
    for name, value in _state(model).items():
        key = keys.get(id(value))
        if key not in (None, name):
            raise TicketError(
                f"{name} and {key} are one weight: a module under two names cannot be packed"
            )
        if key is None and id(value) not in scores and not name.endswith(_COUNTER):
            state[name] = _as_float32(name, value)
    return state


def _as_float32(name: str, value: Tensor) -> NDArray[np.float32]:
    """The tensor's numbers.

    Raises:
        TicketError: float32 does not hold them exactly, or they are not finite.
    """
    exact = value.detach().cpu().double().numpy()
    numbers = exact.astype(np.float32)
    if not np.isfinite(numbers).all() or (numbers != exact).any():
        raise TicketError(
            f"{name} has a number that float32 does not hold: this network cannot be packed"
        )
    return numbers


def _subnetwork_of(model: nn.Module, subnetwork: Subnetwork) -> Subnetwork:
    """The subnetwork that the model's masked layers belong to: the given one, or its copy if the
    model is a copy.

    Raises:
        TicketError: there is none, or it is not the one given, or the model is sharded.
    """
    owner = _only_owner(model)
    if not isinstance(owner, Subnetwork) or owner.origin != subnetwork.origin:
        raise TicketError(
            "the subnetwork is another model's: pass the one that convert returned for this model"
        )
    if (name := sharded_part(model)) is not None:
        raise TicketError(
            f"{name!r} is sharded: load"
            " torch.distributed.checkpoint.state_dict.get_model_state_dict(model,"
            " options=StateDictOptions(full_state_dict=True)) into a model converted alike and not"
            " sharded, and pass that"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise TicketError(f"{name} is on the meta device: it has no numbers yet")
    return owner


def _only_owner(model: nn.Module) -> object:
    """The one subnetwork that has masked layers in the model."""
    masked = [module for module in model.modules() if isinstance(module, Masked)]
    owners = {id(module.subnetwork): module.subnetwork for module in masked}
    if not owners:
        raise TicketError(
            "the model has no masked layer: pass the model that convert made a subnetwork of, or a"
            " copy of it"
        )
    if len(owners) > 1:
        raise TicketError(
            f"the model holds layers of {len(owners)} subnetworks: pass the part that is to be"
            " packed"
        )
    (owner,) = owners.values()
    return owner


def plain_names(model: nn.Module) -> Callable[[str], str]:
    """A function from names of a state dict to the names that they have without wrappers.

    Wrappers are DataParallel, DistributedDataParallel, AveragedModel and what `torch.compile`
    returns, around the model or a part of it. What belongs to a wrapper itself has no name without
    it: "".
    """
    wrappers = _wrappers(model)

    def plain(name: str) -> str:
        for prefix, attribute in wrappers:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if not rest.startswith(attribute):
                    return ""
                name = prefix + rest.removeprefix(attribute)
        return name

    return plain


def _wrappers(model: nn.Module) -> list[tuple[str, str]]:
    """(prefix, attribute) of each wrapper, both ending in a dot if not empty; the innermost first:
    its model's tensors are `prefix + attribute + name`.
    """
    wrappers = []
    for name, module in model.named_modules():
        attribute = _wrapped_attribute(module)
        if attribute:
            wrappers.append((f"{name}." if name else "", f"{attribute}."))
    return sorted(wrappers, key=lambda wrapper: len(wrapper[0]), reverse=True)


def _wrapped_attribute(module: nn.Module) -> str | None:
    """The attribute of a wrapper that is the wrapped model; None: it is no wrapper."""
    if isinstance(module, _WRAPPERS):
        return "module"
    is_compiled = type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules
    return "_orig_mod" if is_compiled else None


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors, as `state_dict` has them, under their plain names."""
    plain = plain_names(model)
    tensors = {plain(name): value for name, value in model.state_dict(keep_vars=True).items()}
    tensors.pop("", None)
    return tensors


def _layer(name: str, number: int, module: Masked, seed: int | None) -> Layer:
    weight = module.weight.detach().cpu().float().numpy()
    # A kept weight that is exactly 0 (some initialisations draw it) contributes nothing: for the
    # ticket it is not kept.
    mask = module.mask.cpu().numpy() & (weight != 0)
    signs, stored = _signs(weight, mask, number, seed)
    return Layer(
        name=name,
        number=number,
        shape=weight.shape,
        kept=int(np.count_nonzero(mask)),
        gain=float(module.gain),
        mask=np.packbits(mask.ravel(), bitorder="little"),
        signs=signs,
        stored=stored,
        model=entropy_coding.best_model(mask),
    )


def _signs(
    weight: NDArray[np.float32], mask: NDArray[np.bool_], number: int, seed: int | None
) -> tuple[Signs, Plane | None]:
    """Where the signs of a layer come from, and their plane if they have to be stored."""
    positive = weight[mask] > 0
    if positive.all():
        return "positive", None
    if seed is not None:
        drawn = rng.sign_bits(seed, number, weight.size).view(np.bool_).reshape(weight.shape)
        if np.array_equal(drawn[mask], positive):
            return "seed", None
    return "stored", np.packbits(positive, bitorder="little")


@torch.no_grad()
def plain_copy(model: nn.Module, weights: Iterable[NDArray[np.float32]]) -> nn.Module:
    """A copy of a model in evaluation mode, on the CPU and in float32, without wrappers, with plain
    layers in the place of masked ones.

    Args:
        model: with masked layers; it is not changed.
        weights: that they compute with, in the order of the layers.
    """
    plain = _unwrapped(copy.deepcopy(model)).cpu().float().eval()
    _remove_hooks_of_subnetworks(plain)
    plain_classes: dict[Any, Any] = {masked: kind for kind, masked in MASKED_CLASS.items()}
    masked = [module for module in plain.modules() if isinstance(module, Masked)]
    for module, weight in zip(masked, weights, strict=True):
        module.__class__ = plain_classes[type(module)]
        for name in ("scores", "mask", "gain", "source", "subnetwork"):
            delattr(module, name)
        module.weight.copy_(torch.from_numpy(weight))
    return plain


def _remove_hooks_of_subnetworks(model: nn.Module) -> None:
    """Remove what a subnetwork of global scope does before and after each forward pass."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), Subnetwork):
                    del hooks[number]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model without wrappers around it or its parts; its parts are changed in place."""
    while attribute := _wrapped_attribute(model):
        model = getattr(model, attribute)
    for name, child in model.named_children():
        setattr(model, name, _unwrapped(child))
    return model


def traced(plain: nn.Module, example: Tensor) -> tuple[Graph, dict[str, NDArray[np.float32]]]:
    """The graph of a copy of `plain_copy`, and its constants by name; see `models.trace.trace`."""
    result = trace(plain, _as_plain(example))
    return result.graph, {n: _as_float32(n, value) for n, value in result.constants.items()}


def _as_plain(example: Any) -> Any:
    """An example on the CPU; floats in float32."""
    if not isinstance(example, Tensor):
        return example
    example = example.detach().cpu()
    return example.float() if example.is_floating_point() else example


@torch.no_grad()
def check_same(rebuilt: nn.Module, plain: nn.Module, example: Tensor) -> None:
    """Compare what a ticket's module and the model compute.

    Raises:
        TicketError: they differ by more than rounding.
        UserError: the model returns no tensor.
    """
    expected, result = (module(_as_plain(example)) for module in (plain, rebuilt))
    if not isinstance(expected, Tensor):
        kind = type(expected).__name__
        raise UserError(f"the model returns a {kind}: must return one tensor; wrap it")
    if not torch.allclose(result, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise TicketError(
            "the model's graph computes other results for the example than the model itself: does"
            " it compute something random, or depend on the values of its input?"
        )


def interpreter(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A module that computes a graph, with tensors of these shapes.

    Raises:
        TicketError: the graph does not fit them.
    """
    check_graph(graph, shapes)
    return Interpreter(graph, shapes)


def build_from(
    options: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]]
) -> nn.Module:
    """A new network of the registry.

    Args:
        options: `Ticket.network`.
        shapes: of all tensors of the ticket; they are compared before memory is taken for the
            network.

    Raises:
        TicketError: no such network, or one with other tensors.
    """
    if options is None:
        raise TicketError(
            "of a network that biprop does not know: pass to_model a new module of its class, or"
            " pack it anew with Ticket.from_model(..., example=batch)"
        )
    arguments = {**options, "input_size": tuple(options["input_size"])}
    try:
        with torch.device("meta"):
            _check_fit(shapes, build(**arguments))
        return build(**arguments)
    except TicketError:
        raise
    except (ValueError, RuntimeError) as e:
        raise TicketError(f"its network cannot be built: {one_line(e)}") from None


@torch.no_grad()
def fill(
    model: nn.Module,
    tensors: Mapping[str, Callable[[], NDArray[np.float32]]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Copy a ticket's tensors into a module, and set it to evaluation.

    Args:
        model: a new module of the ticket's class.
        tensors: name to a function that makes the array, so that only one of them is in memory at a
            time.
        shapes: of all of them.

    Raises:
        TicketError: they do not fit the model, or it is a subnetwork, lazy, or on the meta device.
    """
    if any(isinstance(module, Masked) for module in model.modules()):
        raise TicketError("the model is a subnetwork already: pass a new module")
    has_split = any(name.endswith("in_proj.weight") for name in shapes)
    split = split_attention(model) if has_split else []  # as `convert` did to the packed model
    try:
        _check_fit(shapes, model)
    except TicketError:
        join_attention(split)
        raise
    state = _state(model)
    for name, value in state.items():
        if value.is_meta:
            raise TicketError(
                f"{name} of the model is on the meta device: call"
                ' model.to_empty(device="cpu") before'
            )
    for name, make in tensors.items():
        state[name].copy_(torch.from_numpy(make()))
    model.eval()


def _check_fit(given: Mapping[str, tuple[int, ...]], model: nn.Module) -> None:
    """Compare the shapes of a ticket with those of a model.

    Raises:
        TicketError: they differ, or the model is lazy; the message names a tensor.
    """
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise TicketError(
                f"does not fit the model: {name} is lazy, its shape not yet known: run one batch"
                " through the model"
            )
    state = {name: value for name, value in _state(model).items() if not name.endswith(_COUNTER)}
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    for name in [*wanted, *given]:
        here, there = given.get(name, "absent"), wanted.get(name, "absent")
        if here != there:
            raise TicketError(f"does not fit the model: {name} is {here} here and {there} there")


class OnPixels(nn.Module):
    """A network with its normalisation: pixels to logits.

    That is RobustBench's convention: its benchmarks and attacks take this module as it is.
    Gradients reach the pixels.

    Args:
        model: takes normalised images, or other normalised samples.
        mean, std: of its normalisation, per channel, of pixels in [0, 1]; of the values as they are
            where samples are no pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes] of pixels [B, C, H, W]: floats in [0, 1], or uint8 in 0 .. 255; of
        other samples [B, C, ...] as they are.
        """
        channel = (1, -1, *(1,) * (pixels.dim() - 2))
        mean, std = self.mean.view(channel), self.std.view(channel)
        if pixels.dtype == torch.uint8:
            normalised = pixels * (1 / (255 * std)) - mean / std
        else:  # a mean may be much larger than the deviation
            normalised = (pixels - mean) / std
        logits: Tensor = self.model(normalised)
        return logits
