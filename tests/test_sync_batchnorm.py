"""Batch norm over processes beside PyTorch's over the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from biprop.sync_batchnorm import SyncBatchNorm2d, synchronise

SHARES = (slice(0, 3), slice(3, 8))


def batch() -> torch.Tensor:
    return 100 + torch.randn(8, 3, 5, 4, generator=torch.Generator().manual_seed(0))


def model(affine: bool, momentum: float | None) -> nn.Sequential:
    made = nn.Sequential(nn.BatchNorm2d(3, affine=affine, momentum=momentum))
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


def half(rank: int, folder: Path, affine: bool, momentum: float | None) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    made = model(affine, momentum)
    synchronise(made)
    assert type(made[0]) is SyncBatchNorm2d
    torch.save(results(made, batch()[SHARES[rank]]), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(("affine", "momentum"), [(True, 0.1), (False, None)])
def test_two_shares_of_different_size_as_one_batch(affine: bool, momentum: float | None, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(half, (tmp_path, affine, momentum), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for key, whole in results(model(affine, momentum), batch()).items():
        found = parts[0][key]  # statistics
        if key in ("y", "x"):
            found = torch.cat([part[key] for part in parts])
        elif key.startswith("gradient"):
            found = parts[0][key] + parts[1][key]
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4)


def test_in_evaluation_and_alone_it_is_the_plain_one() -> None:
    plain, synchronised = model(True, 0.1), model(True, 0.1)
    synchronise(synchronised)
    for mode in (True, False):
        torch.testing.assert_close(synchronised.train(mode)(batch()), plain.train(mode)(batch()))
