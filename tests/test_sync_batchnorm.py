"""Batch norm over processes beside PyTorch's over the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from biprop.distributed.sync_batchnorm import SyncBatchNorm2d, synchronise

SHARES = (slice(0, 3), slice(3, 8))


NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""Number of sides of a map -> its batch norm."""


def batch(sides: int = 2) -> torch.Tensor:
    shape = (8, 3, *(5, 4, 2)[:sides])
    return 100 + torch.randn(shape, generator=torch.Generator().manual_seed(0))


def model(affine: bool, momentum: float | None, sides: int = 2) -> nn.Sequential:
    made = nn.Sequential(NORMS[sides](3, affine=affine, momentum=momentum))
    if affine:
        nn.init.uniform_(made[0].weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
    return made


def results(made: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and statistics of two steps."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        y = made(x)
        (y**3).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in made.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **made.state_dict()}  # type: ignore[dict-item]


CASES = [(True, 0.1, 2), (False, None, 2), (True, 0.1, 1)]
"""Whether weights and biases are learned, the momentum, and the number of sides of a map."""

COUNTED = (100 + torch.arange(1025.0)).reshape(1, 1, 25, 41)
"""Twice as many numbers are 2,050, which bfloat16 would count as 2,048."""


def half(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for number, (affine, momentum, sides) in enumerate(CASES):
        made = model(affine, momentum, sides)
        synchronise(made)
        assert type(made[0]).__name__ == f"SyncBatchNorm{sides}d"
        torch.save(results(made, batch(sides)[SHARES[rank]]), folder / f"{number}-{rank}.pt")
    made = nn.Sequential(SyncBatchNorm2d(1))
    assert made(COUNTED.bfloat16()).dtype == torch.bfloat16
    torch.save(made.state_dict(), folder / f"bfloat16-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of two processes in each of `CASES`, and of `COUNTED`."""
    folder = tmp_path_factory.mktemp("halves")
    torch.multiprocessing.spawn(half, (folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("number", range(len(CASES)))
def test_two_shares_of_different_size_as_one_batch(number: int, halves: Path) -> None:
    affine, momentum, sides = CASES[number]
    parts = [torch.load(halves / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
    for key, whole in results(model(affine, momentum, sides), batch(sides)).items():
        found = parts[0][key]  # statistics
        if key in ("y", "x"):
            found = torch.cat([part[key] for part in parts])
        elif key.startswith("gradient"):
            found = parts[0][key] + parts[1][key]
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)


def test_sums_of_bfloat16_are_float32(halves: Path) -> None:
    plain = nn.Sequential(nn.BatchNorm2d(1))
    plain(COUNTED.bfloat16().float().repeat(2, 1, 1, 1))
    found = torch.load(halves / "bfloat16-0.pt", weights_only=True)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def test_in_evaluation_and_alone_it_is_the_plain_one() -> None:
    plain, synchronised = model(True, 0.1), model(True, 0.1)
    synchronise(synchronised)
    for mode in (True, False):
        torch.testing.assert_close(synchronised.train(mode)(batch()), plain.train(mode)(batch()))
