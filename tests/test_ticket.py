"""The ticket file: exact, small, the same everywhere, and safe to open."""

import hashlib
import itertools
import json
import re
import struct
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, network_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from biprop.engine.reference import Reference
from biprop.ticket import Layer, Ticket, TicketError, entropy_coding, report
from biprop.ticket.entropy_coding import Model

GOLDEN = ROOT / "tests" / "golden"
NETWORK = network_of("Conv2", (15, 18), num_classes=5)


def layer(
    name: str, number: int, shape: tuple[int, ...], signs: Any = "seed", density: float = 0.2
) -> Layer:
    generator = np.random.default_rng(number)
    mask = generator.random(shape) < density
    kept = int(mask.sum())
    stored = (
        np.packbits(generator.random(kept) < 0.5, bitorder="little") if signs == "stored" else None
    )
    return Layer(
        name,
        number,
        shape,
        kept,
        0.1 + number,
        np.packbits(mask.ravel(), bitorder="little"),
        signs,
        stored,
    )


def small_ticket(**changes: Any) -> Ticket:
    state: dict[str, Any] = {
        "bn.running_mean": np.arange(4, dtype=np.float32),
        "bn.running_var": np.ones(4, dtype=np.float32),
        "fc.bias": np.array([0.5, -0.25, 3], dtype=np.float32),
    }
    layers = [
        layer("conv", 0, (4, 3, 3, 3)),
        layer("mid", 1, (5, 4), "positive"),
        layer("fc", 3, (3, 5), "stored"),
    ]
    about: dict[str, Any] = {
        "state": state,
        "input_size": (3, 8, 8),
        "classes": ["a", "ü"],
        "mean": (0.5,),
        "std": (0.25,),
        "found": {"epoch": 3},
    }
    return Ticket(None, 7, layers, **{**about, **changes})


def assert_same(ticket: Ticket, other: Ticket) -> None:
    for a, b in zip(ticket.layers, other.layers, strict=True):
        assert (a.name, a.number, a.shape, a.kept, a.signs) == (
            b.name,
            b.number,
            b.shape,
            b.kept,
            b.signs,
        )
        assert np.array_equal(ticket.weight(a), other.weight(b))
        assert np.array_equal(ticket.sign_plane(a), other.sign_plane(b))
    assert list(ticket.state) == list(other.state)
    assert all(np.array_equal(ticket.state[name], other.state[name]) for name in ticket.state)
    for field in ("network", "seed", "input_size", "classes", "mean", "std", "found", "compact"):
        assert getattr(ticket, field) == getattr(other, field), field


def test_a_ticket_is_what_was_saved_and_its_bytes_are_always_the_same(tmp_path: Path) -> None:
    ticket = small_ticket()
    size = ticket.save(tmp_path / "a.mpt")
    assert size == (tmp_path / "a.mpt").stat().st_size
    loaded = Ticket.load(tmp_path / "a.mpt")
    assert_same(ticket, loaded)
    assert loaded.to_bytes() == ticket.to_bytes() == (tmp_path / "a.mpt").read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mpt"]


def test_the_state_may_come_in_any_order() -> None:
    shapes: dict[str, tuple[int, ...]] = {"a.x": (2,), "b.x": (2,), "a.y": (2,), "c.x": (3,)}
    shapes |= {"lone": (), "c.y": (1, 2), "empty.x": (0,)}
    state = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}
    loaded = Ticket.from_bytes(small_ticket(state=state).to_bytes())
    assert loaded.state.keys() == state.keys()
    assert all(np.array_equal(loaded.state[name], state[name]) for name in state)


def test_safetensors_can_look_inside(tmp_path: Path) -> None:
    small_ticket().save(tmp_path / "a.mpt")
    with safe_open(tmp_path / "a.mpt", "np") as file:
        assert set(file.keys()) == {"gains", "state", "masks", "signs"}
        assert file.get_tensor("gains").tolist() == [
            np.float32(0.1),
            np.float32(1.1),
            np.float32(3.1),
        ]
        assert json.loads(file.metadata()["ticket"])["seed"] == "7"


def test_compact_halves_the_state_and_rounds_it() -> None:
    values = np.random.default_rng(0).normal(0, 10, 1000).astype(np.float32)
    values[:2] = 1 + 2.0**-8, 1 + 3 * 2.0**-8  # halfway between two: the even one is taken
    exact, compact = (small_ticket(state={"x": values}, compact=c) for c in (False, True))
    assert len(exact.to_bytes()) - len(compact.to_bytes()) == pytest.approx(2000, abs=16)
    rounded = Ticket.from_bytes(compact.to_bytes()).state["x"]
    assert np.abs(rounded / values - 1).max() <= 2.0**-8
    assert np.array_equal(rounded, torch.from_numpy(values).bfloat16().float().numpy())


def test_the_planes_are_the_same_on_every_platform() -> None:
    digest = hashlib.sha256()
    ticket = Ticket.load(GOLDEN / "tiny.mpt")
    for first in ticket.layers:
        digest.update(
            first.mask.tobytes()
            + ticket.sign_plane(first).tobytes()
            + ticket.weight(first).astype("<f4").tobytes()
        )
    assert digest.hexdigest() == PLANES


PLANES = "5de1655a602e8022dff73e9b7d7dfbfd3e98f6a89140f0a3c1d1ce51b98cce27"


@pytest.mark.parametrize("name", ["tiny", "own", "compact", "graph", "folded"])
def test_golden_tickets_read_and_write_as_ever(name: str) -> None:
    content = (GOLDEN / f"{name}.mpt").read_bytes()
    assert Ticket.from_bytes(content).to_bytes() == content


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("graph", [-1.6221766, -1.6352475, -1.8108388, -1.7042246, -1.3386587]),
        ("folded", [0.1190505, -0.1000613, -0.0154525, -0.0027508, -0.1564014]),
    ],
)
def test_golden_tickets_with_a_graph_compute_as_ever(name: str, expected: list[float]) -> None:
    ticket = Ticket.load(GOLDEN / f"{name}.mpt")
    assert ticket.input_shape
    numbers = np.arange(np.prod(ticket.input_shape), dtype=np.float32) % 7 / 7
    images = numbers.reshape(1, *ticket.input_shape)
    assert ticket.output_shape == (5,)
    np.testing.assert_allclose(Reference(ticket).run(images), [expected], atol=1e-6)
    with torch.no_grad():
        logits = ticket.to_model()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, [expected], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": []}, "the graph"),
        ({"network": NETWORK}, "a graph of a network of the registry"),
        ({"input_size": [3, 15, 17]}, "another size than the graph's"),
        ({"classes": ["a"]}, "other classes than the graph's"),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, "of other inputs"),
        ({"state": []}, "another size"),
        ({"layers": []}, "gains"),
    ],
)
def test_a_graph_that_contradicts_its_ticket_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    header, description, data = taken_apart((GOLDEN / "graph.mpt").read_bytes())
    header["__metadata__"]["ticket"] = json.dumps({**description, **changes})
    with pytest.raises(TicketError, match=message):
        Ticket.from_bytes(with_sum(header, data))
    for key, value in (("constants", ["x"]), ("operations", [["run", [0], [], []]])):
        graph = {**description["graph"], key: value}
        header["__metadata__"]["ticket"] = json.dumps({**description, "graph": graph})
        with pytest.raises(TicketError, match=r"constants that|unknown operation"):
            Ticket.from_bytes(with_sum(header, data))


def test_version_1_ignores_a_graph_and_version_2_needs_one_or_null() -> None:
    header, description, data = taken_apart((GOLDEN / "graph.mpt").read_bytes())
    header["__metadata__"]["version"] = "1"
    assert Ticket.from_bytes(with_sum(header, data)).graph is None
    header["__metadata__"]["version"] = "2"
    header["__metadata__"]["ticket"] = json.dumps({**description, "graph": None})
    ticket = Ticket.from_bytes(with_sum(header, data))
    assert ticket.graph is None and ticket.output_shape is None
    del description["graph"]
    header["__metadata__"]["ticket"] = json.dumps(description)
    with pytest.raises(TicketError, match="graph"):
        Ticket.from_bytes(with_sum(header, data))


def with_sum(header: dict[str, Any], data: bytes) -> bytes:
    """A file of this header and these data whose checksum is right."""
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + data
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


def taken_apart(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["ticket"]), content[8 + length :]


def test_every_flipped_byte_is_noticed() -> None:
    content = small_ticket().to_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(TicketError):
            Ticket.from_bytes(bytes(damaged))


def test_every_truncation_is_noticed() -> None:
    content = small_ticket().to_bytes()
    for length in range(len(content)):
        with pytest.raises(TicketError):
            Ticket.from_bytes(content[:length])
    with pytest.raises(TicketError, match=r"after the last tensor|checksum"):
        Ticket.from_bytes(content + b"\0")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**40, 2**63, 2**64]),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-3, 2**50), max_size=9),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a value of JSON, and its own."""
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    below = [places(child, (*path, key)) for key, child in inside]
    return [path, *itertools.chain.from_iterable(below)]


def change(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = change(value[path[0]], path[1:], new)
    return copied


HEADER, DESCRIPTION, DATA = taken_apart(small_ticket().to_bytes())


HOSTILE = [
    *(None, True, -1, 0, 1, 2, 3, 255, 2**31, 2**32, 2**40, 2**63, 2**70, 0.5, 1e300),
    *("", "x", "F32", "BF16", "seed", "stored", "i9"),
    *([], {}, [0], [2**33], [1] * 9, [2**20, 2**20], [-1, 5], ["a"], [[], [], []]),
]
"""What takes the place of a value."""


def hostile(original: bytes, draw: np.random.Generator) -> bytes:
    """A ticket with a value of the header or the description replaced, or a byte of the data
    changed, and the checksum made to fit.
    """
    header, description, first_data = taken_apart(original)
    data, has_new_description = bytearray(first_data), False
    kind, new = draw.integers(5), HOSTILE[draw.integers(len(HOSTILE))]
    if kind == 0:
        in_header = places(header)
        header = change(header, in_header[draw.integers(1, len(in_header))], new)
    if kind in (1, 2, 3):
        in_description = places(description)
        description = change(description, in_description[draw.integers(len(in_description))], new)
        has_new_description = True
    if kind >= 3:
        data[draw.integers(len(data))] ^= draw.integers(1, 256)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + bytes(data)
    if has_new_description:
        header = {**header, "__metadata__": {**metadata, "ticket": json.dumps(description)}}
    return with_sum(header, bytes(data))


@pytest.mark.parametrize(
    "part", [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in range(2, 10))]
)
def test_hostile_files_with_a_right_checksum(part: int) -> None:
    """10,000 files in all; those of a network of the registry take ten times as long."""
    draw = np.random.default_rng(part)
    original = small_ticket().to_bytes() if part else (GOLDEN / "tiny.mpt").read_bytes()
    tracemalloc.start()
    for _ in range(1100 if part else 200):
        content = hostile(original, draw)
        try:
            ticket = Ticket.from_bytes(content, 1 << 16)
            report.ticket_report(ticket, len(content))
            for masked in ticket.layers:
                ticket.weight(masked)
            ticket.to_model()
        except TicketError as e:
            assert len(str(e)) < 400 and "\n" not in str(e)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(TicketError):
        Ticket.from_bytes(content)


@given(VALUES)
def test_any_description_is_read_or_refused(value: Any) -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], "ticket": json.dumps(value)}}
    with pytest.raises(TicketError):
        Ticket.from_bytes(with_sum(header, DATA))


def test_deep_json_is_refused() -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], "ticket": "[" * 100_000}}
    with pytest.raises(TicketError, match="JSON"):
        Ticket.from_bytes(with_sum(header, DATA))


def described(**changes: Any) -> bytes:
    header = {
        **HEADER,
        "__metadata__": {
            **HEADER["__metadata__"],
            "ticket": json.dumps({**DESCRIPTION, **changes}),
        },
    }
    return with_sum(header, DATA)


def test_what_a_newer_program_wrote_is_refused_with_advice() -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], "version": "3"}}
    with pytest.raises(
        TicketError,
        match=r"version 3 of the ticket format; this biprop reads up to 2: install a newer one",
    ):
        Ticket.from_bytes(with_sum(header, DATA))
    with pytest.raises(TicketError, match="generator 2: this biprop has version 1"):
        Ticket.from_bytes(described(generator=2))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["conv", 0, [2**16, 2**16, 2, 2], 1, "seed", ""], "more than"),
        (["conv", 0, [2**29], 2**28, "seed", ""], "in a stream of"),
        (["conv", 0, [2**31], 0, "seed", ""], "if you trust it"),
        (["conv", 0, [2**17, 1], 1, "positive", "o20"], "at most 65536"),
        (["conv", 0, [1, 2**17], 1, "positive", "o0"], "at most 65536"),
        (["conv", 0, [4, 0], 0, "seed", ""], "shape"),
        (["fc", 0, [4, 3], 5, "seed", ""], "comes twice|keep as many|too early|not end"),
        (["a\nb", 0, [4, 3], 5, "seed", ""], "name"),
        (["conv", 0, [4, 3, 3, 3], 109, "seed", ""], "keeps 109"),
        (["conv", 0, [4, 3, 3, 3], -1, "seed", ""], "keeps -1"),
        (["conv", -1, [4, 3, 3, 3], 5, "seed", ""], "number"),
        (["conv", 0, [4, -3], 5, "seed", ""], "shape"),
        (["conv", 0, [4, 3, 3, 3], 5, "drawn", ""], "signs"),
        (["conv", 0, [4, 3, 3, 3], 5, "seed", "o99"], "unknown model"),
    ],
)
def test_impossible_layers_are_refused(entry: list[Any], message: str) -> None:
    tracemalloc.start()
    with pytest.raises(TicketError, match=message):
        Ticket.from_bytes(described(layers=[entry, *DESCRIPTION["layers"][1:]]))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("kept", [0, 2**28])
def test_a_small_file_of_a_large_mask_takes_no_more_than_its_planes(kept: int) -> None:
    tracemalloc.start()
    layers = [["conv", 0, [2**14, 2**14], kept, "seed", ""], *DESCRIPTION["layers"][1:]]
    with pytest.raises(TicketError):  # the stream is of other masks
        Ticket.from_bytes(described(layers=layers))
    assert tracemalloc.get_traced_memory()[1] < 1.1 * 2**25
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": [[["p"] * 600, ["q"] * 600, [0]]]}, "more than 262144 names"),
        ({"state": [[["conv"], ["weight"], [11]]]}, "comes twice"),
        ({"seed": 7}, "seed"),
        ({"seed": "07"}, "seed"),
        ({"seed": str(2**64)}, r"the seed is 2\*\*64 or more"),
        ({"generator": True}, "generator True"),
        ({"std": [0.0]}, "mean and std"),
        ({"mean": [0.5, 0.5]}, "mean and std"),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, "of other images"),
        ({"classes": ["\ud800"]}, "classes"),
        ({"network": {"name": "Conv2"}}, "network's options"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TicketError, match=message):
        Ticket.from_bytes(described(**changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 10**12),
        ("num_classes", -1),
        ("input_size", [10**6, 10**6]),
        ("width_mult", 1e999),
        ("width_mult", 100),
        ("width_mult", "x"),
        ("name", "Conv3"),
        ("bn_type", "None"),
        ("ancestor", 1),
        ("channels", 0),
    ],
)
def test_impossible_networks_are_refused(name: str, value: Any) -> None:
    header, description, data = taken_apart((GOLDEN / "tiny.mpt").read_bytes())
    network = {**description["network"], name: value}
    text = json.dumps({**description, "network": network, "classes": [], "input_size": None})
    header["__metadata__"]["ticket"] = text
    tracemalloc.start()
    with pytest.raises(TicketError):
        Ticket.from_bytes(with_sum(header, data)).to_model()
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


def test_a_ticket_is_shown_in_one_line() -> None:
    shown = repr(small_ticket())
    assert shown.startswith("Ticket(a network of the user's own, 3 layers, ")
    assert re.search(r", \d+ of 143 weights kept \(\d+\.\d\d %\)\)$", shown)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="cannot be read: No such file"):
        Ticket.load(tmp_path / "absent.mpt")
    (tmp_path / "x.mpt").write_bytes(b"PK\3\4 a checkpoint")
    with pytest.raises(TicketError, match=r"x\.mpt: not a ticket.*; biprop pack makes one"):
        Ticket.load(tmp_path / "x.mpt")
    with pytest.raises(TicketError, match="a folder, not a ticket; biprop pack makes one of a run"):
        Ticket.load(tmp_path)


def test_saving_where_one_cannot_write_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TicketError.__mro__[1], match="cannot be written"):
        small_ticket().save(tmp_path / "no" / "folder.mpt")


def test_names_are_counted_before_they_are_made() -> None:
    header, about, data = taken_apart(small_ticket(state={}).to_bytes())
    for prefixes, leaves in (
        (["p" * 1000], [f"{i:x}" for i in range(1 << 18)]),
        ([f"{i:x}" for i in range(1 << 18)], ["l" * 1000]),
    ):
        about["state"] = [[prefixes, leaves, [0]]]
        header["__metadata__"]["ticket"] = json.dumps(about)
        with pytest.raises(TicketError, match=r"names of .* characters"):
            Ticket.from_bytes(with_sum(header, data))


def test_a_large_layer_coded_row_by_row_needs_a_stream_of_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = Layer(
        "a", 0, (64, 64), 1, 1.0, np.zeros(512, np.uint8), "positive", model=Model("o", 3)
    )
    large.mask[0] = 1
    content = Ticket(None, None, [large], {}).to_bytes()
    assert Ticket.from_bytes(content).kept == 1
    monkeypatch.setattr(entropy_coding, "MOST_UNPACKED", 0)
    monkeypatch.setattr(entropy_coding, "WEIGHTS_A_BIT", 1)
    with pytest.raises(
        TicketError, match="a layer of 4096 weights coded row by row in a stream of"
    ):
        Ticket.from_bytes(content)
