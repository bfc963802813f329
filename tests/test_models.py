"""Names, shapes, outputs and gradients of the networks, against the original research code's (../shared/golden)."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, shared
from torch import Tensor, nn

from biprop import convert, models, plans

PARAMETERS = {  # of the dense network, batch norm without parameters, 10 classes, 32x32
    "Conv2": 4_300_992,
    "Conv4": 2_425_024,
    "Conv6": 2_261_184,
    "Conv8": 5_275_840,
    "VGG_Small": 4_656_512,
    "cResNet18": 11_164_352,
    "cResNet20": 270_896,
    "cResNet110": 1_722_416,
    "ResNet18": 11_172_032,
    "WideResNet50_2": 66_786_496,
}
BROKEN_THERE = ("ResNet50_v2", "ResNet50_BinAct_v2", "WideResNet50_2_v2", "WideResNet18_3_BinAct")


@cache
def zoo(name: str) -> dict[str, Any]:
    return json.loads((SHARED / "golden" / name).read_text())  # type: ignore[no-any-return]


def ancestor_network(name: str, entry: dict[str, Any]) -> nn.Module:
    """The network as the original research code has it."""
    mnist = {"channels": 1, "input_size": (28, 28)} if name == "FC" else {}
    classes = 1000 if name.startswith(("ResNet", "WideResNet")) else 10
    return models.build(
        name, num_classes=classes, bn_type="AffineBatchNorm", width_mult=entry["width_mult"], ancestor=True, **mnist
    )


@pytest.mark.parametrize("form", ["", "_BinAct"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_pinned(name: str, form: str) -> None:
    with torch.device("meta"):
        model = models.build(name + form)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["Wide_VGG_Small", "Wide_VGG_Small_132"])
def test_eight_times_the_width_of_the_wide_one_is_vgg_small(name: str) -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in models.build(name, width_mult=width).parameters()) for width in (1, 8)]
    assert counts == [82_096, PARAMETERS["VGG_Small"]]


@pytest.mark.parametrize("name", models.NETWORKS)
def test_state_names_and_shapes_are_the_ancestors(name: str) -> None:
    shared("golden/zoo_networks.json")
    if name not in zoo("zoo_networks.json"):
        pytest.skip("the original research code has no network of that name")
    entry = zoo("zoo_networks.json")[name]
    if "error" in entry:
        pytest.skip("no reference: the original research code's network is broken")
    with torch.device("meta"):
        model = ancestor_network(name, entry)
    subnetwork = convert(model)
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == list(entry["state"].items())
    assert subnetwork.weights == entry["masked_weights"]


def state_by_recipe(model: nn.Module) -> dict[str, Tensor]:
    """The state that the reference outputs were computed with."""
    numbers = np.random.RandomState(7)
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        z = numbers.standard_normal(tuple(value.shape)).astype(np.float32)
        if key.endswith("scores"):
            filled = z
        elif key.endswith("running_var"):
            filled = np.abs(z) + np.float32(0.5)
        elif z.ndim == 4:
            filled = z * np.float32(np.sqrt(2 / np.prod(z.shape[1:])))
        elif key.endswith("weight"):
            filled = 1 + np.float32(0.1) * z
        else:  # running_mean, bias
            filled = np.float32(0.1) * z
        state[key] = torch.from_numpy(filled)
    return state


def worst(ours: Any, theirs: Any) -> float:
    """Largest difference, relative to the reference's largest value."""
    a, b = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    return float((a - b).abs().max() / b.abs().max())


def _checked() -> list[Any]:
    """All networks; the widest are slow, and one differs for a reason not found yet."""
    marks: dict[str, Any] = {
        # Three of its four images agree to 1e-7, in float and in double; the fourth is off by 0.14. No single flip of one of the
        # activations nearest to zero explains it.
        "cResNet34_BinAct": pytest.mark.xfail(SHARED.exists(), reason="one of the four reference images differs", strict=False),
        "cWideResNet18_2": pytest.mark.slow,
        "cWideResNet18_2_BinAct": pytest.mark.slow,
        "WideResNet18_2_BinAct": pytest.mark.slow,
        "WideResNet18_2_BinAct_v2": pytest.mark.slow,
        "WideResNet18_v2": pytest.mark.slow,
    }
    return [pytest.param(name, marks=marks.get(name, ())) for name in models.NETWORKS]


@pytest.mark.parametrize("name", _checked())
def test_outputs_and_gradients_are_the_ancestors(name: str) -> None:
    shared("golden/zoo_outputs.json")
    if name not in zoo("zoo_outputs.json"):
        pytest.skip("no reference outputs")
    entry, reference = zoo("zoo_networks.json")[name], zoo("zoo_outputs.json")[name]
    model = ancestor_network(name, entry)
    convert(model, 0.3)
    model.load_state_dict(state_by_recipe(model))
    channels, size = (1, 28) if name == "FC" else (3, reference["input_size"])
    images = torch.from_numpy(np.random.RandomState(11).standard_normal((4, channels, size, size)).astype(np.float32))
    limit = {part: max(1e-4, 20 * moves) for part, moves in reference["threads"].items() if moves <= 0.05}

    with torch.no_grad():
        logits = model.eval()(images)
    assert list(logits.shape) == reference["logits_shape"]
    if "eval" in limit:
        assert worst(logits[:, :10], reference["eval_logits"]) < limit["eval"]
    logits = model.train()(images)
    loss = F.cross_entropy(logits, torch.tensor([1, 3, 5, 7]))
    loss.backward()
    if "train" in limit:
        assert worst(logits[0, :10].detach(), reference["train_logits_row0"]) < limit["train"]
        assert worst(loss.detach(), reference["train_loss"]) < limit["train"]
    norms = {key: p.grad.double().norm() for key, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == reference["grad_norms"].keys()
    if "grad" in limit:
        errors = sorted(worst(norms[key], theirs) for key, theirs in reference["grad_norms"].items())
        # A ReLU whose input is zero but for rounding falls on either side. That moves single gradients of deep ReLU networks
        # by up to 5e-4 here when oneDNN is held to AVX2 (cResNet44 the other way round), so the worst may be 10 times over.
        assert errors[len(errors) // 2] < limit["grad"]
        assert errors[-1] < 10 * limit["grad"]


@pytest.mark.parametrize("bn_type", models.BATCH_NORMS)
@pytest.mark.parametrize(
    "name", ["Conv2_BinAct", "Conv4Wide", "VGG_Small_bn_BinAct", "Wide_VGG_Small", "cResNet20", "cResNet18_BinAct"]
)
def test_batch_norm_types_class_counts_and_sizes(name: str, bn_type: str) -> None:
    width = 0.5 if "Wide" in name else 1
    model = models.build(name, num_classes=7, channels=1, input_size=(20, 24), bn_type=bn_type, width_mult=width).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 20, 24)).shape == (1, 7)
    affine = [m.affine for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(a == (bn_type != "NonAffineBatchNorm") for a in affine)


def test_small_resnets_pool_globally_but_for_the_ancestors_checkpoints() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert models.build("cResNet20")(images).shape == (2, 10)
    assert models.build("cResNet20", ancestor=True)(images).shape == (2, 40)


@pytest.mark.parametrize("name", BROKEN_THERE)
def test_networks_that_were_broken_run(name: str) -> None:
    with torch.no_grad():
        assert models.build(name, num_classes=3).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_the_binary_cards_network_carries_the_activated_input_in_its_shortcuts() -> None:
    with torch.device("meta"):
        model = models.build("WidePreActResNet")
    assert convert(model).weights == 24_868_032
    assert next(n for n in model.state_dict() if n.startswith("layer2.0.shortcut")) == "layer2.0.shortcut.0.weight"
    block = models.resnet.PreActBlock(plans.RESIDUAL["WidePreActResNet"], 4, 4, 1, nn.BatchNorm2d, nn.ReLU).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.relu(x), rtol=1e-4, atol=1e-4)


def test_multiplied_widths_are_rounded_down() -> None:
    model = models.build("Wide_VGG_Small_132", width_mult=0.3)  # 16, 32 and 64 times 0.3: 4.8, 9.6 and 19.2
    assert [m.out_channels for m in model.convs if isinstance(m, torch.nn.Conv2d)] == [4, 4, 9, 9, 19, 19]


def test_head_bias() -> None:
    for name in ("Conv2", "cResNet20"):
        assert [n for n, _ in models.build(name, head_bias=True).named_parameters() if n.endswith("bias")][-1:] != []
        assert not [n for n, _ in models.build(name).named_parameters() if n.endswith("bias")]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cResNet81", {}, "did you mean 'cResNet18'"),
        ("Conv4", {"width_mult": 2}, "fixed width"),
        ("Conv4Wide", {"width_mult": 0.01}, "without channels"),
        ("Conv8", {"input_size": (15, 32)}, "needs 16 or more"),
        ("Conv4", {"bn_type": "BatchNorm"}, "bn_type"),
    ],
)
def test_mistakes_are_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, **options)
