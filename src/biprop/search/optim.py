"""Optimisers with the original parameter groups, and learning-rate policies as data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..subnetwork.layers import Masked
from .score_rules import Direction, ScoreOptimizer


def build_optimizer(
    model: nn.Module, name: str, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False,
    no_bn_decay: bool = False, score_norm: bool = False, dense_lr: float = 0.01, is_global: bool = False,
) -> torch.optim.Optimizer:  # fmt: skip
    """SGD or Adam over the parameters that train.

    SGD has two groups, in this order: parameters with "bn" in their name, and the rest; the batch
    norms of shortcuts and of plain networks count as rest. Order and groups are those of the
    original research code, so that its optimiser states load. Adam has one group and takes the
    learning rate only.

    With `score_norm`, and always with "muon", the scores follow `search.score_rules`, which has one
    scale for all of them if `is_global`; other parameters that train follow Adam with `dense_lr`.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if score_norm or name == "muon":
        return _score_optimizer(model, name, lr, dense_lr, momentum, is_global)
    if name == "adam":
        return torch.optim.Adam([p for _, p in named], lr=lr)
    groups: list[dict[str, Any]] = [
        {
            "params": [p for n, p in named if "bn" in n],
            "weight_decay": 0.0 if no_bn_decay else weight_decay,
        },
        {"params": [p for n, p in named if "bn" not in n], "weight_decay": weight_decay},
    ]
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


def load_state(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Take over what a saved optimiser has gathered of each parameter: momenta and moments.

    Options stay this optimiser's.

    Args:
        optimizer: over the same parameters in the same groups.
        saved: its `state_dict()`, read from a file.

    Raises:
        ValueError: it is of another optimiser, or of other parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    try:
        groups = [list(group["params"]) for group in saved["param_groups"]]
        state = dict(saved["state"])
        numbers = [number for group in groups for number in group]
        entries = [state.pop(number, None) for number in numbers]
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"no state of an optimiser: {type(e).__name__}: {e}") from None
    if [len(group) for group in groups] != [len(group["params"]) for group in own] or state:
        raise ValueError("it is of other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, entry in zip(parameters, entries, strict=True):
        if entry:
            _check_entry(entry, _gathers(optimizer, parameter), parameter)
    gathered = {number: entry for number, entry in enumerate(entries) if entry}
    optimizer.load_state_dict({"state": gathered, "param_groups": own})


def _gathers(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> set[str]:
    """The names of what an optimiser gathers of a parameter."""
    if isinstance(optimizer, ScoreOptimizer):
        return optimizer.gathers(parameter)
    is_adam = isinstance(optimizer, torch.optim.Adam)
    return {"step", "exp_avg", "exp_avg_sq"} if is_adam else {"momentum_buffer"}


def _check_entry(entry: Any, names: set[str], parameter: nn.Parameter) -> None:
    """Raise ValueError unless it is what an optimiser gathers under `names` of a parameter."""
    if not isinstance(entry, dict) or set(entry) != names:
        raise ValueError("it is of another kind")
    for name, value in entry.items():
        if name == "momentum_buffer" and value is None:
            continue  # of a parameter that had no gradient yet
        if name == "step" and type(value) in (int, float) and math.isfinite(value):
            continue  # older versions of PyTorch count with plain numbers
        shape = torch.Size() if name == "step" else parameter.shape
        if (
            not isinstance(value, torch.Tensor)
            or value.shape != shape
            or not value.is_floating_point()
        ):
            raise ValueError(f"its {name} is not of the shape {tuple(shape)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"its {name} has a number that is infinite or none")
