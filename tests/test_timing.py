"""How speed is measured, not how fast anything is."""

import numpy as np
import pytest
import torch
from conftest import network_of, random_ticket

from biprop import Engine
from biprop.engine import engine
from biprop.engine.timing import FEWEST, Row, Timing, float32_bytes, interleaved, measure


def test_runs_take_turns() -> None:
    order: list[str] = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 1e-4)
    assert order[:2] == ["a", "b"]  # warm
    changes = "".join(
        name for name, before in zip(order[2:], order[1:], strict=False) if name != before
    )
    assert changes.startswith("abab")
    for timing in timings.values():
        assert timing.n >= FEWEST
        assert 0 < timing.lower <= timing.median <= timing.upper


def test_a_row_says_who_is_faster() -> None:
    row = Row(8, 1, Timing(2, 1, 3, 9), Timing(1, 1, 1, 9), same=8)
    assert (row.ratio, row.images_per_second) == (0.5, 4000)
    assert row.as_dict()["torch"] == {"median": 1, "lower": 1, "upper": 1, "n": 9}
    alone = Row(8, 1, Timing(2, 1, 3, 9))
    assert alone.ratio is None and alone.as_dict()["torch"] is None


@pytest.mark.parametrize("mean", [(), (0.4,), (0.4, 0.5, 0.6)])
def test_both_get_the_same_pixels(mean: tuple[float, ...]) -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small_132", num_classes=3))
    ticket.mean, ticket.std = mean, mean
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    model = ticket.to_model()
    with torch.no_grad():
        expected = model(torch.from_numpy(engine.normalised(pixels, ticket))).numpy()
    np.testing.assert_allclose(
        Engine(ticket).run(pixels), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
    )
    threads = torch.get_num_threads()
    (row,) = measure(Engine(ticket), [4], 1e-3, model)
    assert row.same == 4
    assert torch.get_num_threads() == threads
    parameters = sum(
        p.numel()
        for name, p in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    assert float32_bytes(ticket) == 4 * parameters
