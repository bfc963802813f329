"""Mutated tickets, decks, checkpoints and configurations: each is read, or refused in one line, and
both decoders agree.

    python tests/fuzz.py [tickets] [graphs] [decks] [checkpoints] [configurations] [--seconds 60]
        [--seed 0]

Mutants keep their structure and a right checksum, so that they come past the first checks. One
whose outcome is new becomes a parent of others. A fault is an exception that is no `UserError`, a
message that is not one line, a decoder that contradicts the other one, numbers of a damaged file, a
file that cannot be written as it was read, or more memory or time than the limits below. What is
printed at the end is in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import math
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
import types
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from conftest import ROOT, checkpoint_fields, network_of, random_ticket
from own_networks import packed

from biprop import Deck, Ticket, UserError, checkpoint, config, native
from biprop.checkpoint import archive
from biprop.config import Config
from biprop.deck.report import deck_report
from biprop.engine.reference import Reference
from biprop.models.network import Task
from biprop.models.operations import OPERATIONS, check_graph
from biprop.search import pack
from biprop.ticket.report import ticket_report

MOST_WEIGHTS = 1 << 18
MOST_SECONDS = 5.0
MOST_MEMORY = 6 << 30
"""Of the address space of the process, PyTorch included."""
LARGEST_MUTANT = 1 << 18

SMALL = [None, True, False, -1, 0, 1, 2, 7, 8, 9, 255, 256, 65535, 65536, 0.5, 1e300, 1e-320]
LARGE = [2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63)]
WORDS = [
    "",
    "x",
    "seed",
    "stored",
    "positive",
    "i9",
    "o6",
    "o20",
    "i21",
    "../x",
    "conv.weight",
    "Conv2",
    "cResNet20",
]
ODD_WORDS = ["\0", "\u202e", "é", "\ud800", "x" * 5000, "0" * 64]
LISTS = [[], [0], [1], [2**33], [1] * 9, [2**20, 2**20], [-1, 5], [[], [], []], [[""], [""], []]]
VALUES: list[Any] = [*SMALL, *LARGE, *WORDS, *ODD_WORDS, *LISTS, {}, {"a": 1}]
"""What takes the place of a value."""
IN_JSON = [
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "[" * 3000,
    '{"a":' * 2000,
    "9" * 4400,
    '"\\ud83d"',
    "-0",
    "\ufeff",
    "\0",
]
IN_YAML = [
    "*a",
    "&a ",
    "<<: ",
    "!!python/name:os.system ",
    "2024-02-30",
    "base: fuzz.yml\n",
    "? ",
    "- ",
    "|\n",
    "%YAML 9\n",
]
TEXTS = [*IN_JSON, *IN_YAML, "---\n", "0x1F", "1:30", ".inf", "\t", "//"]
"""What is put into a text."""
MOVES = [
    b".",
    b"(",
    b")",
    b"]",
    b"}",
    b"s",
    b"u",
    b"R",
    b"b",
    b"t",
    b"0",
    b"a",
    b"e",
    b"N",
    b"Q",
    b"\x81",
    b"\x80\5",
    b"\x93",
]
MEMO = [b"\x85", b"\x86", b"\x87", b"q\0", b"h\0", b"h\1"]
NUMBERS = [
    b"J\xff\xff\xff\x7f",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"G\x7f\xf0\0\0\0\0\0\0",
    b"B\0\0\0\x10",
]
NAMES = [
    "os.system",
    "builtins.eval",
    "torch.load",
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage",
    "collections.OrderedDict",
    "collections.defaultdict",
    "_codecs.encode",
    "pathlib.PosixPath",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
]
OPCODES = [
    *MOVES,
    *MEMO,
    *NUMBERS,
    *("c{}\n{}\n".format(*name.rsplit(".", 1)).encode() for name in NAMES),
]
"""What is put into a pickle."""


class Fault(Exception):
    """Something that must not happen."""


# Mutation of nested values, texts and bytes.


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested dictionaries and lists."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for number, child in enumerate(value[:60]):
            yield from places(child, (*at, number))


def value_at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def changed(value: Any, draw: random.Random, values: list[Any] = VALUES) -> Any:
    """A deep copy with one to three values replaced, removed, repeated or a little larger."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        every = list(places(value))
        place = draw.choice(every)
        if not place:
            continue
        parent, key = value_at(value, place[:-1]), place[-1]
        how = draw.randrange(6)
        if how <= 2:
            parent[key] = copy.deepcopy(draw.choice(values))
        elif how == 3:
            del parent[key]
        elif how == 4:
            parent[key] = copy.deepcopy(value_at(value, draw.choice(every)))
        elif type(parent[key]) in (int, float):
            parent[key] += draw.choice([-1, 1, 2, -2, 8, 256])
        elif isinstance(parent[key], list):
            parent[key].insert(draw.randrange(5), copy.deepcopy(draw.choice(values)))
    return value


def garbled(text: str, draw: random.Random) -> str:
    """The text with something put in, left out, repeated, or in the place of a number."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(text) + 1)
        how = draw.randrange(4)
        if how == 0:
            text = text[:at] + draw.choice(TEXTS) + text[at:]
        elif how == 1:
            text = text[:at] + text[at + draw.randrange(1, 9) :]
        elif how == 2:
            text = text[:at] + text[at : at + 40] + text[at:]
        elif numbers := list(re.finditer(r"-?\d+(\.\d+)?", text)):
            number = draw.choice(numbers)
            text = text[: number.start()] + draw.choice(TEXTS) + text[number.end() :]
    return text


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One to eight bits are others."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8]) if content else 0):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


# Tickets and decks.


def taken_apart(content: bytes) -> tuple[dict[str, Any], str, bytes]:
    """Header, name of the description in its metadata, and data of a ticket or deck."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    what = "ticket" if "ticket" in header["__metadata__"] else "deck"
    return header, what, content[8 + length :]


def sealed(header: str, data: bytes) -> bytes:
    """A file of this header and data whose checksum fits."""
    text = re.sub(r'("sha256":\s*")[0-9a-f]{64}"', rf'\g<1>{"0" * 64}"', header, count=1).encode(
        "utf-8", "surrogatepass"
    )
    whole = struct.pack("<Q", len(text)) + text + data
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


def mutated_ticket(content: bytes, draw: random.Random) -> bytes:
    """A ticket or deck with another description, header or data, and a checksum that fits."""
    if draw.random() < 0.02:
        return flipped(content[: draw.randrange(len(content) + 1)], draw)
    try:
        header, what, data = taken_apart(content)
        description = header["__metadata__"][what]
        how = draw.randrange(8)
        if how <= 3:
            description = json.dumps(changed(json.loads(description), draw), separators=(",", ":"))
        elif how == 4:
            description = garbled(description, draw)
        elif how == 5:
            header = changed(header, draw)
        if how >= 6 or draw.random() < 0.2:
            data = flipped(data, draw)
        if how != 5:
            header["__metadata__"][what] = description
        text = json.dumps(header, separators=(",", ":"))
        return sealed(garbled(text, draw) if draw.random() < 0.05 else text, data)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # a parent that is no such file any more
        return flipped(content, draw)


@contextmanager
def by_numpy() -> Iterator[None]:
    """While the block runs, numpy decodes and not the compiled core."""
    library = native.library
    native.library = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        native.library = library


def planes(ticket: Ticket) -> list[Any]:
    own = [
        (
            layer.name,
            layer.mask.tobytes(),
            None if layer.stored is None else layer.stored.tobytes(),
            layer.gain,
        )
        for layer in ticket.layers
    ]
    return [own, {name: value.tobytes() for name, value in ticket.state.items()}]


def read_by_both(read: Callable[[bytes], Any], content: bytes) -> Any:
    """What is read, by both decoders; the refusal, if both refuse in the same words.

    Raises:
        UserError: both refuse.
        Fault: they disagree.
    """
    answers: list[Any] = []
    for decoder in (nullcontext, by_numpy):
        try:
            with decoder():
                answers.append(read(content))
        except UserError as e:
            answers.append(e)
    compiled, plain = answers
    if isinstance(compiled, UserError) or isinstance(plain, UserError):
        if str(compiled) != str(plain):
            raise Fault(f"one decoder reads or says {compiled!r:.200}, the other {plain!r:.200}")
        raise compiled
    cards = [answer.cards if isinstance(answer, Deck) else [answer] for answer in answers]
    if [planes(card) for card in cards[0]] != [planes(card) for card in cards[1]]:
        raise Fault("the decoders read other weights")
    return compiled


def execute_ticket(content: bytes) -> None:
    ticket = read_by_both(lambda file: Ticket.from_bytes(file, MOST_WEIGHTS), content)
    ticket_report(ticket, len(content))
    for layer in ticket.layers:
        ticket.weight(layer)
    if planes(Ticket.from_bytes(ticket.to_bytes(), MOST_WEIGHTS)) != planes(ticket):
        raise Fault("written and read again it is another ticket")


# Graphs: the operations of a network of the user's own, in a ticket.

GRAPH_VALUES: list[Any] = [
    *OPERATIONS,
    *(None, True, False, -3, -2, -1, 0, 1, 2, 3, 4, 8, 16, 1000, 2**20, 2**28, 2**40, 0.5, 1e300),
    *([], [-1], [1, 1], [0, 0], [2, 2], [-1, 8], [-1, 1, 1], [2, -1], [1, 0, 2, 3], [0, 1, 2, 3]),
    *("x", "reflect", "circular", "replicate", [2**14, 2**14], [-1, 2**27], [1] * 9),
]
"""What takes the place of a value in a graph."""
MOST_RUN = 1 << 18
"""Numbers of all values of a graph that is computed."""


def mutated_graph(content: bytes, draw: random.Random) -> bytes:
    """A ticket with another graph, and a checksum that fits."""
    try:
        header, _, data = taken_apart(content)
        description = json.loads(header["__metadata__"]["ticket"])
        description["graph"] = _other_graph(description["graph"], draw)
        header["__metadata__"]["ticket"] = json.dumps(description, separators=(",", ":"))
        return sealed(json.dumps(header, separators=(",", ":")), data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return mutated_ticket(content, draw)


def _other_graph(graph: Any, draw: random.Random) -> Any:
    """The graph with other values, mostly in one operation: of many, few would come far."""
    if draw.random() < 0.2 or not graph["operations"]:
        return changed(graph, draw, GRAPH_VALUES)
    operations = list(graph["operations"])
    at = draw.randrange(len(operations))
    if draw.random() < 0.6:
        operations[at] = _similar(operations[at], draw)
    else:
        operations[at] = changed(operations[at], draw, GRAPH_VALUES)
    return {**graph, "operations": operations}


def _similar(operation: Any, draw: random.Random) -> Any:
    """The operation with another number among its attributes, or another one of its kind."""
    op, inputs, tensors, attributes = copy.deepcopy(operation)
    kind = OPERATIONS[op]
    alike = [name for name, k in OPERATIONS.items() if k.attributes == kind.attributes]
    lists = [attributes, *(value for value in attributes if isinstance(value, list) and value)]
    chosen = draw.choice(lists)
    numbers = [i for i, value in enumerate(chosen) if type(value) in (int, bool)]
    if not numbers or draw.random() < 0.2:
        return [draw.choice(alike), inputs, tensors, attributes]
    number = draw.choice(numbers)
    if type(chosen[number]) is bool:
        chosen[number] = not chosen[number]
    else:
        chosen[number] += draw.choice([-2, -1, 1, 1, 2])
    return [op, inputs, tensors, attributes]


def execute_graph(content: bytes) -> None:
    """What is read is computed as well, by numpy and by PyTorch, in the shape that was checked."""
    execute_ticket(content)
    ticket = Ticket.from_bytes(content, MOST_WEIGHTS)
    if ticket.graph is None:
        return
    shapes = check_graph(ticket.graph, ticket.shapes)
    if sum(abs(math.prod(shape)) for shape in shapes) > MOST_RUN:
        return
    size = (3, *ticket.graph.input[1:])
    generator = np.random.default_rng(0)
    batch = generator.integers(0, 11, size) if ticket.graph.indices else generator.random(size)
    batch = batch if ticket.graph.indices else batch.astype(np.float32)
    with np.errstate(all="ignore"):
        computed = Reference(ticket).run(batch)
    with torch.no_grad():
        by_torch = ticket.to_model()(torch.from_numpy(batch))
    shape = (3, *shapes[-1][1:])
    if computed.shape != shape or tuple(by_torch.shape) != shape:
        raise Fault(f"shapes {computed.shape} and {tuple(by_torch.shape)} in the place of {shape}")
    expected = by_torch.numpy()
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    differs = ~np.isclose(computed, expected, rtol=0, atol=1e-3 * largest, equal_nan=True)
    if differs.mean() > 0.02:  # a sign may turn with a rounding
        raise Fault("numpy and PyTorch compute other results")


def sample_graphs() -> list[bytes]:
    return [packed(name)[1].to_bytes() for name in ("concatenation", "transformer", "words")]


def execute_deck(content: bytes) -> None:
    deck = read_by_both(lambda file: Deck.from_bytes(file, MOST_WEIGHTS), content)
    deck_report(deck, len(content))
    if [planes(card) for card in Deck.from_bytes(deck.to_bytes(), MOST_WEIGHTS).cards] != [
        planes(card) for card in deck.cards
    ]:
        raise Fault("written and read again it is another deck")


def sample_tickets() -> list[bytes]:
    golden = [path.read_bytes() for path in sorted((ROOT / "tests" / "golden").glob("*.mpt"))]
    return [
        *(content for content in golden if len(content) < LARGEST_MUTANT // 4),
        random_card(0).to_bytes(),
    ]


def random_card(seed: int) -> Ticket:
    card = random_ticket(network_of("Conv2Wide", (8, 8), width_mult=0.0625), seed=seed)
    card.mean, card.std, card.classes = (0.4,) * 3, (0.3,) * 3, [f"class {i}" for i in range(10)]
    return card


def sample_decks() -> list[bytes]:
    return [Deck([random_card(0), random_card(1)], ["a", "b"]).to_bytes()]


# Checkpoints. What a mutant was made of comes with it, in a first byte: damage must not go
# unnoticed.

_SEALED, _DAMAGED = b"s", b"d"


def small_checkpoint() -> dict[str, Any]:
    options, task = Config(arch="Conv2Wide", width_mult=0.0625, prune_rate=0.3), Task(4, 1, (8, 8))
    content = checkpoint_fields(options, task)
    others = {
        "conv_type": "SubnetConv",
        "prune_rate": 0.3,
        "optimizer": {"state": {}, "param_groups": []},
    }
    return {**content, **others, "state_dict": dict(content["state_dict"])}


def as_file(fields: Any) -> bytes:
    file = io.BytesIO()
    archive.write(file, fields)
    return file.getvalue()


def mutated_checkpoint(content: bytes, draw: random.Random) -> bytes:
    """A checkpoint with other fields or another pickle, whose checksums fit; or one with flipped
    bits, whose do not.
    """
    original = as_file(_FIELDS)
    how = draw.randrange(6)
    if how <= 2:
        fields = dict(_FIELDS)
        if draw.random() < 0.25:
            del fields["biprop"]
        tensors = [
            torch.zeros(1).expand(99, 9),
            torch.zeros(1).to_sparse(),
            torch.zeros(2) / 0,
            torch.zeros(3, dtype=torch.complex64),
        ]
        return _SEALED + as_file(changed(fields, draw, [*VALUES, *tensors]))
    if how <= 4:
        return _SEALED + with_pickle(original, draw)
    if draw.random() < 0.2:
        return _DAMAGED + original[: draw.randrange(len(original))]
    return _DAMAGED + flipped(original, draw)


def with_pickle(content: bytes, draw: random.Random) -> bytes:
    """The archive with another pickle; its records' CRC-32 fit."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                pickle = bytearray(data)
                for _ in range(draw.choice([1, 1, 2, 4])):
                    at = draw.randrange(len(pickle))
                    pickle[at : at + draw.choice([0, 0, 1, 1, 5, 30])] = draw.choice(
                        [b"", draw.choice(OPCODES), draw.randbytes(1)]
                    )
                data = bytes(pickle)
            new.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def execute_checkpoint(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.pth"
        path.write_bytes(content[1:])
        restored = checkpoint.restore(path, {})
        pack.pack(path, {})
    if content[:1] == _DAMAGED:
        state = restored.network.model.state_dict()
        if any(not torch.equal(value, state[key]) for key, value in _FIELDS["state_dict"].items()):
            raise Fault("damage was not noticed: other numbers")


_FIELDS: dict[str, Any] = small_checkpoint()


# Configurations.


def sample_configurations() -> list[bytes]:
    """Packaged ones, with what their bases say, and one in full."""
    files = [config.read_file(path) for path in config.packaged_files()[::20]]
    settings = [{**values, "prune_rate": values.get("prune_rate") or 0.3} for values in files]
    return [
        yaml.safe_dump(values).encode()
        for values in [*settings, config.as_dict(Config(prune_rate=0.3))]
    ]


def mutated_configuration(content: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.1:
        return flipped(content, draw)
    return garbled(content.decode("utf-8", "replace"), draw).encode("utf-8", "replace")


def execute_configuration(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.yml"
        path.write_bytes(content)
        read = Config(**config.read_file(path))
        config.check(read)
        path.write_text(config.as_yaml(read), encoding="utf-8")
        if Config(**config.read_file(path)) != read:
            raise Fault("written and read again it is another configuration")


# The runner.


@dataclass
class Target:
    """A format: samples to begin with, what makes a mutant of one, what reads it, and the files
    whose lines are counted.
    """

    samples: Callable[[], list[bytes]]
    mutate: Callable[[bytes, random.Random], bytes]
    execute: Callable[[bytes], None]
    files: tuple[str, ...]


TARGETS = {
    "tickets": Target(
        sample_tickets,
        mutated_ticket,
        execute_ticket,
        (
            *("ticket/ticket.py", "ticket/container.py", "ticket/parse_layers.py"),
            *("ticket/state.py", "ticket/entropy_coding.py", "ticket/report.py"),
        ),
    ),
    "graphs": Target(
        sample_graphs,
        mutated_graph,
        execute_graph,
        ("models/operations.py", "models/interpreter.py", "engine/compute.py"),
    ),
    "decks": Target(
        sample_decks,
        mutated_ticket,
        execute_deck,
        ("deck/deck.py", "ticket/container.py", "ticket/ticket.py"),
    ),
    "checkpoints": Target(
        lambda: [_SEALED + as_file(_FIELDS)],
        mutated_checkpoint,
        execute_checkpoint,
        ("checkpoint/archive.py", "checkpoint/format.py", "checkpoint/legacy.py"),
    ),
    "configurations": Target(
        sample_configurations,
        mutated_configuration,
        execute_configuration,
        ("config/yaml_files.py", "config/yaml_loader.py", "config/values.py"),
    ),
}


@dataclass
class Found:
    """What came of a target: executions, how many were read, distinct outcomes, inputs that gave a
    new one, and faults.
    """

    executions: int = 0
    read: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    inputs: list[bytes] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


def outcome(target: Target, content: bytes) -> str:
    """ "read", or the refusal without its numbers and names.

    Raises:
        Fault: neither.
    """
    began = time.monotonic()
    try:
        target.execute(content)
        text = "read"
    except UserError as e:
        text = str(e)
        if not text.isprintable() or len(text) > 1000 or "MemoryError" in text:
            raise Fault(f"a message that is not one line of words: {text!r:.200}") from None
    except Fault:
        raise
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        raise Fault(
            f"{type(e).__name__} in {Path(where.filename).name}:{where.lineno}: {e!s:.100}"
        ) from None
    if (seconds := time.monotonic() - began) > MOST_SECONDS:
        raise Fault(f"{seconds:.0f} seconds")
    return re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|-?\d[\d.,e+]*", "#", text)[:120]


def fuzz(target: Target, seconds: float, seed: int, keep: Path | None = None) -> Found:
    """Execute mutants for some time; inputs that give faults are written to the folder `keep`."""
    draw, findings = random.Random(seed), Found()
    parents = target.samples()
    end = time.monotonic() + seconds
    waiting = list(parents)
    while time.monotonic() < end:
        content = waiting.pop() if waiting else target.mutate(draw.choice(parents), draw)
        if len(content) > LARGEST_MUTANT:
            continue
        findings.executions += 1
        try:
            text = outcome(target, content)
        except Fault as e:
            if keep and not findings.faults[str(e)]:
                (keep / f"{hashlib.sha256(content).hexdigest()[:12]}.bin").write_bytes(content)
            findings.faults[str(e)] += 1
            continue
        findings.read += text == "read"
        if not findings.outcomes[text]:
            findings.inputs.append(content)
            parents.append(content)
        findings.outcomes[text] += 1
    return findings


def lines_reached(target: Target, inputs: list[bytes]) -> tuple[int, int]:
    """Lines of functions in the target's files that these inputs reach, of all."""
    package = ROOT / "src" / "biprop"
    files = {str(package / name) for name in target.files}
    reached: set[tuple[str, int]] = set()

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        for content in inputs:
            with suppress(Fault):
                outcome(target, content)
    finally:
        sys.settrace(None)
    every = {(name, line) for name in files for line in _lines_of_functions(Path(name))}
    return len(reached & every), len(every)


def _lines_of_functions(path: Path) -> Iterator[int]:
    waiting = [
        constant
        for constant in compile(path.read_text(), str(path), "exec").co_consts
        if isinstance(constant, types.CodeType)
    ]
    while waiting:
        code = waiting.pop()
        yield from (line for _, _, line in code.co_lines() if line)
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of faults")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    print(
        "| target | seconds | executions | of them read | distinct outcomes | lines reached |"
        " faults |"
    )
    print("|---" * 7 + "|")
    faults: Counter[str] = Counter()
    for name in arguments.targets or TARGETS:
        target = TARGETS[name]
        findings = fuzz(target, arguments.seconds, arguments.seed, arguments.keep)
        reached, every = lines_reached(target, findings.inputs)
        row = (
            name,
            f"{arguments.seconds:g}",
            f"{findings.executions:,}",
            f"{findings.read:,}",
            len(findings.outcomes),
        )
        print(
            "|",
            *(f"{cell} |" for cell in row),
            f"{reached} of {every} | {len(findings.faults)} |",
            flush=True,
        )
        faults += Counter({f"{name}: {what}": count for what, count in findings.faults.items()})
    for what, count in faults.most_common():
        print(f"FAULT, {count} times: {what}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
