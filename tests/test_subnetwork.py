import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biprop import convert, models, rng
from biprop.layers import Masked


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()


def test_what_is_frozen_trained_and_left_alone() -> None:
    model = net()
    subnetwork = convert(model, 0.25)
    assert list(subnetwork.layers) == ["0", "4"]
    assert subnetwork.left_alone == {"1": "BatchNorm2d"}
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["0.scores", "1.weight", "1.bias", "4.scores"]
    assert "left alone: 1 (BatchNorm2d)" in repr(subnetwork)


@settings(max_examples=30)
@given(st.floats(0.001, 1), st.sampled_from(["layer", "global"]))
def test_exactly_k_are_kept(density: float, scope: Any) -> None:
    model = net()
    subnetwork = convert(model, density, scope, floor=0)
    sizes = [layer.weight.numel() for layer in subnetwork.layers.values()]
    if scope == "layer":
        assert [r.kept for r in subnetwork.report()] == [n - int((1 - density) * n) for n in sizes]
    else:
        assert subnetwork.kept == sum(sizes) - int((1 - density) * sum(sizes))


def test_gain_divisors_are_the_methods() -> None:
    """Layerwise: int(k * n), which is not always the number kept. Global: the number kept in the layer."""
    layer = nn.Linear(7, 3, bias=False)  # n = 21; k = 0.3 keeps 21 - int(14.7) = 7, and divides by int(6.3) = 6
    convert(layer, 0.3)
    assert isinstance(layer, Masked)
    kept = (layer.weight.abs() * layer.mask).sum()
    assert int(layer.mask.sum()) == 7
    torch.testing.assert_close(layer.gain, kept / 6)
    other = nn.Linear(7, 3, bias=False)
    convert(other, 0.3, "global")
    assert isinstance(other, Masked)
    torch.testing.assert_close(other.gain, (other.weight.abs() * other.mask).sum() / 7)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.5),
        lambda p: torch.optim.SGD(p, 0.5, foreach=True),
        lambda p: torch.optim.Adam(p, 0.5),
        lambda p: torch.optim.Adam(p, 0.5, fused=True),  # does not count up the tensors' versions
    ],
)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_follow_the_scores_by_themselves(make: Any, scope: Any) -> None:
    model = net()
    subnetwork = convert(model, 0.3, scope)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    before = [layer.mask.clone() for layer in subnetwork.layers.values()]
    step(model, optimizer)
    model[0](torch.randn(1, 3, 8, 8))  # a part of the model alone is enough
    stale = [layer.mask.clone() for layer in subnetwork.layers.values()]
    assert not all(torch.equal(a, b) for a, b in zip(before, stale, strict=True))
    subnetwork.update()
    assert all(torch.equal(a, b.mask) for a, b in zip(stale, subnetwork.layers.values(), strict=True))


def test_loading_a_state_updates_the_masks() -> None:
    a, b = net(), net()
    convert(a, 0.3)
    subnetwork = convert(b, 0.3, seed=1)
    b.load_state_dict(a.state_dict())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(a.eval()(x), b.eval()(x))
    assert subnetwork.kept == sum(n - int(0.7 * n) for n in (216, 1440))


def test_a_deep_copy_is_independent() -> None:
    model = net()
    convert(model, 0.3)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].scores.mul_(-1).add_(1)
    x = torch.randn(2, 3, 8, 8)
    before = model.eval()(x)
    assert not torch.equal(twin.eval()(x), before)
    assert torch.equal(model(x), before)
    assert torch.equal(twin[0].mask, torch.topk(twin[0].scores.abs().flatten(), 65).values.min() <= twin[0].scores.abs())


def test_signs_come_from_seed_and_layer_number_alone() -> None:
    model, other = net(), net()
    magnitudes = model[4].weight.abs().clone()
    convert(model, 0.3, seed=11)
    bits = torch.from_numpy(rng.sign_bits(11, 1, 1440)).view(5, 288)
    assert torch.equal(model[4].weight > 0, bits == 1)
    assert torch.equal(model[4].weight.abs(), magnitudes)
    convert(other, 0.3, exempt=["0"], seed=11, init="kaiming_normal")  # an exempt layer shifts no other
    assert torch.equal(other[4].weight > 0, bits == 1)


def test_keep_leaves_the_weights() -> None:
    model = net()
    before = model[0].weight.clone()
    convert(model, init="keep")
    assert torch.equal(model[0].weight, before)


def test_densities_by_pattern_and_exempt_layers() -> None:
    model = models.build("cResNet20")
    subnetwork = convert(model, {"*": 0.2, "layer3.*": 0.1, "fc": 0.5, "conv1": "dense"}, exempt=["layer1.0.*"])
    assert subnetwork.exempt == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert model.get_parameter("conv1.weight").requires_grad
    by_name = {r.name: r for r in subnetwork.report()}
    assert by_name["fc"].kept == 640 - int(0.5 * 640)
    assert by_name["layer3.0.conv1"].density == pytest.approx(0.1, abs=1e-4)
    assert by_name["layer2.0.conv1"].density == pytest.approx(0.2, abs=1e-3)
    only_linear = convert(net(), exempt=lambda name, module: isinstance(module, nn.Conv2d))
    assert list(only_linear.layers) == ["4"]


def test_a_transformer_layer_uses_its_masked_weights_in_evaluation_too() -> None:
    """Its fused evaluation path reads the raw weights; the masked layers' hooks keep it off that path."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    subnetwork = convert(model, 0.5)
    assert list(subnetwork.layers) == ["linear1", "linear2"]
    assert subnetwork.left_alone["self_attn.out_proj"] == "NonDynamicallyQuantizableLinear"
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.train()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0}, "above 0"),
        ({"density": 1.5}, "at most 1"),
        ({"density": float("nan")}, "above 0"),
        ({"density": {"*": 0.2, "fcc": 0.5}}, "no layer is named 'fcc'"),
        ({"density": {"0": 0.2}}, "no density for layer '4'"),
        ({"density": {"*": "thick"}}, "must be a number or 'dense'"),
        ({"density": {"*": 0.2, "4": 0.5}, "scope": "global"}, "one density"),
        ({"scope": "local"}, "scope"),
        ({"exempt": ["*"]}, "nothing to mask"),
        ({"exempt": ["9"]}, "no layer is named '9'"),
        ({"init": "kaiming"}, "init"),
        ({"floor": 2.0}, "floor"),
        ({"floor": 0.5, "density": 0.1, "scope": "global"}, "lower the floor"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_refused_and_leave_the_model_as_it_was(options: dict[str, Any], message: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        convert(model, **options)
    assert type(model[0]) is nn.Conv2d
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_second_conversion_and_shared_weights_are_refused() -> None:
    model = net()
    convert(model)
    with pytest.raises(ValueError, match="already"):
        convert(model)
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="share a weight"):
        convert(tied)


def test_a_module_used_twice_is_one_layer() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    assert list(convert(model, 0.5).layers) == ["0"]
    assert model[0] is model[2]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_score_that_is_no_number_names_its_layer(scope: Any) -> None:
    model = net()
    subnetwork = convert(model, 0.3, scope)
    with torch.no_grad():
        model[4].scores[2, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="layer 4"):
        subnetwork.update()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch's tracer
def test_torch_compile_sees_a_plain_network() -> None:
    model = net()
    subnetwork = convert(model, 0.3)
    model.eval()
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    with torch.no_grad():
        model[0].scores.neg_().add_(0.1)
    subnetwork.update()
    torch.testing.assert_close(compiled(x), model(x))


def test_meta_tensors_convert_without_memory() -> None:
    with torch.device("meta"):
        model = models.build("cResNet18")
    assert convert(model, 0.2).weights == 11_164_352
