"""From a trained subnetwork to a ticket, checked weight by weight, and from a ticket to a PyTorch module."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from . import __version__, checkpoint, coding, rng, runs
from . import config as options
from .errors import UserError, one_line, shown
from .evaluate import Counts
from .layers import Masked
from .models import build, takes_width
from .subnetwork import Subnetwork, sharded_part
from .ticket import Layer, Plane, Signs, Ticket, TicketError

if TYPE_CHECKING:
    from .deck import Deck
    from .gate import Gating

_COUNTER = "num_batches_tracked"
"""Of batch norm, and of no use but in training: not in tickets."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_NOT_TOLD = (
    "name", "log_dir", "results", "device", "workers", "print_freq", "save_every", "save_minutes", "histograms", "baseline",
    "data", "trainer",
)  # fmt: skip
"""Options that change nothing of what is found, or that say where something lies on this machine."""


def from_model(model: nn.Module, subnetwork: Subnetwork, **about: Any) -> Ticket:
    """See `Ticket.from_model`."""
    subnetwork = _subnetwork_of(model, subnetwork)
    subnetwork.update()
    plain = plain_names(model)
    masked = {name: module for name, module in model.named_modules() if isinstance(module, Masked)}
    layers = []
    for name, module in masked.items():
        if module.weight.dtype == torch.float64:
            raise TicketError(f"layer {name} is float64, and a ticket holds float32: call model.float() first")
        number = subnetwork.numbers[module.source.layer]
        layers.append(_layer(plain(f"{name}.").removesuffix("."), number, module, subnetwork.seed))
    ours = {id(module.weight): layer.key for layer, module in zip(layers, masked.values(), strict=True)}
    scores = {id(module.scores) for module in masked.values()}
    state = {}
    for name, value in _state(model).items():
        if id(value) in ours and ours[id(value)] != name:
            raise TicketError(f"{name} and {ours[id(value)]} are one weight: a module under two names cannot be packed")
        if id(value) in ours or id(value) in scores or name.endswith(_COUNTER):
            continue
        exact = value.detach().cpu().double().numpy()
        state[name] = exact.astype(np.float32)
        if not np.isfinite(state[name]).all() or (state[name] != exact).any():
            raise TicketError(f"{name} has a number that float32 does not hold: this network cannot be packed")
    uses_seed = any(layer.signs == "seed" for layer in layers)
    ticket = Ticket(about.pop("network", None), subnetwork.seed if uses_seed else None, layers, state, **about)
    _verify(ticket, list(masked.values()))
    return ticket


def _subnetwork_of(model: nn.Module, subnetwork: Subnetwork) -> Subnetwork:
    """The subnetwork that the model's masked layers belong to: the given one, or its copy if the model is a copy.

    Raises:
        TicketError: there is none, or it is not the one given, or the model is sharded.
    """
    owners = {id(m.subnetwork): m.subnetwork for m in model.modules() if isinstance(m, Masked)}
    if not owners:
        raise TicketError("the model has no masked layer: pass the model that convert made a subnetwork of, or a copy of it")
    if len(owners) > 1:
        raise TicketError(f"the model holds layers of {len(owners)} subnetworks: pass the part that is to be packed")
    (owner,) = owners.values()
    if not isinstance(owner, Subnetwork) or owner.origin != subnetwork.origin:
        raise TicketError("the subnetwork is another model's: pass the one that convert returned for this model")
    if (name := sharded_part(model)) is not None:
        raise TicketError(
            f"{name!r} is sharded: load torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options="
            "StateDictOptions(full_state_dict=True)) into a model converted alike and not sharded, and pass that"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise TicketError(f"{name} is on the meta device: it has no numbers yet")
    return owner


def plain_names(model: nn.Module) -> Callable[[str], str]:
    """A function from names of a state dict to the names that they have without wrappers.

    Wrappers are DataParallel, DistributedDataParallel, AveragedModel and what `torch.compile` returns, around the model or a
    part of it. What belongs to a wrapper itself has no name without it: "".
    """
    inner = ((prefix, module, _held_as(module)) for prefix, module in model.named_modules())
    wrappers = [(f"{prefix}." if prefix else "", f"{held}.") for prefix, module, held in inner if held]
    wrappers.sort(key=lambda wrapper: len(wrapper[0]), reverse=True)  # the innermost first

    def plain(name: str) -> str:
        for prefix, held in wrappers:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if not rest.startswith(held):
                    return ""
                name = prefix + rest.removeprefix(held)
        return name

    return plain


def _held_as(module: nn.Module) -> str | None:
    """The name under which a wrapper holds its model; None: it is no wrapper."""
    if isinstance(module, _WRAPPERS):
        return "module"
    return "_orig_mod" if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules else None


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors, as `state_dict` has them, under their plain names."""
    plain = plain_names(model)
    named = {plain(name): value for name, value in model.state_dict(keep_vars=True).items()}
    named.pop("", None)
    return named


def _layer(name: str, number: int, module: Masked, seed: int | None) -> Layer:
    weight = module.weight.detach().cpu().float().numpy()
    # A kept weight that is exactly 0 (some initialisations draw it) contributes nothing: for the ticket it is not kept.
    mask = module.mask.cpu().numpy() & (weight != 0)
    positive = weight[mask] > 0
    signs: Signs = "stored"
    stored: Plane | None = np.packbits(positive, bitorder="little")
    if positive.all():
        signs, stored = "positive", None
    elif seed is not None:
        drawn = rng.sign_bits(seed, number, weight.size).view(np.bool_).reshape(weight.shape)
        if np.array_equal(drawn[mask], positive):
            signs, stored = "seed", None
    return Layer(
        name, number, weight.shape, int(np.count_nonzero(mask)), float(module.gain),
        np.packbits(mask.ravel(), bitorder="little"), signs, stored, coding.best_model(mask),
    )  # fmt: skip


def _verify(ticket: Ticket, modules: Sequence[Masked]) -> None:
    """Rebuild the ticket from its own bytes and compare every weight."""
    try:
        rebuilt = Ticket.from_bytes(ticket.to_bytes(), ticket.weights)
    except ValueError as e:
        raise TicketError(f"this network cannot be packed: {e}") from None
    for layer, module in zip(rebuilt.layers, modules, strict=True):
        with torch.no_grad():
            expected = module.effective_weight().cpu().double().numpy()
        if differing := int(np.count_nonzero(rebuilt.weight(layer) != expected)):
            raise TicketError(f"layer {layer.name}: {differing} weights cannot be rebuilt exactly")


def to_model(ticket: Ticket, model: nn.Module | None = None) -> nn.Module:
    """See `Ticket.to_model`."""
    if model is None:
        if ticket.network is None:
            raise TicketError("of a network that biprop does not know: pass to_model a new module of its class")
        options = {**ticket.network, "input_size": tuple(ticket.network["input_size"])}
        try:
            with torch.device("meta"):  # its size is known before memory is taken for it
                _check_fit(ticket, build(**options))
            model = build(**options)
        except (ValueError, RuntimeError) as e:
            raise e if isinstance(e, TicketError) else TicketError(f"its network cannot be built: {one_line(e)}") from None
    if any(isinstance(module, Masked) for module in model.modules()):
        raise TicketError("the model is a subnetwork already: pass a new module")
    _check_fit(ticket, model)
    state = _state(model)
    if on_meta := next((name for name, value in state.items() if value.is_meta), None):
        raise TicketError(f'{on_meta} of the model is on the meta device: call model.to_empty(device="cpu") before')
    with torch.no_grad():
        for layer in ticket.layers:
            state[layer.key].copy_(torch.from_numpy(ticket.weight(layer)))
        for name, value in ticket.state.items():
            state[name].copy_(torch.from_numpy(np.array(value)))
    return model.eval()


def _check_fit(ticket: Ticket, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise TicketError(f"does not fit the model: {name} is lazy, its shape not yet known: run one batch through the model")
    wanted = {name: tuple(value.shape) for name, value in _state(model).items() if not name.endswith(_COUNTER)}
    given = {layer.key: layer.shape for layer in ticket.layers} | {name: value.shape for name, value in ticket.state.items()}
    if wanted != given:
        name = next(n for n in [*wanted, *given] if wanted.get(n) != given.get(n))
        raise TicketError(
            f"does not fit the model: {name} is {given.get(name, 'absent')} here and {wanted.get(name, 'absent')} there"
        )


class OnPixels(nn.Module):
    """A network with its normalisation: pixels to logits.

    That is RobustBench's convention: its benchmarks and attacks take this module as it is. Gradients reach the pixels.

    Args:
        model: takes normalised images.
        mean, std: of its normalisation, per channel, of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes] of pixels [B, C, H, W]: floats in [0, 1], or uint8 in 0 .. 255."""
        scale = 255 if pixels.dtype == torch.uint8 else 1
        return self.model(pixels * (1 / (scale * self.std)) - self.mean / self.std)  # type: ignore[no-any-return]


class DeckModel(nn.Module):
    """A deck on pixels, in the same convention; the gate's weights count as constants for gradients.

    Args:
        deck: its cards become PyTorch modules.
        gating: as of `Deck.predict`.
    """

    def __init__(self, deck: Deck, gating: Gating) -> None:
        super().__init__()
        self.deck, self.gating = deck, gating
        self.cards = nn.ModuleList(OnPixels(to_model(card), card.mean, card.std) for card in deck.cards)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """The logarithms [B, classes] of the deck's probabilities for pixels [B, C, H, W]: floats in [0, 1], or uint8."""
        seen = pixels if pixels.dtype == torch.uint8 else (pixels.detach() * 255).round().clamp(0, 255).to(torch.uint8)
        weights = torch.from_numpy(self.deck.card_weights(seen.cpu().numpy(), self.gating)).to(pixels.device)
        answers = torch.stack([card(pixels).log_softmax(1) for card in self.cards], dim=1)
        return (answers + weights[..., None].log()).logsumexp(1)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path means: itself, or the best one of a run folder.

    Raises:
        UserError: neither.
    """
    path = Path(path)
    best = path / runs.CHECKPOINTS / runs.BEST
    if path.is_dir() and not best.is_file():
        raise UserError(f"{path}: no run folder: it has no {runs.CHECKPOINTS}/{runs.BEST}")
    return best if path.is_dir() else path


def pack(
    path: str | Path,
    flags: Mapping[str, Any],
    compact: bool = False,
    warn: Callable[[list[str]], None] = lambda lines: None,
) -> Ticket:
    """The ticket of a run folder or a checkpoint, of this program or of the original research code.

    Args:
        path: see `find_checkpoint`.
        flags: options for what the file does not say, as of `checkpoint.read`.
        compact: store batch norm and other numbers in 16 bits.
        warn: takes what the user should know of the checkpoint, one line each.

    Raises:
        UserError: see `checkpoint.restore`; or a dense baseline.
        TicketError: see `Ticket.from_model`.
    """
    file = find_checkpoint(path)
    restored = checkpoint.restore(file, flags)
    warn(restored.content.warnings)
    network, content = restored.network, restored.content
    if network.subnetwork is None:
        raise UserError(f"{file}: a dense baseline: its weights are trained, so there is no ticket in it")
    config, task = content.config, content.task
    return from_model(
        network.model,
        network.subnetwork,
        network={
            "name": config.arch, "num_classes": task.num_classes, "channels": task.channels, "input_size": list(task.input_size),
            "bn_type": config.bn_type, "width_mult": float(config.width_mult) if takes_width(config.arch) else 1.0,
            "head_bias": config.last_layer_dense, "ancestor": network.of_ancestor,
        },
        input_size=(task.channels, *task.input_size),
        classes=checkpoint.class_names(content),
        mean=restored.mean or (),
        std=restored.std or (),
        found=_found(content, file),
        compact=compact,
    )  # fmt: skip


def _text(value: Any) -> str | None:
    return shown(value) if isinstance(value, str) else None


def _counts(record: Any, file: Path) -> dict[str, Any] | None:
    try:
        return None if record is None else asdict(Counts.of(record))
    except ValueError as e:
        raise UserError(f"{file}: a damaged checkpoint: {one_line(e)}") from None


def _found(content: checkpoint.Content, file: Path) -> dict[str, Any]:
    """How the network was found: options that differ from the default, accuracies, epoch, versions, date of packing."""
    default, ours = options.as_dict(options.Config()), content.ours
    found: dict[str, Any] = {
        "options": {k: v for k, v in options.as_dict(content.config).items() if k not in _NOT_TOLD and v != default[k]},
        "epoch": content.epoch,
        "packed": date.today().isoformat(),
        "by": f"biprop {__version__}, torch {torch.__version__}",
    }
    if ours is None:
        return found | {"origin": "the original research code"}
    found |= {"config": _text(ours.get("config_name")), "searched_by": f"biprop {_text(ours.get('version'))}"}
    found |= {"selected_on": content.config.select_on, "validation": _counts(ours.get("best_validation"), file)}
    result = file.parent.parent / runs.RESULT
    if file.name == runs.BEST and result.is_file():
        try:
            told = json.loads(result.read_text(encoding="utf-8"))
            if told["epoch"] == content.epoch:  # else the run went on, and is not finished
                found["test"] = told["test"]
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(f"{result}: damaged: {one_line(e)}; remove it to pack without the test accuracy") from None
    return found
