"""The engine's arguments, and whole networks; its kernels are tested in test_kernels.py."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import make_narrow, network_of, random_ticket

from biprop import Engine, Ticket, TicketError, UserError, native
from biprop.engine import cores
from biprop.engine.reference import Reference
from biprop.models.plans import NETWORKS, RESIDUAL


@pytest.fixture(scope="module")
def ticket() -> Ticket:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", channels=1))
    ticket.mean, ticket.std = (0.5,), (0.25,)
    return ticket


def test_mistakes_in_the_arguments(ticket: Ticket) -> None:
    for threads in (0, -1, cores() + 1):
        with pytest.raises(UserError, match=r"threads = .*: must be 1 \.\. "):
            Engine(ticket, threads)
    for none in (1.0, True, "1", np.True_, np.ones(2, int), None):
        with pytest.raises(UserError, match=r"threads = .*: must be a whole number"):
            Engine(ticket, none)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="instruction set 'mmx': this machine has"):
        Engine(ticket, instruction_set="mmx")
    with pytest.raises(TicketError, match=r"none\.mpt: cannot be read"):
        Engine("none.mpt")
    with pytest.raises(TicketError, match="a network that biprop does not know"):
        Engine(Ticket(None, None, [], {}))


@pytest.mark.parametrize("compiled", [True, False])
def test_mistakes_in_the_images(
    ticket: Ticket, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = Engine(ticket)
    assert not engine.compiled or compiled
    pixels = np.zeros((2, 1, 32, 32), np.float32)
    assert engine.run(pixels).shape == (2, 10)
    assert engine.run(pixels[:0]).shape == (0, 10)
    for images, message in (
        (pixels[:, :, :31], "images of shape"),
        (pixels[..., None], "images of shape"),
        (pixels.astype(np.int64), "images of type int64: must be uint8"),
        (pixels + 2, "images from 2 to 2: floats must be in 0"),
        (np.full_like(pixels, np.nan), "every pixel must be a number"),
    ):
        with pytest.raises(UserError, match=message):
            engine.run(images)
    with pytest.raises(UserError, match="must be NCHW or NHWC"):
        engine.run(pixels, "CHWN")  # type: ignore[arg-type]


ANCESTORS = ("Conv4Wide_BinAct", "VGG_Small_BinAct", "cResNet20", "cResNet18_BinAct")


@pytest.mark.parametrize(
    "name,ancestor", [*((name, False) for name in NETWORKS), *((name, True) for name in ANCESTORS)]
)
def test_every_network_of_the_registry(
    name: str, ancestor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_narrow(monkeypatch, name)
    imagenet = name in RESIDUAL and RESIDUAL[name].imagenet
    size = (64, 64) if imagenet else (32, 32)
    ticket = random_ticket(network_of(name, size, ancestor=ancestor))
    engine = Engine(ticket)
    count = 65 if "BinAct" in name else 17  # a group of 64 or 16, and one
    images = np.random.default_rng(0).standard_normal((count, 3, *size)).astype(np.float32)
    expected = Reference(ticket).run(images)
    for batch in (1, len(images)):
        logits = engine.run(images[:batch])
        assert np.abs(logits - expected[:batch]).max() < 1e-4 * np.abs(expected).max()


def test_two_layouts_and_two_types_of_pixels(ticket: Ticket) -> None:
    engine, pixels = (
        Engine(ticket),
        np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8),
    )
    logits = engine.run(pixels)
    assert np.array_equal(engine.run(pixels.transpose(0, 2, 3, 1)), logits)
    alone = engine.run(pixels[3:4])
    assert np.array_equal(engine.run(pixels[3]), alone)
    assert np.array_equal(engine.run(pixels[3, 0]), alone)
    assert np.allclose(alone, logits[3:4], atol=1e-5)
    assert np.allclose(engine.run(pixels.astype(np.float64) / 255), logits, atol=1e-5)


def test_floats_that_are_not_aligned_are_copied(ticket: Ticket) -> None:
    engine = Engine(ticket)
    images = np.random.default_rng(0).random((70, *engine.shape), np.float32)
    unaligned = np.frombuffer(b"-" + images.tobytes(), np.float32, offset=1).reshape(images.shape)
    assert not unaligned.flags.aligned
    pixels, _ = engine._pixels(unaligned, None)
    assert pixels.flags.aligned
    np.testing.assert_array_equal(engine.run(unaligned), engine.run(images))


def test_layouts_of_colour_images_that_are_not_square() -> None:
    engine = Engine(random_ticket(network_of("Wide_VGG_Small_132", (16, 24), width_mult=0.25)))
    pixels = np.random.default_rng(0).random((5, 3, 16, 24), np.float32)
    logits = engine.run(pixels)
    assert np.abs(logits - Reference(engine.ticket).run(pixels)).max() < 1e-4 * np.abs(logits).max()
    assert np.array_equal(engine.run(pixels.transpose(0, 2, 3, 1)), logits)
    alone = engine.run(pixels[3:4])  # with AVX2, five images are a group, which rounds otherwise
    assert np.array_equal(engine.run(pixels[3].transpose(1, 2, 0)), alone)
    assert np.allclose(alone, logits[3:4], atol=1e-4)


def test_floats_become_the_nearest_bytes(ticket: Ticket) -> None:
    greys = np.arange(1024).reshape(1, 1, 32, 32) % 256
    floats = (greys + 0.4 * (-1) ** greys).clip(0, 255) / 255
    assert np.array_equal(Engine(ticket).as_bytes(floats), greys.astype(np.uint8))


@pytest.mark.parametrize(
    "name", ["Conv4_BinAct", "Wide_VGG_Small", "VGG_Small_bn_BinAct", "cResNet20_BinAct"]
)
def test_batch_norms_that_turn_the_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the factors are negative: the pool before such a sign is "all" of the bits, not
    "any".
    """
    make_narrow(monkeypatch, name)
    ticket = random_ticket(network_of(name, bn_type="AffineBatchNorm"))
    images = np.random.default_rng(0).standard_normal((65, 3, 32, 32)).astype(np.float32)
    logits, expected = Engine(ticket).run(images), Reference(ticket).run(images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_calibration_needs_images(ticket: Ticket) -> None:
    with pytest.raises(UserError, match="calibration: no images"):
        Engine(ticket, calibration=np.zeros((0, 1, 32, 32), np.float32))
    with pytest.raises(UserError, match="images of shape"):
        Engine(ticket, calibration=np.zeros((4, 1, 31, 32), np.float32))


def test_estimates_in_microseconds_change_no_choice(ticket: Ticket) -> None:
    engine, other = Engine(ticket), Engine(ticket)
    if not engine.compiled:
        pytest.skip("no compiled core")
    images = np.random.default_rng(1).random((64, *engine.shape), np.float32)
    for batch in (1, 64):
        name, group, steps = engine.explain(batch)
        of_kind: dict[tuple[str, ...], list[float]] = {}
        for step in steps:
            assert step.estimated > 0 and step.microseconds > 0
            kind = step.operation, step.kernel, step.input[-4:], step.output[-4:]
            of_kind.setdefault(kind, []).append(step.estimated / step.cycles)
        for factors in of_kind.values():
            assert max(factors) <= 1.02 * min(factors) + 1e-2  # digits after the point
        again = other.explain(batch)
        assert (name, group) == again[:2]
        assert [(s.kernel, s.cycles) for s in steps] == [(s.kernel, s.cycles) for s in again[2]]
        np.testing.assert_array_equal(engine.run(images[:batch]), other.run(images[:batch]))


def test_integers_of_numpy(ticket: Ticket) -> None:
    engine = Engine(ticket, np.int64(1))  # type: ignore[arg-type]
    assert type(engine.threads) is int
    if engine.compiled:
        assert engine.explain(np.uint8(2))[1] in (1, 2, 16, 64)  # type: ignore[arg-type]
    network = network_of(
        "Conv2Wide", (np.int32(8), np.int32(8)), width_mult=0.0625, num_classes=np.int64(3)
    )  # type: ignore[arg-type]
    assert Ticket.from_bytes(random_ticket(network).to_bytes()).network == network


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))]
)
def test_copies_are_engines_of_their_own(ticket: Ticket, again: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), dtype=np.uint8)
    floats = (pixels / np.float32(255)).astype(np.float32)
    for calibration in (None, pixels, pixels.transpose(0, 2, 3, 1), floats):
        engine = Engine(
            ticket, min(2, cores()), "scalar" if native.library() else None, calibration
        )
        expected = engine.run(pixels)
        copied = again(engine)
        del engine
        assert np.array_equal(copied.run(pixels), expected) and copied.threads == min(2, cores())
        assert not copied.compiled or copied.explain()[0] == "scalar"


def test_a_spawned_process_gets_an_engine_of_its_own(ticket: Ticket) -> None:
    engine, pixels = Engine(ticket), np.zeros((2, 1, 32, 32), np.uint8)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        assert np.array_equal(workers.submit(engine.run, pixels).result(), engine.run(pixels))


FORKS = """
import os, sys, threading, time, warnings
import numpy as np
from biprop import Engine
warnings.simplefilter("ignore")  # of forks beside threads: that is what is tried
engine = Engine(sys.argv[1], min(2, len(os.sched_getaffinity(0))))
pixels = np.zeros((65, 1, 32, 32), np.uint8)
expected, stop = engine.run(pixels), False

def busy():
    while not stop:
        engine.run(pixels)

def child(end):
    pid = os.fork()
    if not pid:
        right = np.array_equal(engine.run(pixels), expected)
        end(0 if right else 3)
    for _ in range(2000):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    raise SystemExit("a forked child hangs")

child(sys.exit)  # the engine is destroyed in the child
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(20):
    child(os._exit)
stop = True
for thread in threads:
    thread.join()
assert np.array_equal(engine.run(pixels), expected)
print("done")
"""


@pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="a system without forks of threads"
)
def test_forked_children_answer_and_end(ticket: Ticket, tmp_path: Any) -> None:
    ticket.save(tmp_path / "t.mpt")
    done = subprocess.run(
        [sys.executable, "-c", FORKS, tmp_path / "t.mpt"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_maps_that_are_too_large_are_computed_by_numpy_and_no_program_is_written(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^25 numbers and more."""
    if not native.library():
        pytest.skip("no compiled core")
    make_narrow(monkeypatch, "ResNet18")
    ticket = random_ticket(network_of("ResNet18", (3400, 3400)))
    with pytest.warns(RuntimeWarning, match="numpy runs this network, slowly"):
        engine = Engine(ticket)
    with pytest.raises(UserError, match=r"t\.bprog: not written, as no core could load it"):
        engine.save_program(tmp_path / "t.bprog")
