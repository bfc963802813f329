"""Update rules for scores that are rescaled at every step."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from biprop.search.score_rules import ScoreOptimizer, orthogonalized, root_mean_square


def scores_and_weights(*shapes: tuple[int, ...], seed: int = 0) -> dict[nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        nn.Parameter(torch.randn(shape, generator=generator)): torch.randn(
            shape, generator=generator
        )
        for shape in shapes
    }


def give_gradients(optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (40, 6), (6, 40), (5, 5)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalized(update, steps=6)
    assert result.shape == update.shape
    u, _, v = torch.linalg.svd(update.reshape(shape[0], -1), full_matrices=False)
    turned = u.T @ result.reshape(shape[0], -1) @ v.T
    assert torch.allclose(turned, turned.diag().diag(), atol=1e-4)
    assert (turned.diag() - 1).abs().max() < 0.4


@pytest.mark.parametrize("factor", [1e-25, 1e-3, 1e3, 1e25])
def test_the_scale_of_the_gradient_does_not_matter(factor: float) -> None:
    update = torch.randn(16, 9, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(orthogonalized(factor * update), orthogonalized(update), atol=1e-4)


def test_a_layer_of_one_row_is_rescaled_and_zeros_stay() -> None:
    row = torch.randn(1, 30, generator=torch.Generator().manual_seed(3))
    result = orthogonalized(row)
    cosine = (result * row).sum() / (result.norm() * row.norm())
    assert cosine == pytest.approx(1, abs=1e-5)
    assert torch.equal(orthogonalized(torch.zeros(4, 5)), torch.zeros(4, 5))


@pytest.mark.parametrize("direction", ["momentum", "adam", "muon"])
def test_a_step_has_the_size_of_the_learning_rate(direction: Any) -> None:
    """Scores have root mean square 1 before the step, and the update has that of the rate."""
    layers = scores_and_weights((12, 4, 3, 3), (10, 48))
    before = {scores: scores.detach().clone() for scores in layers}
    optimizer = ScoreOptimizer(layers, [], direction, lr=0.1, lr_others=0.0)
    give_gradients(optimizer, 5)
    optimizer.step()
    for scores, old in before.items():
        moved = scores - old / root_mean_square([old])
        assert root_mean_square([moved]) == pytest.approx(0.1, rel=1e-5)


def test_momentum_is_the_formula() -> None:
    layers = scores_and_weights((6, 7))
    (scores,), (weight,) = layers, layers.values()
    optimizer = ScoreOptimizer(layers, [], "momentum", lr=0.2, lr_others=0.0, momentum=0.7)
    expected, buffer = scores.detach().double(), torch.zeros(6, 7, dtype=torch.float64)
    for step in range(4):
        give_gradients(optimizer, step)
        assert scores.grad is not None
        signs = weight.double().sign() * expected.sign()
        gradient = scores.grad.double() * signs
        buffer = 0.7 * buffer + gradient
        update = gradient + 0.7 * buffer
        update /= update.square().mean().sqrt()
        expected = expected / expected.square().mean().sqrt() - 0.2 * update * signs
        optimizer.step()
    assert torch.allclose(scores.detach().double(), expected, atol=1e-5)


def test_what_is_no_score_takes_steps_of_adam() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    optimizer = ScoreOptimizer(scores_and_weights((2, 2)), [ours], "muon", lr=0.1, lr_others=0.01)
    reference = torch.optim.Adam([theirs], lr=0.01)
    for step in range(5):
        give_gradients(optimizer, step)
        assert ours.grad is not None
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_one_scale_for_all_keeps_the_ranking_between_layers() -> None:
    layers = scores_and_weights((5, 5), (6, 6))
    (small, large) = layers
    with torch.no_grad():
        large.mul_(10)
    for is_global in (True, False):
        optimizer = ScoreOptimizer(layers, [], "muon", lr=0.0, lr_others=0.0, is_global=is_global)
        give_gradients(optimizer, 1)
        optimizer.step()
        ratio = float(root_mean_square([large]) / root_mean_square([small]))
        assert (ratio > 5) == is_global
    assert root_mean_square([small]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("direction", ["momentum", "adam", "muon"])
def test_a_saved_state_goes_on_as_if_nothing_had_been(direction: Any) -> None:
    def made() -> tuple[ScoreOptimizer, list[nn.Parameter]]:
        layers, other = scores_and_weights((6, 2, 3, 3)), nn.Parameter(torch.ones(4))
        optimizer = ScoreOptimizer(layers, [other], direction, lr=0.1, lr_others=0.01)
        return optimizer, [*layers, other]

    whole, parameters = made()
    for step in range(6):
        give_gradients(whole, step)
        whole.step()
        if step == 2:
            saved = copy.deepcopy(whole.state_dict())
            values = [parameter.detach().clone() for parameter in parameters]
    again, resumed = made()
    again.load_state_dict(saved)
    with torch.no_grad():
        for parameter, value in zip(resumed, values, strict=True):
            parameter.copy_(value)
    for step in range(3, 6):
        give_gradients(again, step)
        again.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, resumed, strict=True))


def test_scores_and_gradients_that_are_all_zero_stay_finite() -> None:
    layers = {nn.Parameter(torch.zeros(4, 4)): torch.ones(4, 4)}
    optimizer = ScoreOptimizer(layers, [], "muon", lr=0.1, lr_others=0.0)
    for parameter in layers:
        parameter.grad = torch.zeros(4, 4)
    optimizer.step()
    assert all(torch.equal(parameter, torch.zeros(4, 4)) for parameter in layers)


@pytest.mark.parametrize("direction", ["momentum", "adam", "muon"])
def test_a_gradient_that_is_no_number_shows_in_the_scores(direction: Any) -> None:
    layers = scores_and_weights((4, 4))
    optimizer = ScoreOptimizer(layers, [], direction, lr=0.1, lr_others=0.0)
    for parameter in layers:
        parameter.grad = torch.full((4, 4), torch.nan)
    optimizer.step()
    assert all(parameter.isnan().all() for parameter in layers)


def test_steps_counted_by_plain_numbers_go_on() -> None:
    """As in states of older versions of PyTorch."""
    layers, other = scores_and_weights((2, 2)), nn.Parameter(torch.ones(3))
    optimizer = ScoreOptimizer(layers, [other], "adam", lr=0.1, lr_others=0.1)
    for step in range(2):
        give_gradients(optimizer, step)
        optimizer.step()
        for state in optimizer.state.values():
            assert state["step"] == step + 1
            state["step"] = step + 1


def test_muon_is_the_formula() -> None:
    """In weight space: the signs of the weights do not drop out, as they do element by element."""
    layers = scores_and_weights((6, 2, 3, 3))
    (scores,), (weight,) = layers, layers.values()
    before = scores.detach().clone()
    optimizer = ScoreOptimizer(layers, [], "muon", lr=0.3, lr_others=0.0, momentum=0.5)
    give_gradients(optimizer, 7)
    assert scores.grad is not None
    signs = weight.sign() * before.sign()
    update = orthogonalized(1.5 * scores.grad * signs)
    expected = before / before.square().mean().sqrt()
    expected -= 0.3 * update / update.square().mean().sqrt() * signs
    optimizer.step()
    assert torch.allclose(scores, expected, atol=1e-5)
