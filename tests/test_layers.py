import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biprop import convert
from biprop.subnetwork.layers import MASKED_CLASS, BinaryActivation, Masked, maskable

LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Linear(6, 5), (3, 6)),
    (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 9)),
    (lambda: nn.Conv2d(4, 6, (3, 1), stride=2, padding=1, dilation=2, bias=False), (2, 4, 9, 9)),
    (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"), (2, 4, 9, 9)),
    (lambda: nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 9, 9)),
    (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 7)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    (lambda: nn.ConvTranspose3d(2, 3, 2, dilation=2), (2, 2, 4, 4, 4)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_a_masked_layer_is_its_plain_twin_with_the_kept_weights(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    layer = make()
    twin = copy.deepcopy(layer)
    subnetwork = convert(layer, 0.4)  # the model may itself be a layer
    assert isinstance(layer, Masked)
    assert type(layer) is MASKED_CLASS[type(twin)]
    kept = layer.weight.numel() - int((1 - 0.4) * layer.weight.numel())
    assert subnetwork.kept == int(layer.mask.sum()) == kept
    twin.weight.data = float(layer.gain) * torch.sign(layer.weight) * layer.mask  # type: ignore[union-attr, assignment]
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), twin(x))

    # The gradient of the scores is that of the twin's weight, times W * sign(S); nothing else
    # trains.
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["scores"]
    layer(x).square().sum().backward()
    twin(x).square().sum().backward()
    assert layer.scores.grad is not None
    torch.testing.assert_close(
        layer.scores.grad, twin.weight.grad * layer.weight * torch.sign(layer.scores)
    )  # type: ignore[operator]


def test_transposed_output_size() -> None:
    layer = nn.ConvTranspose2d(3, 3, 3, stride=2)
    convert(layer)
    assert layer(torch.randn(1, 3, 4, 4), output_size=[10, 10]).shape[2:] == (10, 10)


def test_state_dict_holds_weight_and_scores_only() -> None:
    layer = nn.Conv2d(3, 4, 3)
    convert(layer)
    assert list(layer.state_dict()) == ["weight", "bias", "scores"]


class ReadsItsWeight(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * 2)


def test_only_exact_types_are_maskable() -> None:
    assert not maskable(ReadsItsWeight(2, 2))
    assert not maskable(nn.BatchNorm2d(2))
    assert maskable(nn.Linear(2, 2))


def test_binary_activation_module() -> None:
    assert BinaryActivation()(torch.tensor([0.0, -2.0])).tolist() == [1, -1]
    assert repr(BinaryActivation(zero=0)) == "BinaryActivation(zero=0)"
