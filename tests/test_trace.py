"""Networks of a user's own become graphs, and these compute what PyTorch does."""

import copy
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_networks import NETWORKS, Words, batch_for, packed, perceptron, trained
from torch import Tensor, nn

from biprop import Ticket, TicketError, UserError, convert
from biprop.engine.reference import Reference
from biprop.models.operations import OPERATIONS, Graph
from biprop.models.trace import trace

TOLERANCE = 2e-6
"""Of the reference's float32 against PyTorch's float64, beside results of about 1."""


def ticket_of(module: nn.Module, example: Tensor) -> Ticket:
    """A ticket without masked layers."""
    traced = trace(module.eval(), example)
    state = {**dict(module.state_dict()), **traced.constants}
    tracked = [name for name in state if name.endswith("num_batches_tracked")]
    arrays = {name: state[name].detach().numpy() for name in state if name not in tracked}
    ticket = Ticket(None, None, [], arrays, graph=traced.graph)
    return Ticket.from_bytes(ticket.to_bytes())


def check(ticket: Ticket, module: nn.Module, batch: Tensor) -> None:
    """PyTorch's interpreter computes what the module does, and the reference too, by numpy."""
    exact = batch.double() if batch.is_floating_point() else batch
    with torch.no_grad():
        result, expected = ticket.to_model()(batch), module(batch)
        wanted = copy.deepcopy(module).double()(exact).numpy()
    assert torch.allclose(result, expected, rtol=1e-5, atol=1e-6)
    computed = Reference(ticket).run(batch.numpy())
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, wanted, rtol=0, atol=TOLERANCE * max(1, wanted.std()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_ticket_computes_what_its_network_does_for_any_batch(name: str) -> None:
    model, ticket = packed(name)
    for count in (1, 5):
        check(ticket, model, batch_for(name, count))
    assert Reference(ticket).run(batch_for(name, 2).numpy()[:0]).shape[0] == 0
    own = {key for key in model.state_dict() if not key.endswith(("scores", "tracked"))}
    assert ticket.graph
    assert set(ticket.to_model().state_dict()) == own | set(ticket.graph.constants)


def test_the_users_class_is_filled_as_well() -> None:
    model, ticket = packed("words")
    assert ticket.graph and ticket.graph.constants  # the mask, and the words' places
    batch = batch_for("words")
    assert torch.equal(ticket.to_model(Words())(batch), model(batch))


class Of(nn.Module):
    """A function as a module, with tensors of its own."""

    def __init__(self, function: Callable[..., Any], *children: nn.Module) -> None:
        super().__init__()
        self.children_ = nn.ModuleList(children)
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def flat(*results: Tensor) -> Tensor:
    return torch.cat([result.flatten(1) for result in results], 1)


def of_maps(self: Of, x: Tensor) -> Tensor:
    """[B, 4, 6, 6]"""
    norm, conv, same = self.children_
    shuffled = F.pixel_shuffle(x, 2)
    return flat(
        norm(x),
        F.relu(conv(x)),
        same(x),
        F.max_pool2d(x, 2, 1, dilation=2),
        F.avg_pool2d(x, 3, 2, 1),
        F.max_pool2d(x[..., :5], 2, 2, 1, ceil_mode=True),
        F.avg_pool2d(x, (3, 2), 2, (1, 0), ceil_mode=True),
        F.adaptive_avg_pool2d(x, (4, 5)),
        F.adaptive_max_pool2d(x, (1, 5)),
        F.pad(x, (1, 2, 0, 1), value=0.5),
        F.pad(x, (1, 2, 3, 1), mode="replicate"),
        F.pad(x, (1, 2, 3, 1), mode="circular"),
        F.interpolate(shuffled, scale_factor=2)[:, :, 1::2, 3:-1],
        torch.stack([x, 2 - x], 2).movedim(1, -1),
        x[:, -1] @ x[:, 0].mT,
    )


def of_rows(self: Of, x: Tensor) -> Tensor:
    """[B, 4, 6]"""
    weight = self.weight.t()
    zeros = torch.zeros(4)
    zeros += 1
    y = x.clone()
    y.mul_(2).sub_(1)
    return flat(
        F.gelu(x) + F.gelu(x, approximate="tanh"),
        F.hardswish(x) * F.hardsigmoid(x),
        F.silu(x) / (1 + torch.sigmoid(x)),
        F.elu(x, 0.5) - F.leaky_relu(x) + torch.tanh(x),
        x.clamp(-0.5, 0.7) + x.clamp(min=0.1),
        torch.sign(x) + torch.where(x >= 0, 1.0, -1.0),
        F.log_softmax(x, 1) + F.softmax(x, -1),
        x @ weight.unsqueeze(0) + zeros,
        x.sum(1, keepdim=True) - x.mean(2, keepdim=True).square(),
        x.masked_fill(torch.arange(6) > 3, 0.25),
        torch.arange(6.0) * y - (-x) ** 2,
        F.scaled_dot_product_attention(x, y, x, scale=0.3, is_causal=True),
        F.scaled_dot_product_attention(x, y, y, attn_mask=torch.eye(4) > 0),
        F.layer_norm(x, (4, 6), weight=self.weight),
        F.pad(x, (2, 1), mode="reflect").transpose(1, 2),
    )


def of_volumes(self: Of, x: Tensor) -> Tensor:
    """[B, 2, 4, 5, 3]"""
    conv, transposed, norm = self.children_
    down = norm(conv(x))
    pools = F.max_pool3d(x, 2, 1), F.avg_pool3d(x, 2), F.adaptive_avg_pool3d(x, (2, 3, 2))
    return flat(down, transposed(down), *pools, F.adaptive_max_pool3d(x, 1))


GROUPS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "maps": (
        Of(
            of_maps,
            nn.BatchNorm2d(4, affine=False),
            nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), padding_mode="zeros", groups=2),
            nn.Conv2d(4, 4, (2, 3), padding="same", dilation=(2, 1)),
        ),
        (2, 4, 6, 6),
    ),
    "rows": (Of(of_rows), (2, 4, 6)),
    "volumes": (
        Of(
            of_volumes,
            nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1),
            nn.ConvTranspose3d(4, 2, (2, 3, 1), (2, 2, 1), (0, 1, 0), (0, 1, 0), 2, dilation=1),
            nn.BatchNorm3d(4),
        ),
        (2, 2, 4, 5, 3),
    ),
}


@cache
def ticket_of_group(name: str) -> Ticket:
    module, shape = GROUPS[name]
    return ticket_of(module, torch.randn(shape))


@pytest.mark.parametrize("name", GROUPS)
def test_every_operation_is_pytorchs(name: str) -> None:
    module, shape = GROUPS[name]
    check(ticket_of_group(name), module, torch.randn(3, *shape[1:]))


def test_every_operation_is_in_some_test() -> None:
    tickets = [*map(ticket_of_group, GROUPS), *(packed(name)[1] for name in NETWORKS)]
    graphs = [ticket.graph for ticket in tickets if ticket.graph]
    assert {o.op for graph in graphs for o in graph.operations} == set(OPERATIONS)


def refused(model: nn.Module, example: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as e:
        trace(model.eval(), example)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def in_place_of_view(_: Of, x: Tensor) -> Tensor:
    row = x[:, 0]
    row.add_(1)
    return x + 1


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


REFUSALS: list[tuple[Callable[[Any, Tensor], Any], str]] = [
    (lambda _, x: torch.fft.rfft(x).real, r"\(Of\) computes aten\.fft_rfft\.default: docs/ticket"),
    (lambda _, x: x.sort()[0], r"computes aten\.sort"),
    (lambda _, x: (x, x + 1), "2 outputs: must be one tensor"),
    (lambda _, x: {"a": x, "b": x}, "2 outputs: must be one tensor"),
    (lambda _, x: 3.0, "does not depend on its input|one tensor"),
    (lambda _, x: x, "is the input"),
    (lambda self, x: self.weight, "does not depend on its input"),
    (lambda _, x: x.flatten(0) + 1, "of shape|output"),
    (lambda _, x: x + torch.rand(6), r"rand\.default, which is random"),
    (lambda _, x: F.conv1d(x, x[0, :, :4, None]), "depends on the input"),
    (lambda _, x: F.batch_norm(x, None, None, training=True), "batch norm without running"),
    (lambda _, x: x + len(x), "for one batch size only; take x.shape"),
    (lambda _, x: x[:, : int(x[0, 0, 0])], "control flow depends on the data"),
    (lambda _, x: x[[0]] + x, "computes aten"),
    (lambda _, x: F.softmax(x.mul(x.shape[0]), 1), "depends on the input|of another kind"),
    (lambda _, x: F.adaptive_max_pool1d(x, 2, return_indices=True)[1] + x[..., :2], "depends on"),
    (in_place_of_view, r"add_\.Tensor on a view"),
    (lambda _, x: x.undefined, "cannot be traced: AttributeError"),
]


@pytest.mark.parametrize(("function", "message"), REFUSALS)
def test_what_a_graph_cannot_say_is_one_line(function: Any, message: str) -> None:
    if message == "of shape|output":
        with pytest.raises(TicketError, match=message):
            ticket_of(Of(function), torch.randn(2, 4, 6))
    else:
        refused(Of(function), torch.randn(2, 4, 6), message)


def test_a_refusal_names_the_module() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ModuleDict({"inner": Deciding()})["inner"])
    refused(model, torch.randn(2, 6), "^module '1' cannot be traced: its control flow depends")
    model = nn.Sequential(nn.Linear(6, 6), nn.RReLU(), nn.Softplus())
    refused(model, torch.randn(2, 6), r"^module '1' \(RReLU\) computes aten\.rrelu")
    refused(Counting(), torch.randn(2, 6), r"add_\.Tensor on a parameter or buffer")


def test_an_example_is_a_batch() -> None:
    for example, message in (
        ([1.0], "example is of type list: must be one tensor"),
        (torch.ones(2, 3, dtype=torch.bool), r"example is torch\.bool"),
        (torch.zeros(0, 3), r"example of shape \[0, 3\]"),
        (torch.zeros(()), r"example of shape \[\]"),
    ):
        refused(nn.Linear(3, 3), example, message)
    refused(nn.Linear(3, 3), torch.zeros(2, 4), "^the model cannot be traced: .*same reduction dim")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        torch.optim.swa_utils.AveragedModel,
        lambda model: nn.Sequential(nn.DataParallel(model), nn.ReLU())[:1],
    ],
    ids=["DataParallel", "compile", "AveragedModel", "part"],
)
def test_wrappers_leave_no_trace(wrap: Any) -> None:
    model = perceptron()
    wrapped = wrap(model)
    subnetwork = convert(wrapped, 0.5)
    batch = torch.randn(3, 12)
    ticket = Ticket.from_model(wrapped, subnetwork, example=batch)
    with torch.no_grad():
        plain = wrapped.eval()
        while type(plain) is not nn.Sequential:
            plain = plain.module if hasattr(plain, "module") else plain._orig_mod
        assert torch.allclose(ticket.to_model()(batch), plain(batch))


def test_the_model_is_left_as_it_was() -> None:
    model, subnetwork = trained("perceptron")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    Ticket.from_model(model, subnetwork, example=batch_for("perceptron", 1).half())
    assert model.training and model[0].scores.requires_grad
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not model[0]._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_is_random_in_evaluation_is_refused() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * random.random()

    model = Noisy()
    subnetwork = convert(model, 0.5)
    with pytest.raises(TicketError, match="computes other results for the example"):
        Ticket.from_model(model, subnetwork, example=torch.randn(2, 6))


@pytest.mark.parametrize("kind", [dict, tuple, list])
def test_a_model_that_returns_no_tensor_is_refused(kind: Any) -> None:
    class Wrapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Any:
            logits = self.layer(x)
            return {"logits": logits} if kind is dict else kind([logits])

    message = f"^the model returns a {kind.__name__}: must return one tensor; wrap it$"
    model = Wrapping()
    subnetwork = convert(model, 0.5)
    with pytest.raises(UserError, match=message):
        Ticket.from_model(model, subnetwork, example=torch.randn(2, 6))


def test_a_network_of_the_registry_takes_no_example() -> None:
    model, subnetwork = trained("perceptron")
    with pytest.raises(TicketError, match="network and example: pass one"):
        Ticket.from_model(
            model, subnetwork, example=batch_for("perceptron"), network={"name": "Conv2"}
        )


def test_of_reshapes_in_a_row_the_last_one_counts() -> None:
    module = Of(lambda _, x: x.flatten(1).unflatten(1, (4, 6)).reshape(-1, 24) + 1)
    graph: Graph = trace(module.eval(), torch.randn(2, 4, 6)).graph
    assert [o.op for o in graph.operations] == ["reshape", "scale"]
    assert re.fullmatch(r"\(\(-1, 24\),\)", str(graph.operations[0].attributes))
