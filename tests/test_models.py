"""Names, shapes, outputs and gradients of the networks, against the original research code's
(../shared/golden).
"""

import json
from functools import cache
from typing import Any

import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, shared
from torch import Tensor, nn

from biprop import convert
from biprop.models import build
from biprop.models.plans import BATCH_NORMS, NETWORKS, PLAIN, RESIDUAL
from biprop.models.resnet import PreActBlock

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
    return build.build(
        name,
        num_classes=classes,
        bn_type="AffineBatchNorm",
        width_mult=entry["width_mult"],
        ancestor=True,
        **mnist,
    )


@pytest.mark.parametrize("form", ["", "_BinAct"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_pinned(name: str, form: str) -> None:
    with torch.device("meta"):
        model = build.build(name + form)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["Wide_VGG_Small", "Wide_VGG_Small_132"])
def test_eight_times_the_width_of_the_wide_one_is_vgg_small(name: str) -> None:
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in build.build(name, width_mult=width).parameters())
            for width in (1, 8)
        ]
    assert counts == [82_096, PARAMETERS["VGG_Small"]]


@pytest.mark.parametrize("name", NETWORKS)
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
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == list(
        entry["state"].items()
    )
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


OUTPUTS = "zoo_outputs64.json"
SIGN_NEAR_ZERO = (
    "ResNet34_BinAct",
    "cResNet34_BinAct",
    "cResNet18_BinAct_v2",
    "VGG_Small_bn_BinAct",
    "Wide_VGG_Small",
)
"""Networks with an input of a sign so near to 0 that the rounding of single precision may turn it.
"""


IN_EVERY_TEST_RUN = (
    "FC",
    "Conv2",
    "Conv4_BinAct",
    "Conv8Wide_BinAct_ReLU",
    "Conv8Wide_BinAct_ReLU_Final_Act",
    "VGG_Small",
    "VGG_Small_BinAct",
    "Wide_VGG_Small",
    "Wide_VGG_Small_132",
    "cResNet20",
    "cResNet20_BinAct",
    "cResNet110",
    "cResNet18_BinAct_v2",
    "ResNet18",
    "ResNet18_BinAct",
    "ResNet18_v2",
)
"""One network of every structure; the others are slow."""


def referenced() -> list[Any]:
    """The networks that have reference outputs."""
    present = (SHARED / "golden" / OUTPUTS).exists()  # else the tests are skipped, and say why
    names = [name for name in NETWORKS if not present or name in zoo(OUTPUTS)]
    return [
        pytest.param(n, marks=[] if n in IN_EVERY_TEST_RUN else [pytest.mark.slow]) for n in names
    ]


class Reference:
    """A network in the state that the reference was computed with, and the numbers of the
    reference.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        shared(f"golden/{OUTPUTS}")
        self.numbers = zoo(OUTPUTS)[name]
        self.model = ancestor_network(name, zoo("zoo_networks.json")[name])
        self.subnetwork = convert(self.model, 0.3)
        self.model.load_state_dict(state_by_recipe(self.model))
        self.model.to(dtype)
        self.subnetwork.update()
        size = 28 if name == "FC" else self.numbers["input_size"]
        shape = (4, 1 if name == "FC" else 3, size, size)
        images = np.random.RandomState(11).standard_normal(shape).astype(np.float32)
        self.images = torch.from_numpy(images).to(dtype)

    def evaluation(self) -> float:
        """Difference of the logits in evaluation."""
        with torch.no_grad():
            logits = self.model.eval()(self.images)
        assert list(logits.shape) == self.numbers["logits_shape"]
        return parity.difference(logits[:, :10], self.numbers["eval_logits"])

    def training(self) -> tuple[float, float, dict[str, float]]:
        """Differences of the first image's logits, of the loss, and of the gradients' norms, in
        training.
        """
        logits = self.model.train()(self.images)
        loss = F.cross_entropy(logits, torch.tensor([1, 3, 5, 7]))
        loss.backward()
        norms = {
            key: p.grad.double().norm()
            for key, p in self.model.named_parameters()
            if p.grad is not None
        }
        return (
            parity.difference(logits[0, :10], self.numbers["train_logits_row0"]),
            parity.difference(loss, self.numbers["train_loss"]),
            parity.norm_differences(norms, self.numbers["grad_norms"]),
        )


@pytest.mark.parametrize("name", referenced())
def test_in_double_precision_networks_are_the_ancestors(name: str) -> None:
    reference = Reference(name, torch.float64)
    parity.check_masks_and_gains(reference.subnetwork, reference.numbers)
    parity.round_gains(reference.subnetwork)
    # Two networks had no run with noise; the others moved by at most 3.5e-12.
    moves = reference.numbers.get("moves") or dict.fromkeys(("eval", "row0", "loss", "gmax"), 0.0)
    assert reference.evaluation() < parity.limit(moves["eval"])
    logits, loss, norms = reference.training()
    assert logits < parity.limit(moves["row0"])
    assert loss < parity.limit(moves["loss"])
    worst = max(norms, key=norms.__getitem__)
    assert norms[worst] < parity.limit(moves["gmax"]), worst


@pytest.mark.parametrize(
    "name", [param for param in referenced() if param.values[0] not in SIGN_NEAR_ZERO]
)
def test_in_single_precision_networks_are_the_ancestors_as_far_as_rounding_allows(
    name: str,
) -> None:
    """Here the compiled core computes.

    Limits hold on every processor: ReLUs turn single gradients, so those are left out.
    """
    reference = Reference(name, torch.float32)
    assert reference.subnetwork.kept == reference.numbers["kept"]
    assert parity.masks_digest(reference.subnetwork) == reference.numbers["masks_sha256"]
    parity.round_gains(reference.subnetwork)
    assert reference.evaluation() < 1e-5
    logits, loss, norms = reference.training()
    assert logits < 3e-4
    assert loss < 3e-5
    if not any(isinstance(module, nn.ReLU) for module in reference.model.modules()):
        assert max(norms.values()) < 1e-4


@pytest.mark.parametrize("bn_type", BATCH_NORMS)
@pytest.mark.parametrize(
    "name",
    [
        "Conv2_BinAct",
        "Conv4Wide",
        "VGG_Small_bn_BinAct",
        "Wide_VGG_Small",
        "cResNet20",
        "cResNet18_BinAct",
    ],
)
def test_batch_norm_types_class_counts_and_sizes(name: str, bn_type: str) -> None:
    width = 0.5 if "Wide" in name else 1
    model = build.build(
        name, num_classes=7, channels=1, input_size=(20, 24), bn_type=bn_type, width_mult=width
    ).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 20, 24)).shape == (1, 7)
    affine = [m.affine for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(a == (bn_type != "NonAffineBatchNorm") for a in affine)


def test_small_resnets_pool_globally_but_for_the_ancestors_checkpoints() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert build.build("cResNet20")(images).shape == (2, 10)
    assert build.build("cResNet20", ancestor=True)(images).shape == (2, 40)


@pytest.mark.parametrize("name", BROKEN_THERE)
def test_networks_that_were_broken_run(name: str) -> None:
    with torch.no_grad():
        assert build.build(name, num_classes=3).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_the_binary_cards_network_carries_the_activated_input_in_its_shortcuts() -> None:
    with torch.device("meta"):
        model = build.build("WidePreActResNet")
    assert convert(model).weights == 24_868_032
    assert (
        next(n for n in model.state_dict() if n.startswith("layer2.0.shortcut"))
        == "layer2.0.shortcut.0.weight"
    )
    block = PreActBlock(RESIDUAL["WidePreActResNet"], 4, 4, 1, nn.BatchNorm2d, nn.ReLU).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.relu(x), rtol=1e-4, atol=1e-4)


def test_multiplied_widths_are_rounded_down() -> None:
    model = build.build(
        "Wide_VGG_Small_132", width_mult=0.3
    )  # 16, 32 and 64 times 0.3: 4.8, 9.6 and 19.2
    assert [m.out_channels for m in model.convs if isinstance(m, torch.nn.Conv2d)] == [
        4,
        4,
        9,
        9,
        19,
        19,
    ]


def test_networks_of_binary_activations_tell_images_apart() -> None:
    for name in NETWORKS:
        if name in PLAIN and "BinAct" in name and "Wide" in name:
            model = build.build(name, width_mult=0.125).train()
            convert(model, 0.5)
            with torch.no_grad():
                logits = model(torch.randn(4, 3, 32, 32))
            assert len(logits.unique(dim=0)) == 4, name


def test_head_bias() -> None:
    for name in ("Conv2", "cResNet20"):
        assert [
            n for n, _ in build.build(name, head_bias=True).named_parameters() if n.endswith("bias")
        ][-1:] != []
        assert not [n for n, _ in build.build(name).named_parameters() if n.endswith("bias")]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cResNet81", {}, "did you mean 'cResNet18'"),
        ("Conv4", {"width_mult": 2}, "fixed width"),
        ("Conv4Wide", {"width_mult": 0.01}, "without channels"),
        ("Conv8", {"input_size": (15, 32)}, "needs 16 or more: pass --image-size"),
        ("Fast6", {"input_size": (8, 8)}, "8x8: the network halves it 3 times, so it needs 9"),
        ("Conv4", {"bn_type": "BatchNorm"}, "bn_type"),
    ],
)
def test_mistakes_are_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build.build(name, **options)
