"""Graphs of strangers: every shape is computed, and what does not fit is refused in one line."""

import itertools
import json
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_ticket import change, places

from biprop import Ticket, TicketError
from biprop.models.operations import (
    MOST_NUMBERS,
    OPERATIONS,
    Graph,
    Operation,
    check_graph,
    parse,
)

TENSORS = {
    "w": (4, 3, 3, 3),
    "t": (3, 2, 2, 2),
    "l": (5, 7),
    "b": (4,),
    "c": (3,),
    "v": (7,),
    "s": (),
    "e": (0,),
}
ONES, ZEROS = (1, 1), (0, 0)
WINDOWS = (ONES, ZEROS, ONES, 1)
MAPS = (-1, 3, 8, 9)


def shape_of(shape: tuple[int, ...], *operation: Any, more: tuple[Operation, ...] = ()) -> Any:
    """The shape of an operation's result for an input of this shape."""
    op, inputs, tensors, attributes = (*operation, *[()] * (4 - len(operation)))
    last = Operation(op, inputs or (len(more),), tensors, attributes)
    return check_graph(Graph(shape, (*more, last)), TENSORS)[-1]


FITTING: list[tuple[tuple[int, ...], tuple[Any, ...], tuple[int, ...]]] = [
    (MAPS, ("conv", (), ("w", "b"), WINDOWS), (-1, 4, 6, 7)),
    (MAPS, ("conv", (), ("w", None), ((2, 1), (1, 2), (1, 2), 1)), (-1, 4, 4, 9)),
    ((-1, 6, 8, 9), ("conv", (), ("w", "b"), (ONES, ZEROS, ONES, 2)), (-1, 4, 6, 7)),
    (MAPS, ("conv_transpose", (), ("t", None), ((2, 1), (1, 0), (1, 0), ONES, 1)), (-1, 2, 15, 10)),
    ((-1, 2, 7), ("linear", (), ("l", None)), (-1, 2, 5)),
    (MAPS, ("max_pool", (), (), ((3, 3), (2, 2), ONES, ONES, True)), (-1, 3, 5, 5)),
    (MAPS, ("max_pool", (), (), ((3, 3), (2, 2), ONES, ONES, False)), (-1, 3, 4, 5)),
    (MAPS, ("avg_pool", (), (), ((2, 2), (2, 2), ZEROS, True, True)), (-1, 3, 4, 5)),
    ((-1, 3, 5, 4), ("max_pool", (), (), ((2, 2), (2, 2), ONES, ONES, True)), (-1, 3, 3, 3)),
    (MAPS, ("adaptive_avg_pool", (), (), ((2, 11),)), (-1, 3, 2, 11)),
    (MAPS, ("reshape", (), (), ((-1, 3, 72),)), (-1, 3, 72)),
    (MAPS, ("permute", (), (), ((0, 3, 1, 2),)), (-1, 9, 3, 8)),
    (MAPS, ("mean", (), (), ((3, 1), True)), (-1, 1, 8, 1)),
    (MAPS, ("max", (), (), ((2,), False)), (-1, 3, 9)),
    (MAPS, ("slice", (), (), (3, 1, 9, 3)), (-1, 3, 8, 3)),
    (MAPS, ("pad", (), (), ((0, 0, 0, 0, 7, 0, 1, 2), "reflect", 0.0)), (-1, 3, 15, 12)),
    (MAPS, ("concat", (0, 0), (), (2,)), (-1, 3, 16, 9)),
    ((-1, 1, 3), ("expand", (), (), ((-1, 4, 3),)), (-1, 4, 3)),
    ((-1, 4, 4), ("matmul", (0, 0)), (-1, 4, 4)),
    ((-1, 2, 4, 6), ("attention", (0, 0, 0), (), (None, True)), (-1, 2, 4, 6)),
    (MAPS, ("clamp", (), (), (None, 3)), MAPS),
]


@pytest.mark.parametrize(("given_shape", "operation", "expected"), FITTING)
def test_shapes(given_shape: Any, operation: Any, expected: Any) -> None:
    assert shape_of(given_shape, *operation) == expected


def test_the_batch_may_be_part_of_any_axis() -> None:
    steps = (
        Operation("permute", (0,), (), ((1, 0, 2),)),
        Operation("reshape", (1,), (), ((2, -6),)),
        Operation("reshape", (2,), (), ((-3, 2, 2),)),
        Operation("softmax", (3,), (), (1,)),
    )
    assert shape_of((-1, 4, 3), "reshape", (), (), ((-1, 12),), more=steps) == (-1, 12)
    with pytest.raises(TicketError, match="axis 1 is of the batch"):
        shape_of((-1, 4, 3), "softmax", (), (), (1,), more=steps[:2])


BIG = 1 << 27
REFUSED: list[tuple[tuple[int, ...], tuple[Any, ...], str]] = [
    (MAPS, ("conv", (), ("w", "c"), WINDOWS), r"its bias is \(3,\), not \(4,\)"),
    (MAPS, ("conv", (), ("x", None), WINDOWS), "no tensor"),
    (MAPS, ("conv", (), (None, "b"), WINDOWS), "no weight"),
    (MAPS, ("conv", (), ("e", None), WINDOWS), "an empty tensor"),
    (MAPS, ("conv", (), ("s", None), WINDOWS), "over -2 axes"),
    (MAPS, ("conv", (), ("w",), WINDOWS), "1 tensors"),
    (MAPS, ("conv", (), ("w", None), WINDOWS[:3]), "3 attributes"),
    (MAPS, ("conv", (), ("w", None), ((0, 1), ZEROS, ONES, 1)), r"stride \(0, 1\)"),
    (MAPS, ("conv", (), ("w", None), (ONES, (-1, 0), ONES, 1)), "padding"),
    (MAPS, ("conv", (), ("w", None), ((1,), ZEROS, ONES, 1)), "stride"),
    (MAPS, ("conv", (), ("w", None), (ONES, ZEROS, (4, 4), 1)), "windows of 3 on a side of 8"),
    (MAPS, ("conv", (), ("w", None), (ONES, ZEROS, ONES, 0)), "0 groups"),
    (
        MAPS,
        ("conv", (), ("w", None), ((1 << 28,) * 2, (BIG,) * 2, ONES, 1)),
        "numbers a sample: more",
    ),
    ((-1, 3, 2, 9), ("conv", (), ("w", None), WINDOWS), "on a side of 2"),
    ((-1, 4, 8, 9), ("conv", (), ("w", None), WINDOWS), "on 4 channels"),
    (MAPS, ("conv_transpose", (), ("t", None), (ONES, (5, 5), ZEROS, ONES, 1)), "nothing is left"),
    (MAPS, ("conv_transpose", (), ("t", None), (ONES, ZEROS, ONES, ONES, 1)), "output_padding 1"),
    (MAPS, ("linear", (), ("l", None)), "on 9 features"),
    (MAPS, ("batch_norm", (), (None, None, "c", "b"), (1e-5,)), "its running_var is"),
    (MAPS, ("batch_norm", (), (None, None, "c", "c"), (float("nan"),)), "eps nan"),
    (MAPS, ("group_norm", (), (None, None), (2, 1e-5)), "2 groups"),
    (MAPS, ("layer_norm", (), (None, None), (4, 1e-5)), "the last 4 axes"),
    (MAPS, ("softmax", (), (), (0,)), "axis 0 is of the batch"),
    (MAPS, ("softmax", (), (), (-1,)), "axis -1 of 4"),
    (MAPS, ("mean", (), (), ((0,), False)), "of the batch"),
    (MAPS, ("mean", (), (), ((1, 1), False)), "axes"),
    (MAPS, ("max_pool", (), (), ((3, 3), ONES, (2, 2), ONES, False)), "padding"),
    (MAPS, ("adaptive_max_pool", (), (), ((0, 1),)), "sizes"),
    (MAPS, ("reshape", (), (), ((-1, 215),)), r"to \(-1, 215\)"),
    (MAPS, ("reshape", (), (), ((-1, -1, -216),)), "shape"),
    (MAPS, ("reshape", (), (), ((216,),)), "shape"),
    (MAPS, ("expand", (), (), ((-1, 3, BIG, 9),)), "shape"),
    ((-1, 1, 1), ("expand", (), (), ((-1, BIG, BIG),)), "a result of shape"),
    ((-1, 1, 1), ("expand", (), (), ((2, 1, 1),)), "shape"),
    (MAPS, ("permute", (), (), ((0, 1, 2, 2),)), "axes"),
    (MAPS, ("slice", (), (), (1, 2, 2, 1)), "2:2:1"),
    (MAPS, ("slice", (), (), (1, 0, 4, 1)), "0:4:1"),
    (MAPS, ("pad", (), (), ((1, 0, 0, 0, 0, 0, 0, 0), "constant", 0.0)), "padding of the batch"),
    (MAPS, ("pad", (), (), ((0, 0, 0, 0, 8, 0, 0, 0), "reflect", 0.0)), "pads"),
    (MAPS, ("pad", (), (), ((0,) * 8, "wrap", 0.0)), "mode 'wrap'"),
    (MAPS, ("add", (0, 1)), r"inputs \(0, 1\)"),
    (MAPS, ("add", (0, -1)), "inputs"),
    (MAPS, ("add", (0,)), "1 inputs"),
    ((-1, 2, 3), ("matmul", (0, 0)), "a product of shapes"),
    ((-1, 7), ("matmul", (0, 0)), "a product of shapes"),
    ((-1, 3), ("embedding", (), ("l",)), "not of whole numbers"),
    (MAPS, ("concat", (0, 0), (), (0,)), "of the batch"),
    (MAPS, ("clamp", (), (), (2, 1)), "wrong order"),
    (MAPS, ("leaky_relu", (), (), (True,)), "slope True"),
    (MAPS, ("scale", (), (), (1 << 200, 0)), "factor"),
]


@pytest.mark.parametrize(("shape", "operation", "message"), REFUSED)
def test_what_does_not_fit_is_one_line(shape: Any, operation: Any, message: str) -> None:
    with pytest.raises(TicketError, match=message) as e:
        shape_of(shape, *operation)
    assert "\n" not in str(e.value)
    assert str(e.value).startswith(f"its graph: operation 1, {operation[0]}")


def test_whole_numbers_go_into_embeddings_only() -> None:
    embedded = Operation("embedding", (1,), ("l",))
    cut = Operation("slice", (0,), (), (1, 0, 2, 1))
    words = Graph((-1, 3), (cut, embedded), indices=True)
    assert check_graph(words, TENSORS)[1:] == [(-1, 2), (-1, 2, 7)]
    for operation in (Operation("relu", (0,)), Operation("linear", (0,), ("l", None))):
        with pytest.raises(TicketError):
            check_graph(Graph((-1, 7), (operation,), indices=True), TENSORS)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (Graph((-1, 3), ()), "0 operations"),
        (Graph((-1, 0), (Operation("relu", (0,)),)), "an input of shape"),
        (Graph((-1, -1), (Operation("relu", (0,)),)), "an input of shape"),
        (Graph((-1, MOST_NUMBERS + 1), (Operation("relu", (0,)),)), "an input of shape"),
        (Graph((-1, 3), (Operation("relu", (0,)), Operation("tanh", (0,)))), "nothing reads"),
        (Graph((-1, 3), (Operation("tensor", (), ("b",)),)), "an output of shape"),
        (Graph((-1, 3), (Operation("permute", (0,), (), ((1, 0),)),)), "an output of shape"),
        (Graph((-1, 3), (Operation("relu", (0,)),), constants=("b", "b")), "comes twice"),
    ],
)
def test_the_whole_is_checked(graph: Graph, message: str) -> None:
    with pytest.raises(TicketError, match=message):
        check_graph(graph, TENSORS)


GOLDEN = ROOT / "tests" / "golden"
TICKET = Ticket.load(GOLDEN / "graph.mpt")
assert TICKET.graph
DESCRIBED = TICKET.graph.as_json()


def test_a_graph_is_what_was_written() -> None:
    again = parse(json.loads(json.dumps(DESCRIBED)))
    assert again == TICKET.graph
    assert check_graph(again, TICKET.shapes)[-1] == (-1, 5)


IN_GRAPH = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([2**28, 2**40, -(2**31), 2**70]),
    st.floats(),
    st.sampled_from([*OPERATIONS, "x", "\n", "conv1.weight"]),
    st.lists(st.integers(-3, 9), max_size=9),
    st.just({}),
)
PLACES = places(DESCRIBED)


@given(st.lists(st.tuples(st.sampled_from(PLACES), IN_GRAPH), min_size=1, max_size=2))
def test_any_graph_is_read_or_refused(changes: list[tuple[Any, Any]]) -> None:
    described: Any = DESCRIBED
    for path, value in changes:
        try:
            described = change(described, path, value)
        except (TypeError, KeyError, IndexError, AttributeError):
            continue  # the first change took the place of the second away
    try:
        graph = parse(described)
        shapes = check_graph(graph, TICKET.shapes)
    except TicketError as e:
        assert len(str(e)) < 400 and str(e).isprintable()
        return
    sizes = list(itertools.chain.from_iterable(shapes))
    assert all(type(size) is int and size for size in sizes)
    assert len(shapes) == len(graph.operations) + 1
