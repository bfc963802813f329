"""The graph against what PyTorch is asked to compute."""

from collections import Counter
from typing import Any

import pytest
import torch
from conftest import network_of
from torch import Tensor
from torch.overrides import TorchFunctionMode

from biprop import TicketError
from biprop.models import build, plans
from biprop.models.graph import Node, graph_of
from biprop.models.plans import NETWORKS

PARTS = ("ge", "to", "flatten", "__getitem__")
"""Steps that belong to a sign or to flattening."""

ELEMENTWISE = ("batch_norm", "relu", "ge", "where", "sign", "add")
"""Their results need only be of the right shape, and PyTorch takes long to find that out on the
meta device.
"""


class Recorder(TorchFunctionMode):
    """Writes down, as a graph, the operations on one image."""

    def __init__(self, model: torch.nn.Module, image: Tensor) -> None:
        super().__init__()
        self.nodes = [Node("input", (), tuple(image.shape[1:]))]
        self.at = {id(image): 0}
        self.alive = [image]  # so that no id comes twice
        self.names = {
            id(v): name.rpartition(".")[0] for name, v in model.state_dict(keep_vars=True).items()
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        elementwise = function.__name__ in ELEMENTWISE
        result = (
            torch.empty_like(args[0], dtype=torch.float32)
            if elementwise
            else function(*args, **(kwargs or {}))
        )
        if isinstance(result, Tensor):
            self.alive.append(result)
            inputs = tuple(self.at[id(x)] for x in args if id(x) in self.at)
            node = self.node(
                function.__name__, args, kwargs or {}, inputs, (*result.shape[1:], 1, 1)[:3]
            )
            if node:
                self.nodes.append(node)
            self.at[id(result)] = len(self.nodes) - 1 if node else inputs[0]
        return result

    def node(
        self, op: str, args: Any, options: Any, inputs: tuple[int, ...], shape: Any
    ) -> Node | None:
        match op:
            case "conv2d":
                _, weight, _, stride, padding, dilation, groups = args
                assert (
                    stride[0] == stride[1]
                    and padding[0] == padding[1]
                    and dilation == (1, 1)
                    and groups == 1
                )
                return Node(
                    "conv",
                    inputs,
                    shape,
                    self.names[id(weight)],
                    tuple(weight.shape[2:]),
                    stride[0],
                    padding[0],
                )
            case "batch_norm":
                assert options["eps"] == 1e-5 and not options["training"]
                return Node("norm", inputs, shape, self.names[id(args[1])])
            case "max_pool2d":
                kernel = args[1] if isinstance(args[1], tuple) else (args[1], args[1])
                return Node(
                    "max_pool",
                    inputs,
                    shape,
                    "",
                    kernel,
                    options["stride"],
                    options["padding"],
                )
            case "avg_pool2d":
                return Node("avg_pool", inputs, shape, "", (args[1], args[1]), args[1])
            case "adaptive_avg_pool2d":
                height, width = args[0].shape[2:]
                assert args[1] == 1
                return Node("avg_pool", inputs, shape, "", (height, width), height)
            case "where":
                return Node("sign", inputs, shape)
            case "sign":
                return Node("sign0", inputs, shape)
            case "relu" | "add":
                return Node(op, inputs, shape)
            case "flatten" if args[0].shape[2:] != (1, 1):
                return Node("flatten", inputs, shape)
        assert op in PARTS, op
        return None


@pytest.mark.parametrize(
    ("name", "ancestor"),
    [(name, False) for name in NETWORKS]
    + [
        (name, True)
        for name in NETWORKS
        if name.startswith(("Conv2", "VGG", "cResNet18", "cResNet20", "ResNet18", "WideP"))
    ],
)
def test_every_network_is_what_pytorch_computes(name: str, ancestor: bool) -> None:
    width = 0.75 if plans.takes_width(name) else 1.0
    network = network_of(
        name,
        (32, 48),
        num_classes=7,
        channels=2,
        width_mult=width,
        ancestor=ancestor,
        head_bias=ancestor,
    )
    with torch.device("meta"):
        model, image = build.build(**network).eval(), torch.empty(1, 2, 32, 48)
    with torch.no_grad(), Recorder(model, image) as recorder:
        logits = model(image)
    graph = graph_of(network)
    assert graph == recorder.nodes
    assert graph[-1].shape == (logits.shape[1], 1, 1)
    shapes = {
        f"{n.name}.weight": (n.shape[0], graph[n.inputs[0]].shape[0], *n.kernel)
        for n in graph
        if n.op == "conv"
    }
    shapes |= {
        f"{n.name}.running_{part}": n.shape[:1]
        for n in graph
        if n.op == "norm"
        for part in ("mean", "var")
    }
    shapes |= {
        key: (7,)
        for key in ("fc.bias", f"{graph[-1].name}.bias")
        if ancestor and key in model.state_dict()
    }
    assert shapes == {
        key: tuple(v.shape)
        for key, v in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def test_nodes_come_in_order_and_all_are_used() -> None:
    for name in NETWORKS:
        graph = graph_of(network_of(name))
        uses = Counter(i for node in graph for i in node.inputs)
        assert all(i < at for at, node in enumerate(graph) for i in node.inputs)
        assert sorted(uses) == list(range(len(graph) - 1))


def test_windows_of_the_ancestors_small_resnets() -> None:
    graph = graph_of(network_of("cResNet20", (32, 40), ancestor=True))
    assert [(n.op, n.shape) for n in graph[-3:]] == [
        ("avg_pool", (64, 2, 2)),
        ("conv", (10, 2, 2)),
        ("flatten", (40, 1, 1)),
    ]
    assert graph_of(network_of("cResNet18", ancestor=True))[-1].op == "conv"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            network_of("cResNet81"),
            "cannot be built: arch = 'cResNet81': no such network; did you mean 'cResNet18'",
        ),
        (network_of("Conv4", bn_type="BatchNorm"), "bn_type = 'BatchNorm'"),
        (network_of("Conv4", width_mult=2.0), "fixed width"),
        (network_of("Conv8", (15, 32)), "images of 15 x 32 are too small for Conv8"),
        (
            network_of("cResNet20", (12, 12), ancestor=True),
            "images of 12 x 12 are too small for cResNet20",
        ),
        (network_of("ResNet18", (0, 5)), "images of 0 x 5 are too small"),
        (network_of("FC", (0, 0)), "images of 0 x 0 are too small"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(network: dict[str, Any], message: str) -> None:
    with pytest.raises(TicketError, match=message) as e:
        graph_of(network)
    assert "\n" not in str(e.value)
