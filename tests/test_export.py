"""Exported files compute what their ticket does, and are small."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, make_narrow, narrow, network_of, random_ticket
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from own_networks import NETWORKS as OWN
from own_networks import batch_for, packed
from test_cli import fails
from test_trace import GROUPS, ticket_of_group
from torch.export import load

from biprop import Ticket, TicketError, UserError
from biprop.cli import command_line
from biprop.engine.engine import normalised
from biprop.engine.reference import Reference
from biprop.export import files, save_onnx, save_pt2
from biprop.export.packing import pack, table
from biprop.models.operations import OPERATIONS, Graph, Operation
from biprop.models.plans import NETWORKS

needs_onnx = pytest.mark.skipif(
    not (files.is_installed("onnx") and files.is_installed("onnxruntime")),
    reason="onnx and onnxruntime are not installed",
)
DIGITS = ROOT / "pretrained" / "digits.mpt"
MOST_BITS = 2.2
"""Per masked weight, beside what is not masked."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.onnx"


def session_of(path: Path, **options: Any) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def run(path: Path, images: NDArray[Any]) -> NDArray[Any]:
    (logits,) = session_of(path).run(["logits"], {"images": images})
    return np.asarray(logits)


def check_close(logits: NDArray[Any], expected: NDArray[Any]) -> None:
    spread = expected.max() - expected.min()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * spread)


def dense_bytes(ticket: Ticket) -> int:
    """Bytes of what is not masked; a batch norm has two numbers a channel."""
    norms = [name.removesuffix("running_mean") for name in ticket.state if "running_mean" in name]
    folded = {f"{norm}{leaf}" for norm in norms for leaf in ("weight", "bias")}
    return 4 * sum(value.size for name, value in ticket.state.items() if name not in folded)


def own_graph(*operations: Operation, shape: tuple[int, ...] = (4,)) -> Ticket:
    """A ticket of operations, without tensors."""
    return Ticket(None, None, [], {}, graph=Graph((-1, *shape), operations))


# Packing


@given(arrays.arrays(np.int8, arrays.array_shapes(min_side=0), elements=st.integers(-1, 1)))
def test_a_byte_holds_five_signs(signs: NDArray[np.int8]) -> None:
    codes = pack(signs)
    assert codes.dtype == np.uint8 and len(codes) == -(-signs.size // 5)
    unpacked = table()[codes].ravel()
    assert np.array_equal(unpacked[: signs.size], signs.ravel())
    assert not unpacked[signs.size :].any()


def test_a_known_byte() -> None:
    assert pack(np.array([[1, 0, -1]])).tolist() == [2 + 1 * 3 + 0 * 9 + 1 * 27 + 1 * 81]
    assert table().shape == (243, 5)


# ONNX


SOME = ("FC", "Conv4", "Conv8Wide_BinAct_ReLU", "Fast6_BinAct", "cResNet18_BinAct_v2", "ResNet50")
EVERY_PLAN = list({narrow(name): name for name in reversed(NETWORKS)}.values())
"""One network of each plan; in narrow, some differ in nothing."""


def check_registry(name: str, path: Path, **options: Any) -> None:
    number = NETWORKS.index(name)
    bn_type = ("NonAffineBatchNorm", "AffineBatchNorm")[number % 2]
    is_ancestor = number % 4 == 1
    network = network_of(
        name, bn_type=bn_type, head_bias=number % 3 == 0, ancestor=is_ancestor, **options
    )
    ticket = random_ticket(network, seed=number)
    difference = save_onnx(ticket, path).difference
    assert difference is not None and difference <= 1e-5


@needs_onnx
@pytest.mark.parametrize("name", SOME)
def test_some_networks_of_the_registry(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_narrow(monkeypatch, name)
    check_registry(name, path, size=(32, 36), num_classes=7)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_PLAN)
def test_every_plan_of_the_registry_in_narrow(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_narrow(monkeypatch, name)
    check_registry(name, path, size=(40, 36), num_classes=7)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_registry_in_full_width(name: str, path: Path) -> None:
    check_registry(name, path)


@needs_onnx
@pytest.mark.parametrize("name", OWN)
def test_networks_of_a_users_own_with_any_batch(name: str, path: Path) -> None:
    _, ticket = packed(name)
    save_onnx(ticket, path)
    model = ticket.to_model()
    for count in (1, 5):
        batch = batch_for(name, count)
        with torch.no_grad():
            check_close(run(path, batch.numpy()), model(batch).numpy())


@needs_onnx
@pytest.mark.parametrize("name", GROUPS)
def test_every_operation(name: str, path: Path) -> None:
    difference = save_onnx(ticket_of_group(name), path).difference
    assert difference is not None and difference <= 1e-5


@needs_onnx
def test_every_operation_has_a_converter() -> None:
    from biprop.export.convert import CONVERTERS

    assert set(CONVERTERS) == set(OPERATIONS)


WINDOWS: list[tuple[str, tuple[int, int], tuple[Any, ...]]] = [
    ("max_pool", (9, 7), ((3, 2), (2, 2), (1, 1), (2, 3), True)),
    ("max_pool", (8, 7), ((3, 3), (2, 3), (1, 0), (1, 1), True)),
    ("max_pool", (8, 8), ((2, 2), (1, 1), (1, 1), (3, 3), True)),
    ("avg_pool", (8, 7), ((3, 3), (2, 3), (1, 0), True, True)),
    ("avg_pool", (8, 7), ((3, 3), (2, 3), (1, 0), True, False)),
    ("avg_pool", (8, 7), ((3, 2), (2, 3), (1, 1), False, True)),
    ("avg_pool", (8, 7), ((3, 2), (2, 3), (1, 1), False, False)),
    ("adaptive_avg_pool", (8, 6), ((4, 3),)),
    ("adaptive_avg_pool", (8, 7), ((3, 9),)),
    ("adaptive_max_pool", (8, 6), ((4, 3),)),
    ("adaptive_max_pool", (8, 7), ((3, 9),)),
    ("pad", (5, 4), ((0, 0, 1, 0, 2, 1, 0, 3), "circular", 0.0)),
    ("pad", (5, 4), ((0, 0, 0, 0, 2, 1, 0, 3), "reflect", 0.0)),
    ("mean", (5, 4), ((1,), False)),
    ("max", (5, 4), ((1, 3), True)),
    ("sum", (5, 4), ((2,), False)),
]


@needs_onnx
@pytest.mark.parametrize(("op", "sides", "attributes"), WINDOWS)
def test_windows_and_borders(
    op: str, sides: tuple[int, int], attributes: tuple[Any, ...], path: Path
) -> None:
    shape = (3, *sides)
    ticket = own_graph(Operation(op, (0,), (), attributes), shape=shape)
    difference = save_onnx(ticket, path).difference
    assert difference is not None and difference <= 1e-6
    images = -5 - np.random.default_rng(0).random((2, *shape), dtype=np.float32)  # borders matter
    check_close(run(path, images), Reference(ticket).run(images))


@needs_onnx
@pytest.mark.parametrize(("op", "of_zero"), [("sign", 1), ("sign0", 0)])
def test_the_sign_of_zero(op: str, of_zero: int, path: Path) -> None:
    save_onnx(own_graph(Operation(op, (0,))), path)
    numbers = np.array([[0.0, -0.0, 1e-30, -1e-30]], np.float32)
    assert run(path, numbers).tolist() == [[of_zero, of_zero, 1, -1]]


@needs_onnx
def test_a_pruned_layer_and_an_odd_number_of_weights(path: Path) -> None:
    _, ticket = packed("perceptron")
    first = ticket.layers[0]
    empty = replace(first, mask=np.zeros_like(first.mask), kept=0, gain=0.0)
    ticket = replace(ticket, layers=[empty, *ticket.layers[1:]])
    save_onnx(ticket, path)
    batch = batch_for("perceptron").numpy()
    check_close(run(path, batch), Reference(ticket).run(batch))
    check_close(run(path, batch)[:1], run(path, batch)[1:2])


# What the file holds


def sized(name: str, **options: Any) -> Callable[[], Ticket]:
    return lambda: random_ticket(network_of(name, **options))


@needs_onnx
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Ticket.load(DIGITS), id="digits"),
        pytest.param(sized("cResNet20_BinAct", bn_type="AffineBatchNorm"), id="cResNet20_BinAct"),
        pytest.param(sized("Conv4", head_bias=True), id="Conv4"),
    ],
)
def test_a_masked_weight_takes_at_most_2_bits_and_a_fifth(
    make: Callable[[], Ticket], path: Path
) -> None:
    ticket = make()
    size = save_onnx(ticket, path).size
    assert size == path.stat().st_size
    assert 1.6 < 8 * (size - dense_bytes(ticket)) / ticket.weights <= MOST_BITS


@needs_onnx
def test_a_runtime_unpacks_the_weights_when_it_loads_them(path: Path) -> None:
    import onnx

    save_onnx(Ticket.load(DIGITS), path)
    optimised = path.with_name("optimised.onnx")
    session_of(path, optimized_model_filepath=str(optimised))
    before, after = ({n.op_type for n in onnx.load(p).graph.node} for p in (path, optimised))
    unpacking = {"Gather", "Cast", "Slice", "Mul"}
    assert unpacking <= before
    assert not unpacking & after


@needs_onnx
def test_inputs_outputs_and_metadata(path: Path) -> None:
    import onnx

    ticket = Ticket.load(DIGITS)
    save_onnx(ticket, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (taken,), (given_back,) = model.graph.input, model.graph.output
    assert (taken.name, given_back.name) == ("images", "logits")
    sizes = [d.dim_param or d.dim_value for d in taken.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, 32, 32]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ticket.classes
    assert json.loads(metadata["mean"]) == list(ticket.mean)
    assert json.loads(metadata["std"]) == list(ticket.std)
    assert metadata["network"] == "Wide_VGG_Small_132"
    assert metadata["input"] == "pixels 0 .. 1"
    numbers = [(i.raw_data, i.data_type, *i.dims) for i in model.graph.initializer]
    assert len(set(numbers)) == len(numbers)


@needs_onnx
def test_pixels_are_normalised_inside_unless_they_are_not(path: Path) -> None:
    ticket = Ticket.load(DIGITS)
    pixels = np.random.default_rng(1).random((2, 1, 32, 32), dtype=np.float32)
    expected = Reference(ticket).run(normalised(pixels, ticket))
    assert save_onnx(ticket, path).input == "pixels 0 .. 1"
    check_close(run(path, pixels), expected)
    assert save_onnx(ticket, path, on_pixels=False).input == "normalised by mean and std"
    check_close(run(path, normalised(pixels, ticket)), expected)


@needs_onnx
def test_whole_numbers_are_not_normalised(path: Path) -> None:
    ticket = replace(packed("words")[1], mean=(0.5,), std=(0.5,))
    assert save_onnx(ticket, path).input == "whole numbers"
    batch = batch_for("words").numpy()
    check_close(run(path, batch), Reference(ticket).run(batch))
    with pytest.raises(TicketError, match="has no normalisation"):
        save_onnx(ticket, path, on_pixels=True)


@needs_onnx
def test_names_of_tensors_may_be_those_of_values(path: Path) -> None:
    weight = np.arange(4, dtype=np.float32)
    names = ("images", "logits", "v0", "c0")
    operations: list[Operation] = []
    for name in names:
        tensor = Operation("tensor", (), (name,))
        operations += [tensor, Operation("add", (len(operations), len(operations) + 1))]
    ticket = replace(own_graph(*operations), state=dict.fromkeys(names, weight))
    save_onnx(ticket, path)
    assert run(path, np.ones((1, 4), np.float32)).tolist() == [[1, 5, 9, 13]]


@needs_onnx
def test_the_same_ticket_gives_the_same_bytes(path: Path) -> None:
    _, ticket = packed("depthwise")
    save_onnx(ticket, path)
    first = path.read_bytes()
    save_onnx(ticket, path)
    assert path.read_bytes() == first


# What is refused


@needs_onnx
def test_what_computes_something_else_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from biprop.export.convert import CONVERTERS

    path.write_text("before")
    monkeypatch.setitem(CONVERTERS, "relu", lambda b, step: b.add("Softplus", step.inputs[0]))
    with pytest.raises(UserError, match=r"^not written: its logits differ from the ticket's "):
        save_onnx(packed("perceptron")[1], path)
    monkeypatch.setitem(CONVERTERS, "sign", lambda b, step: b.add("Neg", step.inputs[0]))
    with pytest.raises(
        UserError, match=r"^operation 1, sign: 12 of 12 signs differ in ONNX Runtim"
    ):
        save_onnx(own_graph(Operation("sign", (0,))), path)
    monkeypatch.delitem(CONVERTERS, "relu")
    with pytest.raises(UserError, match=r"^operation 3, relu: it cannot be exported to ONNX"):
        save_onnx(packed("perceptron")[1], path)
    assert path.read_text() == "before"


@needs_onnx
def test_the_sign_of_a_sum_that_is_0_but_for_rounding_is_the_runtimes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from biprop.export.convert import CONVERTERS

    ticket = own_graph(Operation("relu", (0,)), Operation("sign", (1,)), Operation("tanh", (2,)))
    monkeypatch.setitem(CONVERTERS, "sign", lambda b, step: b.add("Sign", step.inputs[0]))
    assert save_onnx(ticket, path).difference == pytest.approx(0, abs=1e-6)
    assert run(path, np.zeros((1, 4), np.float32)).tolist() == [[0, 0, 0, 0]]


@needs_onnx
def test_tickets_that_cannot_be_computed(path: Path) -> None:
    ticket = Ticket.load(DIGITS)
    with pytest.raises(TicketError, match="of a network that biprop does not know: pack it anew"):
        save_onnx(replace(ticket, network=None), path)
    with pytest.raises(TicketError, match="has no normalisation: leave on_pixels out"):
        save_onnx(replace(ticket, mean=(), std=()), path, on_pixels=True)
    name = next(name for name in ticket.state if name.endswith("running_var"))
    negative = {**ticket.state, name: -ticket.state[name]}
    with pytest.raises(TicketError, match=f"^{name}: a variance is negative"):
        save_onnx(replace(ticket, state=negative), path)
    with pytest.raises(UserError, match=r"cannot be written: No such file"):
        save_onnx(ticket, path / "none" / "a.onnx")
    assert not path.exists()


def test_without_onnx_there_is_a_hint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "is_installed", lambda package: False)
    with pytest.raises(UserError, match=r"^onnx is not installed: pip install 'biprop\[onnx\]'$"):
        save_onnx(Ticket.load(DIGITS), path)


# torch.export


def check_pt2(ticket: Ticket, batches: list[torch.Tensor], path: Path) -> None:
    save_pt2(ticket, path)
    program: Any = load(path).module()
    model = ticket.to_model(on_pixels=bool(ticket.mean))
    with torch.no_grad():
        for batch in batches:
            check_close(program(batch).numpy(), model(batch).numpy())


@pytest.mark.parametrize(
    "name",
    [n if n in ("series", "words") else pytest.param(n, marks=pytest.mark.slow) for n in OWN],
)
def test_programs_of_a_users_own_networks(name: str, tmp_path: Path) -> None:
    batches = [batch_for(name, count) for count in (1, 5)]
    check_pt2(packed(name)[1], batches, tmp_path / "a.pt2")


def test_a_program_of_a_network_of_the_registry(tmp_path: Path) -> None:
    batches = [torch.rand(count, 1, 32, 32) for count in (1, 4)]
    check_pt2(Ticket.load(DIGITS), batches, tmp_path / "a.pt2")


# The command


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return fails(capsys, "export", *arguments)


@needs_onnx
def test_the_command_writes_and_reports(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["export", str(DIGITS), "--to", "onnx", "-o", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{path.stat().st_size:,}  (the ticket: 11,156; all numbers in float32: 329,024)" in out
    assert "batch x 1 x 32 x 32: pixels 0 .. 1" in out and "batch x 10: logits" in out
    assert "its logits of 3 random images are the ticket's" in out
    command = ["export", str(DIGITS), "--to", "onnx", "--normalised", "-o", str(path)]
    assert command_line.main(command) == 0
    assert "batch x 1 x 32 x 32: normalised by mean and std" in capsys.readouterr().out


@needs_onnx
def test_without_onnxruntime_a_line_says_so(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_installed", lambda package: package == "onnx")
    assert command_line.main(["export", str(DIGITS), "--to", "onnx", "-o", str(path)]) == 0
    captured = capsys.readouterr()
    assert "warning: onnxruntime is not installed: the model was checked by onnx" in captured.err
    assert "by onnx, not run" in captured.out and path.is_file()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits, output = str(DIGITS), str(tmp_path / "a.onnx")
    golden = str(ROOT / "tests" / "golden" / "own.mpt")
    bare = str(tmp_path / "bare.mpt")
    replace(Ticket.load(DIGITS), mean=(), std=()).save(bare)
    pt2 = str(tmp_path / "a.pt2")
    for arguments, message in (
        ([digits, "--to", "tflite", "-o", output], "argument --to: invalid choice: 'tflite'"),
        ([digits, "--to", "pt2", "-o", output], "the name of a file of --to pt2 ends with .pt2"),
        ([digits, "--to", "onnx", "-o", f"{tmp_path}/no/a.onnx"], "no such folder"),
        (["none.mpt", "--to", "onnx", "-o", output], "none.mpt: cannot be read"),
        ([golden, "--to", "pt2", "-o", pt2], "own.mpt: of a network that biprop does not know"),
        ([bare, "--to", "pt2", "--normalised", "-o", pt2], "--normalised: the ticket has no norm"),
    ):
        assert message in refused(capsys, *arguments)
    assert sorted(tmp_path.iterdir()) == [Path(bare)]
