"""Optimizers with the parameter groups of the original research code, and their saved states."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..subnetwork.layers import Masked
from .score_rules import Direction, ScoreOptimizer


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    no_bn_decay: bool = False,
    score_norm: bool = False,
    dense_lr: float = 0.01,
    is_global: bool = False,
) -> torch.optim.Optimizer:
    """SGD, Adam ("adam") or Muon ("muon") over the parameters that require gradients.

    SGD has two groups, in this order: parameters with "bn" in their name, and the rest; the batch
    norms of shortcuts and of plain networks count as rest. Order and groups are those of the
    original research code, so that its optimizer states load. Adam has one group and takes the
    learning rate only.

    With `score_norm`, and always with "muon", scores are updated by `search.score_rules`, which has
    one scale for all of them if `is_global`, and the other parameters by Adam with `dense_lr`.
    """
    if score_norm or name == "muon":
        return _score_optimizer(model, name, lr, dense_lr, momentum, is_global)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if name == "adam":
        return torch.optim.Adam(list(named.values()), lr=lr)
    batch_norm_decay = 0.0 if no_bn_decay else weight_decay
    groups = _sgd_groups(named, batch_norm_decay, weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


_DIRECTIONS: dict[str, Direction] = {"sgd": "momentum", "adam": "adam", "muon": "muon"}


def _score_optimizer(
    model: nn.Module, name: str, lr: float, dense_lr: float, momentum: float, is_global: bool
) -> ScoreOptimizer:
    masked = [module for module in model.modules() if isinstance(module, Masked)]
    scores = {m.scores: m.weight for m in masked if m.scores.requires_grad}
    others = [p for p in model.parameters() if p.requires_grad and p not in scores]
    return ScoreOptimizer(
        scores,
        others,
        _DIRECTIONS[name],
        lr=lr,
        lr_others=dense_lr,
        momentum=momentum,
        is_global=is_global,
    )


def _sgd_groups(
    named: dict[str, nn.Parameter], batch_norm_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    batch_norm = [parameter for name, parameter in named.items() if "bn" in name]
    rest = [parameter for name, parameter in named.items() if "bn" not in name]
    return [
        {"params": batch_norm, "weight_decay": batch_norm_decay},
        {"params": rest, "weight_decay": weight_decay},
    ]


def load_state(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Load the per-parameter state of a saved optimizer: momentum buffers, or Adam's moments.

    Learning rate, momentum and the other options stay those of `optimizer`.

    Args:
        optimizer: over the same parameters in the same groups.
        saved: a `state_dict()`, read from a file.

    Raises:
        ValueError: it is of another optimizer, or of other parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    entries, sizes = _entries(saved)
    if sizes != [len(group["params"]) for group in own]:
        raise ValueError("it is of other parameters")
    _check_entries(optimizer, entries)
    states = {number: entry for number, entry in enumerate(entries) if entry}
    optimizer.load_state_dict({"state": states, "param_groups": own})


def _entries(saved: Any) -> tuple[list[Any], list[int]]:
    """A saved optimizer's entry for each parameter, None where it has none, and the sizes of its
    groups.

    Raises:
        ValueError: it is no optimizer's state, or has entries for no parameter.
    """
    try:
        groups = [list(group["params"]) for group in saved["param_groups"]]
        entry_of = dict(saved["state"])
        entries = [entry_of.pop(number, None) for group in groups for number in group]
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"no state of an optimizer: {type(e).__name__}: {e}") from None
    if entry_of:
        raise ValueError("it is of other parameters")
    return entries, [len(group) for group in groups]


def _check_entries(optimizer: torch.optim.Optimizer, entries: list[Any]) -> None:
    """Raise ValueError unless the entries, one a parameter, are an optimizer's of this kind."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, entry in zip(parameters, entries, strict=True):
        if entry:
            _check_entry(entry, _names_in_state(optimizer, parameter), parameter)


def _names_in_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> set[str]:
    """What an optimizer's state holds of a parameter."""
    if isinstance(optimizer, ScoreOptimizer):
        return optimizer.names_in_state(parameter)
    is_adam = isinstance(optimizer, torch.optim.Adam)
    return {"step", "exp_avg", "exp_avg_sq"} if is_adam else {"momentum_buffer"}


def _check_entry(entry: Any, names: set[str], parameter: nn.Parameter) -> None:
    """Raise ValueError unless it is an optimizer's state of a parameter, with values `names`."""
    if not isinstance(entry, dict) or set(entry) != names:
        raise ValueError("it is of another kind")
    for name, value in entry.items():
        if name == "momentum_buffer" and value is None:
            continue  # of a parameter that had no gradient yet
        if name == "step" and type(value) in (int, float) and math.isfinite(value):
            continue  # older versions of PyTorch count with plain numbers
        _check_tensor(name, value, torch.Size() if name == "step" else parameter.shape)


def _check_tensor(name: str, value: Any, shape: torch.Size) -> None:
    """Raise ValueError unless it is a finite tensor of this shape."""
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    if not is_float or value.shape != shape:
        raise ValueError(f"its {name} is not of the shape {tuple(shape)}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"its {name} has a number that is infinite or none")
