"""Networks of a user's own on the compiled engine, where it has all their operations."""

import math
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_networks import NETWORKS, batch_for, packed, trained
from programs import Loaded, loaded
from test_trace import GROUPS, Of, ticket_of, ticket_of_group
from torch import Tensor, nn

from biprop import Engine, Ticket, TicketError, UserError, convert, native
from biprop.engine import instruction_sets
from biprop.engine.lower import MAGIC, MAGIC_2, lower
from biprop.engine.reference import Reference
from biprop.engine.timing import measure
from biprop.models.operations import Graph, Operation, check_graph
from biprop.subnetwork import BinaryActivation


class Pools(nn.Module):
    """Every operation that the engine has, of dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, (3, 2), padding=1)
        self.norm = nn.BatchNorm2d(8, affine=False, eps=0.1)
        self.other = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, 6)
        self.norm2 = nn.BatchNorm1d(6, eps=0.5)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.avg_pool2d(F.max_pool2d(x, 3, 2, 1), (2, 3), 2)
        x = self.other(x).amax((2, 3), keepdim=True) + self.other(F.adaptive_avg_pool2d(x, 1))
        features = self.head(x.flatten(1)[:, :, None, None].flatten(1))
        logits: Tensor = self.last(F.relu(self.norm2(torch.sign(features))))
        return logits


CLASSIC = ("resnet", "perceptron")
"""Networks of convolutions, batch norm, ReLU, sign, pools and sums alone."""
compiled = pytest.mark.skipif(not instruction_sets(), reason="no compiled core")


def case(name: str, count: int) -> tuple[Ticket, Any]:
    """A network's ticket, and a batch."""
    torch.manual_seed(1)
    if name in NETWORKS:
        return packed(name)[1], batch_for(name, count).numpy()
    return ticket_of_group(name), torch.randn(count, *GROUPS[name][1][1:]).numpy()


def agrees(ticket: Ticket, batch: Any, **options: Any) -> None:
    """The compiled engine gives what numpy gives, for one sample and for many."""
    engine = Engine(ticket, **options)
    assert engine.compiled and not engine.fallback
    expected = Reference(ticket).run(batch)
    tolerance = {"rtol": 1e-5, "atol": 2e-6 * max(1, float(np.abs(expected).max()))}
    np.testing.assert_allclose(engine.run(batch), expected, **tolerance)
    np.testing.assert_allclose(engine.run(batch[:1]), expected[:1], **tolerance)


@compiled
@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("name", [*NETWORKS, *GROUPS])
def test_every_operation_runs_compiled_as_numpy_computes_it(
    name: str, instruction_set: str
) -> None:
    ticket, batch = case(name, 19)
    agrees(ticket, batch, instruction_set=instruction_set)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_version_1_of_a_program_can_hold_it_holds(name: str) -> None:
    program = lower(packed(name)[1])
    assert program.startswith(MAGIC if name in CLASSIC else MAGIC_2)
    assert program == lower(packed(name)[1])


@compiled
def test_masked_layers_run_on_their_kept_weights() -> None:
    for name, kernel in (
        ("transformer", "sparse sum"),  # tokens are positions of a map
        ("unet", "sparse sum"),
        ("series", "sparse sum"),
        ("depthwise", "depthwise convolution"),
    ):
        _, _, steps = Engine(packed(name)[1]).explain(16)
        assert any(step.kernel.startswith(kernel) for step in steps), name
        if name != "transformer":  # one of its layers is not masked
            assert not any("dense" in step.kernel for step in steps), name


@compiled
@pytest.mark.parametrize("name", ["depthwise", "transformer", "unet"])
def test_threads_and_calibration(name: str) -> None:
    ticket, batch = case(name, 40)
    if native.cores() > 1:
        one, two = Engine(ticket), Engine(ticket, threads=2)
        np.testing.assert_array_equal(one.run(batch), two.run(batch))
    calibrated = Engine(ticket, calibration=batch).run(batch)
    expected = Reference(ticket).run(batch)
    assert np.abs(calibrated - expected).max() < 0.1 * np.abs(expected).max()


class Signs(nn.Module):
    """Binary activations behind a batch norm and behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.sign = nn.Conv1d(3, 16, 3, bias=False), BinaryActivation()
        self.norm1, self.norm2 = nn.BatchNorm1d(16), nn.LayerNorm(16)
        self.conv, self.linear = nn.Conv1d(16, 16, 1), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.sign(self.norm1(self.embed(x)))).transpose(1, 2)
        result: Tensor = (x + self.linear(self.sign(self.norm2(x)))).mean(1)
        return result


@compiled
@pytest.mark.parametrize("length", [30, 100])
def test_signs_are_bits_where_one_sample_can_run_on_them(length: int) -> None:
    model = Signs()
    subnetwork = convert(model, 0.4, seed=1)
    ticket = Ticket.from_model(model, subnetwork, example=torch.randn(2, 3, length))
    batch = np.random.default_rng(0).integers(-8, 9, (70, 3, length)).astype(np.float32)
    agrees(ticket, batch)
    _, group, steps = Engine(ticket).explain(1)
    assert group == 1
    assert sum("bits" in step.output for step in steps) == (2 if length == 30 else 0)


@compiled
@pytest.mark.parametrize("name", ["unet", "series", "words"])
def test_programs_of_version_2_in_c(name: str) -> None:
    ticket, batch = case(name, 3)
    program = lower(ticket)
    expected = Reference(ticket).run(batch)
    with loaded(program) as network:
        axes = batch.shape[1:]
        assert network.outputs == math.prod(expected.shape[1:])
        assert network.shape == {1: (*axes, 1, 1), 2: (axes[0], 1, axes[-1])}.get(len(axes), axes)
        result = network.run(batch.astype(np.float32)).reshape(expected.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-6)
    with pytest.raises(ValueError, match=r"^2$"):  # damaged: version 1 has no such operations
        Loaded(MAGIC + program[len(MAGIC_2) :])
    for size in range(0, len(program), 97):
        with pytest.raises(ValueError, match=r"^2$"):
            Loaded(program[:size])


def of_graph(shape: tuple[int, ...], operations: list[Operation], **state: Any) -> Ticket:
    return Ticket(None, None, [], state, graph=Graph((-1, *shape), tuple(operations)))


def random_move(rng: np.random.Generator, shape: tuple[int, ...]) -> Operation:
    """An operation that changes the order or the number of the axes behind the batch."""
    axes, kind = len(shape), rng.integers(4)
    axis = int(rng.integers(1, axes)) if axes > 1 else 0
    if kind == 0 and axes > 1:
        order = [0, *(1 + rng.permutation(axes - 1))]
        return Operation("permute", (0,), (), (tuple(map(int, order)),))
    if kind == 1 and axes > 1:
        start, step = int(rng.integers(shape[axis])), int(rng.integers(1, 3))
        return Operation("slice", (0,), (), (axis, start, shape[axis], step))
    if kind == 2 and axes < 5:
        return Operation("expand", (0,), (), ((shape[0], *shape[1:]),))
    sizes, left = [], math.prod(shape[1:])
    while left > 1 and len(sizes) < 4:
        sizes.append(int(rng.choice([n for n in range(1, left + 1) if left % n == 0])))
        left //= sizes[-1]
    return Operation("reshape", (0,), (), ((-1, *sizes, left),))


@compiled
@pytest.mark.parametrize("seed", range(40))
def test_axes_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (-1, *(int(n) for n in rng.choice([1, 2, 3, 4, 6, 12], rng.integers(1, 5))))
    ticket_shape, operations = shape[1:], []
    value = shape
    for i in range(rng.integers(1, 7)):
        operation = random_move(rng, value)
        operations.append(replace(operation, inputs=(i,)))
        value = check_graph(of_graph(ticket_shape, operations).graph, {})[-1]  # type: ignore[arg-type]
    other = Operation("silu", (len(operations),))
    added = Operation("add", (len(operations) + 1, len(operations)))
    places = Operation("mean", (len(operations) + 2,), (), ((len(value) - 1,), True))
    ends = [other, added] if len(value) < 2 else [other, added, places]
    ticket = of_graph(ticket_shape, operations + ends)
    batch = rng.standard_normal((17, *ticket_shape)).astype(np.float32)
    agrees(ticket, batch)


@compiled
def test_a_sum_of_axes_that_lie_in_other_parts() -> None:
    operations = [
        Operation("permute", (0,), (), ((0, 2, 1, 3),)),
        Operation("reshape", (1,), (), ((-1, 24),)),  # of 3, 2 and 4
        Operation("reshape", (0,), (), ((-1, 12, 2),)),
        Operation("permute", (3,), (), ((0, 2, 1),)),
        Operation("reshape", (4,), (), ((-1, 24),)),  # of 2, 2, 3 and 2
        Operation("add", (2, 5)),
    ]
    batch = np.random.default_rng(0).standard_normal((17, 2, 3, 4)).astype(np.float32)
    agrees(of_graph((2, 3, 4), operations), batch)


@compiled
def test_parts_of_values() -> None:
    rng = np.random.default_rng(0)
    state = {"weight": rng.random((5, 4), np.float32), "divisor": 1 + rng.random(5, np.float32)}
    operations = [
        Operation("mean", (0,), (), ((1, 2, 4), False)),  # three loops, no two of them neighbours
        Operation("permute", (0,), (), ((0, 3, 1, 2, 4),)),
        Operation("layer_norm", (2,), (None, None), (3, 1e-5)),
        Operation("max", (3,), (), ((2, 3, 4), False)),
        Operation("add", (1, 4)),
        Operation("slice", (5,), (), (1, 0, 4, 1)),
        Operation("linear", (6,), ("weight", None)),
        Operation("tensor", (), ("divisor",)),
        Operation("div", (7, 8)),
    ]
    batch = rng.standard_normal((17, 2, 3, 6, 5)).astype(np.float32)
    agrees(of_graph((2, 3, 6, 5), operations, **state), batch)


@compiled
@pytest.mark.parametrize("seed", range(20))
def test_convolutions_of_any_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 4))

    def numbers(most: int, least: int = 1) -> tuple[int, ...]:
        return tuple(int(n) for n in rng.integers(least, most + 1, axes))

    groups, kernel, stride, dilation = int(rng.integers(1, 3)), numbers(3), numbers(3), numbers(2)
    padding = tuple(
        int(rng.integers(0, d * (k - 1) + 1)) for k, d in zip(kernel, dilation, strict=True)
    )
    sides = numbers(9, 6)
    weight = rng.standard_normal((4, 2 if groups == 2 else 4, *kernel)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.3] = 0
    conv = (stride, padding, dilation, groups)
    more = tuple(int(rng.integers(max(s, d))) for s, d in zip(stride, dilation, strict=True))
    turned = (stride, padding, more, dilation, groups)
    bias = rng.standard_normal(16).astype(np.float32)
    state = {"a.weight": weight, "b.weight": weight, "bias": bias[:4]}
    state["other"] = bias[: groups * weight.shape[1]]
    operations = [
        Operation("conv", (0,), ("a.weight", "bias"), conv),
        Operation("elu", (1,), (), (0.5,)),
        Operation("conv_transpose", (2,), ("b.weight", "other"), turned),
    ]
    ticket = of_graph((4, *sides), operations, **state)
    agrees(ticket, rng.standard_normal((17, 4, *sides)).astype(np.float32))


@pytest.mark.parametrize("name", ["resnet", "perceptron"])
@pytest.mark.skipif(not instruction_sets(), reason="no compiled core")
def test_logits_are_the_references(name: str) -> None:
    _, ticket = packed(name)
    batch = batch_for(name, 5).numpy()
    engine = Engine(ticket)
    expected = Reference(ticket).run(batch)
    np.testing.assert_allclose(engine.run(batch), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(engine.run(batch[0]), expected[:1], rtol=1e-4, atol=1e-5)
    pixels = (255 * np.random.default_rng(0).random(batch.shape)).astype(np.uint8)
    expected = Reference(ticket).run(pixels.astype(np.float32) / 255)
    np.testing.assert_allclose(engine.run(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not instruction_sets(), reason="no compiled core")
def test_every_pool_and_norm() -> None:
    ticket = ticket_of(Pools(), torch.randn(2, 3, 9, 11))
    batch = np.random.default_rng(0).standard_normal((4, 3, 9, 11)).astype(np.float32)
    expected = Reference(ticket).run(batch)
    np.testing.assert_allclose(Engine(ticket).run(batch), expected, rtol=1e-4, atol=1e-5)


REFUSALS: list[tuple[Any, str]] = [
    (
        lambda self, x: self.children_[0](x.reshape(-1, 1, 2, 6)).reshape(-1, 30),
        r"the engine has no operation for conv children_\.0\.weight$",
    ),
]


@pytest.mark.parametrize(("function", "message"), REFUSALS)
def test_what_it_lacks_is_one_line_that_names_the_operation(function: Any, message: str) -> None:
    ticket = ticket_of(Of(function, nn.Conv2d(1, 1, (2, 2))), torch.randn(2, 4, 6, 3))
    with pytest.raises(TicketError, match=message) as e:
        lower(ticket)
    assert "\n" not in str(e.value)
    with pytest.warns(RuntimeWarning, match="the engine .*: numpy runs this network, slowly"):
        engine = Engine(ticket)
    batch = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
    assert not engine.compiled
    np.testing.assert_array_equal(engine.run(batch), Reference(ticket).run(batch))
    assert engine.shape == batch.shape[1:]
    with pytest.raises(UserError, match="not written, as no core could load it: the engine"):
        engine.save_program("x.bprog")


def test_inputs_of_another_kind_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        words, series = Engine(packed("words")[1]), Engine(packed("series")[1])
    for engine, batch, message in (
        (words, np.zeros((2, 6)), "of type float64: the network takes whole numbers"),
        (words, np.full((2, 6), 11), "from 11 to 11: the network's embedding takes 0 .. 10"),
        (words, np.full((2, 6), -1), "from -1 to -1: the network's embedding takes 0 .. 10"),
        (words, np.full((2, 6), 2**63, np.uint64), "the network takes whole numbers of int64"),
        (words, np.zeros((2, 5), np.int64), r"shape \(2, 5\): the network takes \[B, 6\]"),
        (series, np.zeros((3, 24)), r"shape \(3, 24\): the network takes \[B, 2, 24\]"),
        (series, np.full((1, 2, 24), np.nan), "NaN or infinite"),
    ):
        with pytest.raises(UserError, match=re.sub(r"\.\. ", r"\\.\\. ", message)):
            engine.run(batch)
    assert next(iter(measure(words, [2], 0.01))).images_per_second > 0


@pytest.mark.slow
def test_a_table_of_more_rows_than_floats_count_one_by_one_is_computed_by_numpy() -> None:
    """The core takes indices as float32, which are exact up to 2^24; the table has 64 MB."""
    rows = (1 << 24) + 4
    table = np.arange(rows, dtype=np.float32).reshape(rows, 1)
    embedding = Operation("embedding", (0,), ("e.weight",), ())
    graph = Graph((-1, 2), (embedding,), indices=True)
    with pytest.warns(RuntimeWarning, match="numpy runs this network"):
        engine = Engine(Ticket(None, None, [], {"e.weight": table}, graph=graph))
    np.testing.assert_array_equal(engine.run(np.array([[5, rows - 1]])).ravel(), table[[5, -1], 0])


def test_normalisation_is_of_the_channels_of_any_input() -> None:
    model, subnetwork = trained("series")
    about = {"mean": (0.25, 0.5), "std": (0.5, 2.0)}
    ticket = Ticket.from_model(model, subnetwork, example=batch_for("series"), **about)
    ticket = Ticket.from_bytes(ticket.to_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        engine = Engine(ticket)
    samples = np.random.default_rng(0).random((2, 2, 24), np.float32)
    mean, std = (np.array(about[name], np.float32).reshape(1, 2, 1) for name in ("mean", "std"))
    expected = Reference(ticket).run((samples - mean) / std)
    np.testing.assert_allclose(engine.run(samples), expected, rtol=1e-5, atol=1e-6)
