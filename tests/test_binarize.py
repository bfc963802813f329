import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biprop import native
from biprop.subnetwork.binarize import binary_activation, gain, masked_binary_weight, sign

FLOATS = st.floats(-3, 3, width=32)


def test_sign_of_zero_is_plus_one() -> None:
    assert sign(torch.tensor([-2.0, -0.0, 0.0, 1e-40])).tolist() == [-1, 1, 1, 1]


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_binary_activation_has_the_papers_pseudo_gradient(values: list[float]) -> None:
    x = torch.tensor(values, requires_grad=True)
    y = binary_activation(x)
    assert set(y.tolist()) <= {-1.0, 1.0}
    y.backward(torch.full_like(x, 3.0))
    expected = [3 * 2 * (1 - abs(v)) if abs(v) <= 1 else 0.0 for v in x.tolist()]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx(expected, abs=1e-6)


def test_binary_activation_may_give_zero_for_zero() -> None:
    assert binary_activation(torch.tensor([-1.0, 0.0, 2.0]), zero=0).tolist() == [-1, 0, 1]


def test_the_compiled_core_and_tensor_operations_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if native.library() is None:
        pytest.skip("installed without the compiled core")
    shape = (3, 5, 70_001)
    weight, grad = torch.randn(shape), torch.randn(shape)
    scores = torch.randn(shape)
    weight[0, 0, ::3], scores[0, 1, ::5] = 0, 0
    mask, size = torch.rand(shape) < 0.3, torch.tensor(0.7)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        own = scores.clone().requires_grad_()
        result = masked_binary_weight(own, weight, mask, size)
        result.backward(grad)
        assert own.grad is not None
        return result.detach(), own.grad

    compiled = both()
    monkeypatch.setattr(native, "library", lambda: None)
    for one, other in zip(compiled, both(), strict=True):
        assert torch.equal(one, other)


def test_masked_binary_weight_and_its_pseudo_gradient() -> None:
    weight = torch.tensor([0.5, -2.0, 0.0, 3.0])
    scores = torch.tensor([-1.0, 2.0, 3.0, 0.0], requires_grad=True)
    mask = torch.tensor([True, True, True, False])
    result = masked_binary_weight(scores, weight, mask, torch.tensor(0.25))
    assert result.tolist() == [0.25, -0.25, 0.0, 0.0]  # a kept weight of 0 contributes nothing
    result.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    # dL/dW_eff * W * sign(S), straight through mask and gain; pruned weights get a gradient too
    assert scores.grad is not None
    assert scores.grad.tolist() == [-0.5, -20.0, 0.0, 0.0]


def test_gain_divides_by_the_given_count() -> None:
    weight, mask = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([True, True, False])
    assert gain(weight, mask, 2) == 1.5
    assert gain(weight, mask, 0) == 3.0
