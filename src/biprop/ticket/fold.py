"""Batch norm in half the numbers: weight and bias become the scale and the shift of each channel.

In evaluation batch norm computes x * scale + shift, with scale = weight / sqrt(running_var + eps)
and shift = bias - running_mean * scale. With a running mean of 0 and a running variance of 1 - eps,
weight and bias are scale and shift themselves, and a compact ticket leaves the running statistics
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TicketError
from ..models.graph import deviation, graph_of
from ..models.operations import Graph
from .state import FOLDED, neutral_statistics

State = dict[str, NDArray[np.float32]]
_LEAVES = (*FOLDED, "running_mean", "running_var")


def batch_norms(
    network: Mapping[str, Any] | None, graph: Graph | None, state: State
) -> dict[str, float]:
    """Names of the batch norms that can be folded -> epsilon.

    They have a weight and a bias and nothing else, and nothing else reads these.

    Args:
        network, graph: of the ticket.
        state: of the ticket.
    """
    epsilons = _of_graph(graph) if graph else _of_registry(network)
    modules: dict[str, set[str]] = {}
    for name in state:
        prefix, _, leaf = name.rpartition(".")
        modules.setdefault(prefix, set()).add(leaf)
    return {
        prefix: eps
        for prefix, eps in epsilons.items()
        if prefix and modules.get(prefix) == set(_LEAVES) and _are_vectors(state, prefix)
    }


def _are_vectors(state: State, prefix: str) -> bool:
    shapes = {state[f"{prefix}.{leaf}"].shape for leaf in _LEAVES}
    return len(shapes) == 1 and len(shapes.pop()) == 1


def _of_registry(network: Mapping[str, Any] | None) -> dict[str, float]:
    if network is None:
        return {}
    try:
        return {node.name: node.eps for node in graph_of(network) if node.op == "norm"}
    except TicketError:  # a network that this version does not have
        return {}


def _of_graph(graph: Graph) -> dict[str, float]:
    reads = Counter(name for operation in graph.operations for name in operation.tensors)
    epsilons = {}
    for operation in graph.operations:
        prefix = (operation.tensors[0] or "").rpartition(".")[0] if operation.tensors else ""
        names = tuple(f"{prefix}.{leaf}" for leaf in _LEAVES)
        is_alone = all(reads[name] == 1 for name in names)
        if operation.op == "batch_norm" and operation.tensors == names and is_alone:
            epsilons[prefix] = float(operation.named["eps"])
    return {prefix: eps for prefix, eps in epsilons.items() if eps < 1}


def fold(state: State, norms: Mapping[str, float]) -> State:
    """A state in which these batch norms are folded; one that has no scale stays as it is.

    Args:
        state: tensors by name.
        norms: of `batch_norms`.
    """
    folded = dict(state)
    for prefix, eps in norms.items():
        weight, bias, mean, variance = (
            state[f"{prefix}.{leaf}"].astype(np.float64) for leaf in _LEAVES
        )
        try:
            scale = weight / deviation(variance, prefix, eps)
        except TicketError:
            continue
        values = dict(zip(FOLDED, (scale, bias - mean * scale), strict=True))
        if all(np.abs(value).max(initial=0) < 3e38 for value in values.values()):
            floats = {leaf: value.astype(np.float32) for leaf, value in values.items()}
            floats |= neutral_statistics(len(weight), eps)
            folded |= {f"{prefix}.{leaf}": value for leaf, value in floats.items()}
    return folded


def folded_norms(state: State, norms: Mapping[str, float]) -> dict[str, float]:
    """Those of `norms` that are folded."""
    return {prefix: eps for prefix, eps in norms.items() if _is_folded(state, prefix, eps)}


def _is_folded(state: State, prefix: str, eps: float) -> bool:
    neutral = neutral_statistics(len(state[f"{prefix}.weight"]), eps)
    return all(np.array_equal(state[f"{prefix}.{leaf}"], neutral[leaf]) for leaf in neutral)
