"""Update rules for scores that are rescaled at every step: momentum, Adam, or Muon in weight space.

A score ranks a weight by its absolute value, so only its size relative to the other scores of its
layer matters. The published rule (SGD on raw scores) lets the scale of the scores drift, and with
it the relative size of a step. Here every layer's scores are brought back to root mean square 1 at
each step, and the step has a size of its own, the learning rate.

For the scores S of a layer with random weights W, and the straight-through gradient g that reaches
them (`subnetwork.binarize.masked_binary_weight`: g = dL/dw * W * sign(S)), one step is ::

    G = g * sign(W) * sign(S)            the gradient in weight space, times |W|
    M = momentum * M + G                 (Adam: first and second moments of G)
    U = direction(G, M)                  see below
    U = U / rms(U)
    S = S / rms(S)
    S = S - lr * U * sign(W) * sign(S)

Directions: `momentum` takes Nesterov's G + momentum * M; `adam` the bias-corrected ratio of the
moments (Kingma and Ba, ICLR 2015); `muon` the nearest semi-orthogonal matrix of Nesterov's
direction, by a Newton-Schulz iteration on the layer's matrix [out, in * kernel] (Jordan et al.,
"Muon: an optimizer for hidden layers in neural networks", 2024). W and S enter by their signs only,
because an update of a score and one of its weight differ by exactly these signs.

Under global pruning all layers share one ranking: then one scale, the root mean square of all
scores together, takes the place of the layer's own.

No step reads a value back from a GPU: a host-device synchronisation in each layer would take longer
than the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

Direction = Literal["momentum", "adam", "muon"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration X <- a X + (b A + c A A) X with A = X X^T; with these all
singular values come near 1 in few steps, at the price of staying only within about 0.3 of it.
"""
NEWTON_SCHULZ_STEPS = 3
ADAM: dict[str, Any] = {
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
}
"""Arguments of PyTorch's Adam besides the learning rate."""
TINY = 1e-20
"""Below this root mean square a tensor counts as zero: it is not rescaled."""


def orthogonalized(update: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """A matrix with the singular vectors of `update` and singular values near 1.

    Args:
        update: [out, ...] float, read as a matrix [out, in * kernel].
        steps: Newton-Schulz iterations.

    Returns:
        Tensor of the same shape. A matrix of one row is only rescaled; zeros stay zeros.
    """
    matrix = update.reshape(len(update), -1)
    is_tall = matrix.shape[0] > matrix.shape[1]
    if is_tall:
        matrix = matrix.T
    # First by the largest element, so that squares neither overflow nor vanish.
    x = matrix / _nonzero(matrix.abs().amax())
    # Singular values at most 1, where the iteration converges. The norm is at least 1 now, except
    # that of zeros.
    x = x / x.norm().clamp(min=1)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    result: Tensor = (x.T if is_tall else x).reshape(update.shape)
    return result


@torch.no_grad()
def root_mean_square(tensors: Iterable[Tensor]) -> Tensor:
    """Of all elements of all tensors: a scalar tensor."""
    squares, count = zip(*((t.square().sum(), t.numel()) for t in tensors), strict=True)
    mean: Tensor = torch.stack(squares).sum() / max(1, sum(count))
    root: Tensor = mean.sqrt()
    return root


def _nonzero(scale: Tensor, least: float = 0.0) -> Tensor:
    """The scalar tensor, or 1 where it is not above `least`: a divisor for zeros, which stay zeros.
    A scale that is not a number stays as it is.
    """
    return scale.masked_fill(scale <= least, 1.0)


class ScoreOptimizer(torch.optim.Optimizer):
    """The rules above for scores, and Adam for every other parameter that trains.

    Args:
        scores: each layer's scores and its random weights, which have the same shape.
        others: batch-norm factors, biases, scales.
        direction: of a score's step.
        lr: step of a score, in units of the scores' root mean square.
        lr_others: learning rate of Adam for the others; their group holds `lr_ratio`, by which a
            schedule of `lr` is multiplied for it.
        momentum: of the scores, in [0, 1).
        is_global: one scale for all scores, for global pruning.
    """

    def __init__(
        self,
        scores: Mapping[nn.Parameter, Tensor],
        others: Iterable[nn.Parameter],
        direction: Direction,
        *,
        lr: float,
        lr_others: float,
        momentum: float = 0.85,
        is_global: bool = False,
    ) -> None:
        self.weights = dict(scores)
        self.direction, self.is_global = direction, is_global
        groups: list[dict[str, Any]] = [{"params": list(scores), "lr": lr, "momentum": momentum}]
        if rest := list(others):
            ratio = lr_others / lr if lr else 0.0
            groups.append({"params": rest, "lr": lr_others, "lr_ratio": ratio})
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = closure() if closure else None
        scores, *rest = self.param_groups
        trained = [parameter for parameter in scores["params"] if parameter.grad is not None]
        if trained:
            common = root_mean_square(trained) if self.is_global else None
            for parameter in trained:
                self._step_scores(parameter, scores["lr"], scores["momentum"], common)
        for group in rest:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            self._adam(parameters, gradients, parameters, group["lr"])
        return loss

    def _step_scores(
        self, scores: nn.Parameter, lr: float, momentum: float, common: Tensor | None
    ) -> None:
        assert scores.grad is not None
        signs = self.weights[scores].sign() * scores.sign()
        gradient = scores.grad * signs
        update = self._update(scores, gradient, momentum)
        scale = root_mean_square([scores]) if common is None else common
        update = update / _nonzero(root_mean_square([update]), TINY)
        scores.copy_(scores / _nonzero(scale, TINY) - lr * update * signs)

    def _update(self, scores: nn.Parameter, gradient: Tensor, momentum: float) -> Tensor:
        if self.direction == "adam":
            minus_direction = torch.zeros_like(gradient)
            self._adam([scores], [gradient], [minus_direction], lr=1.0)
            return -minus_direction
        state = self.state[scores]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.mul_(momentum).add_(gradient)
        nesterov = gradient + momentum * buffer
        return orthogonalized(nesterov) if self.direction == "muon" else nesterov

    def names_in_state(self, parameter: nn.Parameter) -> set[str]:
        """The names of what the state holds of a parameter."""
        is_momentum = parameter in self.weights and self.direction != "adam"
        return {"momentum_buffer"} if is_momentum else {"step", "exp_avg", "exp_avg_sq"}

    def _adam(
        self,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Tensor],
        targets: Sequence[Tensor],
        lr: float,
    ) -> None:
        """PyTorch's step of Adam.

        Args:
            parameters: whose moments it takes and updates.
            gradients: one for each.
            targets: what it changes, in place: `lr` times the direction is subtracted.
        """
        states = [self._moments(parameter) for parameter in parameters]
        averages, squares, steps = (
            [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        adam([*targets], [*gradients], averages, squares, [], steps, lr=lr, **ADAM)

    def _moments(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Adam's state of a parameter, which starts at 0."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        # On the CPU, also where the parameters are on a GPU: it is read at every step. In states
        # from files it may be a plain number.
        state["step"] = torch.as_tensor(state.get("step", 0), dtype=torch.float32, device="cpu")
        return state
