"""The reference against PyTorch, which computes in double precision here: a sign then turns with a
rounding of one side only.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_narrow, narrow, network_of, random_ticket
from numpy.typing import NDArray

from biprop import Ticket, TicketError, UserError
from biprop.engine import reference
from biprop.engine.reference import Reference
from biprop.models.plans import NETWORKS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other longer than these networks take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_images(ticket: Ticket, count: int) -> NDArray[np.float32]:
    assert ticket.network
    shape = (count, ticket.network["channels"], *ticket.network["input_size"])
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def check(ticket: Ticket, count: int = 2) -> None:
    """The logits of random images are PyTorch's, and say something."""
    images = random_images(ticket, count)
    with torch.no_grad():
        expected = ticket.to_model().double()(torch.from_numpy(images).double()).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(
        Reference(ticket).run(images), expected, rtol=1e-4, atol=1e-4 * expected.std()
    )


STRUCTURES = list({narrow(name): name for name in reversed(NETWORKS)}.values())
"""One network of each plan; in narrow, some differ in nothing."""


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_in_narrow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_narrow(monkeypatch, name)
    number = NETWORKS.index(name)
    bn_type, head_bias = ("NonAffineBatchNorm", "AffineBatchNorm")[number % 2], number % 3 == 0
    check(
        random_ticket(
            network_of(name, (20, 28), num_classes=7, bn_type=bn_type, head_bias=head_bias),
            seed=number,
        )
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FC", {"channels": 1, "size": (28, 28)}),
        ("Conv4", {"size": (8, 8)}),
        ("Conv8Wide_BinAct_ReLU", {"size": (16, 16), "width_mult": 0.25}),
        ("Wide_VGG_Small", {"width_mult": 1.5, "bn_type": "AffineBatchNorm"}),
        ("cResNet20_BinAct", {"bn_type": "AffineBatchNorm"}),
        ("cResNet20", {"ancestor": True, "size": (32, 40)}),
        ("cResNet18", {"size": (8, 8)}),
        ("cResNet18_BinAct_v2", {"size": (8, 8)}),
        pytest.param("VGG_Small", {}, marks=pytest.mark.slow),
        pytest.param("VGG_Small_bn_BinAct", {}, marks=pytest.mark.slow),
        pytest.param("cResNet18_v2", {}, marks=pytest.mark.slow),
        pytest.param("cResNet50", {}, marks=pytest.mark.slow),
        pytest.param("WidePreActResNet", {"bn_type": "AffineBatchNorm"}, marks=pytest.mark.slow),
        pytest.param("ResNet18", {"size": (224, 224)}, marks=pytest.mark.slow),
        pytest.param("ResNet18_BinAct_v2", {"size": (96, 96)}, marks=pytest.mark.slow),
        pytest.param("WideResNet50_2_v2", {"size": (64, 64)}, marks=pytest.mark.slow),
    ],
)
def test_networks_in_full_width(name: str, options: dict[str, Any]) -> None:
    check(random_ticket(network_of(name, **options)))


@pytest.mark.parametrize(
    "name",
    [
        "Conv4_BinAct",
        "VGG_Small_BinAct",
        "cResNet18_BinAct_v2",
        "cResNet50_BinAct",
        "ResNet18_BinAct",
    ],
)
def test_networks_of_the_original_research_code_have_sign_of_zero_0(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_narrow(monkeypatch, name)
    check(
        random_ticket(
            network_of(name, (32, 36), ancestor=True, bn_type="AffineBatchNorm"), density=0.1
        )
    )


def test_dense_layers_and_layers_that_keep_nothing() -> None:
    network = network_of("Conv2", (8, 8), head_bias=True)
    ticket = random_ticket(network, dense=("convs.0", "linear.4"))
    check(ticket)
    ticket.layers[1] = replace(
        ticket.layers[1], mask=np.zeros_like(ticket.layers[1].mask), kept=0, gain=0.0
    )
    logits = Reference(ticket).run(random_images(ticket, 2))
    np.testing.assert_array_equal(logits, np.tile(ticket.state["linear.4.bias"], (2, 1)))


@pytest.mark.parametrize("name", ["Conv2_BinAct", "cResNet20"])
def test_batches_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_narrow(monkeypatch, name)
    ticket = random_ticket(network_of(name, (12, 8)))
    runner, images = Reference(ticket), random_images(ticket, 7)
    whole = runner.run(images)
    assert whole.shape == (7, 10) and whole.dtype == np.float32
    monkeypatch.setattr(reference, "_MOST_NUMBERS", 1)
    np.testing.assert_allclose(runner.run(images), whole, rtol=1e-5, atol=1e-5)
    monkeypatch.undo()
    assert runner.run(images[:0]).shape == (0, 10)
    np.testing.assert_allclose(runner.run(images[::-2]), whole[::-2], rtol=1e-5, atol=1e-5)


def test_sums_between_binary_activations_are_exact() -> None:
    """A sum of as many +gain as -gain is 0, whatever the gain: sign(0) is what the network says,
    not what rounding left.
    """
    ticket = random_ticket(network_of("VGG_Small_BinAct", (8, 8), bn_type="AffineBatchNorm"))
    runner = Reference(ticket)
    operations = list(enumerate(runner.graph.operations, start=1))
    first, second = [(i, node) for i, node in operations if node.op == "conv"][:2]
    assert runner.graph.operations[second[1].inputs[0] - 1].op == "sign"
    channels = runner.shapes[first[0]][1]
    signs = np.random.default_rng(0).integers(0, 2, (3, channels, 8, 8))
    x = np.where(signs, np.float32(1), np.float32(-1))
    sums = runner._apply(second[0], [x], 3)
    gain = np.float32(ticket.layers[1].gain)
    np.testing.assert_array_equal(sums, np.rint(sums / gain) * gain)
    assert np.count_nonzero(sums == 0) > 100


def test_a_ticket_that_does_not_fit_is_one_clear_line() -> None:
    network = network_of("Conv2_BinAct", (8, 8), bn_type="AffineBatchNorm")

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(TicketError, match=message) as e:
            Reference(replace(random_ticket(network), **changes))
        assert "\n" not in str(e.value)

    good = random_ticket(network)
    refused(
        "of a network that biprop does not know: pack it anew with Ticket.from_model",
        network=None,
    )
    refused("no such network", network={**network, "name": "Conv9"})
    refused(
        r"convs\.3\.weight is absent here and \(64, 64, 3, 3\) there",
        layers=[good.layers[0], *good.layers[2:]],
    )
    refused(
        r"linear\.6\.weight is \(10, 256, 1, 1\) here and \(9, 256, 1, 1\) there",
        network={**network, "num_classes": 9},
    )
    refused(
        r"convs\.1\.running_var is absent",
        state={key: value for key, value in good.state.items() if key != "convs.1.running_var"},
    )
    refused(
        r"convs\.1\.bias is \(3,\) here",
        state={**good.state, "convs.1.bias": np.zeros(3, np.float32)},
    )
    refused(
        r"other\.bias is \(3,\) here and absent there",
        state={**good.state, "other.bias": np.zeros(3, np.float32)},
    )
    masked_norm = replace(good.layers[0], name="convs.1", shape=(64,))
    rest = {key: value for key, value in good.state.items() if key != "convs.1.weight"}
    refused(
        r"convs\.1\.weight is of a masked layer", layers=[*good.layers, masked_norm], state=rest
    )


def test_images_of_another_shape_are_refused() -> None:
    runner = Reference(random_ticket(network_of("Conv2", (8, 8))))
    for shape in ((2, 3, 8, 9), (2, 1, 8, 8), (3, 8, 8), ()):
        with pytest.raises(UserError, match=r"the network takes \[B, 3, 8, 8\]"):
            runner.run(np.zeros(shape, np.float32))


def test_it_runs_without_torch() -> None:
    code = "import sys, biprop.engine.reference; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
