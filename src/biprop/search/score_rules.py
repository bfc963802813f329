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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Direction = Literal["momentum", "adam", "muon"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration X <- a X + (b A + c A A) X with A = X X^T; with these all
singular values come near 1 in few steps, at the price of staying only within about 0.3 of it.
"""
NEWTON_SCHULZ_STEPS = 3
ADAM_BETAS = (0.9, 0.999)
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
    largest = matrix.abs().max()
    if not largest > 0:
        return torch.zeros_like(update)
    x = matrix / largest  # first, so that squares neither overflow nor vanish
    x = x / x.norm()  # singular values at most 1, where the iteration converges
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.T if is_tall else x).reshape(update.shape)
    return result


@torch.no_grad()
def root_mean_square(tensors: Iterable[Tensor]) -> Tensor:
    """Of all elements of all tensors: a scalar tensor."""
    squares, count = zip(*((t.square().sum(), t.numel()) for t in tensors), strict=True)
    mean: Tensor = torch.stack(squares).sum() / max(1, sum(count))
    root: Tensor = mean.sqrt()
    return root


def _rescaled(tensor: Tensor, scale: Tensor) -> Tensor:
    return tensor / scale if scale > TINY else tensor


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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    step = self._adam(parameter, parameter.grad)
                    parameter.sub_(group["lr"] * step)
        return loss

    def _step_scores(
        self, scores: nn.Parameter, lr: float, momentum: float, common: Tensor | None
    ) -> None:
        assert scores.grad is not None
        signs = self.weights[scores].sign() * scores.sign()
        gradient = scores.grad * signs
        update = self._update(scores, gradient, momentum)
        scale = root_mean_square([scores]) if common is None else common
        update = _rescaled(update, root_mean_square([update]))
        scores.copy_(_rescaled(scores, scale) - lr * update * signs)

    def _update(self, scores: nn.Parameter, gradient: Tensor, momentum: float) -> Tensor:
        if self.direction == "adam":
            return self._adam(scores, gradient)
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

    def _adam(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Adam's direction: the bias-corrected mean over the root of the bias-corrected square."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        first, second = ADAM_BETAS
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
        count = float(state["step"])
        mean = state["exp_avg"] / (1 - first**count)
        square = state["exp_avg_sq"] / (1 - second**count)
        direction: Tensor = mean / (square.sqrt() + 1e-8)
        return direction
