"""Training steps do not make the CPU wait for a GPU, but for one look every `LOOK_EVERY` steps.

Without a GPU they run on the meta device, whose tensors have no values: reading one is an error, as
is an operation whose result has a shape that depends on values, or on tensors of two devices.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from biprop import config
from biprop.console import Console
from biprop.data import DataSet, Source, augment, augmix, dataset, loading, sources, transfer
from biprop.data.sources import Images
from biprop.runs.logs import Pace
from biprop.search.loop import LOOK_EVERY, Search
from biprop.subnetwork import subnetwork

IMAGES, BATCH = 30, 10
FAST = {"arch": "Fast6", "width_mult": 0.125, "bn_type": "AffineBatchNorm", "learn_batchnorm": True}
MUON = {"optimizer": "muon", "lr_policy": "linear_lr", "label_smoothing": 0.1}
VIEWS = {"augmix": True, "jsd": True, "all_augmix_augmentations": True}
SEARCHES: dict[str, dict[str, Any]] = {
    "muon": {**FAST, **MUON, "channels_last": True},
    "AugMix and three views": {**FAST, **MUON, **VIEWS},
    "Gaussian noise": {**FAST, "score_norm": True, "gaussian_aug": True, "p_clean": 0.5},
    "global scope": {**FAST, **MUON, "conv_type": "GlobalSubnetConv", "layer_floor": 0.1},
    "score norm with Adam": {**FAST, "score_norm": True, "optimizer": "adam"},
    "the published rule": {"arch": "cResNet20", "grad_clip": True, "weight_decay": 1e-4},
    "Adam": {"arch": "Conv2", "optimizer": "adam"},
    "binary activations": {"arch": "Conv2_BinAct", **MUON},
    "dense": {
        "arch": "Conv2",
        "conv_type": "DenseConv",
        "prune_rate": None,
        "freeze_weights": False,
    },
}


def random_images(options: config.Config) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Images(pixels, torch.arange(IMAGES) % 10)
    classes = [str(i) for i in range(10)]
    source = Source(split, split, classes, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "crop+flip")
    return DataSet(source, "test", loading.recipe_of(options))


def search_on(device: str, folder: Path, **options: Any) -> Search:
    common = {"prune_rate": 0.3, "batch_size": BATCH, "print_freq": 1, "baseline": False}
    given = {**common, **options, "set": "CIFAR10", "log_dir": str(folder), "device": device}
    resolved, name = config.resolve(None, {"width_mult": 1.0, **given})
    search = Search(resolved, name, random_images(resolved), Console(io.StringIO()))
    search.open_folder()
    if device == "meta":  # autocast knows no such device
        search._forward._device = torch.device("cpu")
    return search


def steps(search: Search, first: int) -> None:
    """The steps of an epoch from number `first` on, as in `Search._train_epoch`."""
    if search.network.subnetwork:
        search.network.subnetwork.update(check=False)
    search.state.batch = first
    search._forward.set_training_mode()
    pace = Pace(0)
    for lesson in search.lessons.of_epoch(0, first):
        search._train_step(*lesson)
        search.reporter.on_steps(search.state, pace)
        search._save_or_stop()


class Copies(TorchDispatchMode):
    """Counts the copies from the CPU to the device of the search: each would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        source = {"aten::_to_copy": 0, "aten::copy_": 1}.get(func.name())
        if source is not None:
            self.count += result.is_meta and not args[source].is_meta
        return result


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search compute on the meta device what it computes on a GPU."""

    def on_meta(values: NDArray[Any], device: torch.device) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor if device.type == "cpu" else torch.empty_like(tensor, device=device)

    for module in (augment, augmix, dataset, sources):
        monkeypatch.setattr(module, "on_device", on_meta)
    monkeypatch.setattr(subnetwork, "_is_readable", lambda layer: True)
    cpu_generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *device: cpu_generator())
    monkeypatch.setattr(torch, "tensor", _tensor_on_cpu(torch.tensor))


def _tensor_on_cpu(tensor: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor`, which waits for a GPU where the result is there."""

    def call(*arguments: Any, device: Any = "cpu", **options: Any) -> Tensor:
        assert torch.device(device or "cpu").type == "cpu", "torch.tensor waits for the GPU"
        return tensor(*arguments, device=device, **options)

    return call


@pytest.mark.parametrize("kind", SEARCHES)
def test_between_two_looks_nothing_is_read_from_the_device(
    kind: str, tmp_path: Path, without_values: None
) -> None:
    search = search_on("meta", tmp_path, **SEARCHES[kind])
    with Copies() as copies:
        steps(search, first=1)
    assert search.state.step == 2
    assert copies.count == 0
    trained = [p for p in search.model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.is_meta for p in trained)


def test_every_fiftieth_step_looks(tmp_path: Path, without_values: None) -> None:
    """And the test above would notice a step that reads a value."""
    search = search_on("meta", tmp_path, **SEARCHES["muon"])
    with pytest.raises(NotImplementedError, match="no data"):
        steps(search, first=0)
    looks = []
    for batch in range(2 * LOOK_EVERY + 1):
        search.state.batch = batch
        looks.append(search._looks_now)
    assert [batch for batch, looks_now in enumerate(looks) if looks_now] == [0, 50, 100]


def test_the_cpu_looks_at_every_step(tmp_path: Path) -> None:
    search = search_on("cpu", tmp_path, **SEARCHES["muon"])
    steps(search, first=1)
    assert search.state.train.images == 2 * BATCH


@pytest.mark.parametrize("kind", ["muon", "global scope"])
def test_seldom_looks_change_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biprop.native.library", lambda: None)  # masks as on a GPU
    seldom, always = (
        search_on("cpu", tmp_path / name, epochs=2, **SEARCHES[kind]) for name in ("a", "b")
    )
    seldom._look_every = 2
    results = [search.run() for search in (seldom, always)]
    assert results[0].test == results[1].test
    assert seldom.state.best_train == always.state.best_train
    assert all(map(torch.equal, seldom.model.parameters(), always.model.parameters()))


@pytest.mark.parametrize("scope", ["SubnetConv", "GlobalSubnetConv"])
def test_a_score_that_is_no_number_is_noticed_before_anything_is_written(
    scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biprop.native.library", lambda: None)
    search = search_on("cpu", tmp_path, **{**SEARCHES["muon"], "conv_type": scope})
    assert search.network.subnetwork
    search._look_every = LOOK_EVERY
    steps(search, first=1)
    name, layer = list(search.network.subnetwork.layers.items())[2]
    with torch.no_grad():
        layer.scores.view(-1)[5] = torch.inf
    search.network.subnetwork.update(check=False)
    assert layer.gain.isnan()
    with pytest.raises(FloatingPointError, match=f"layer {name}: a score is infinite"):
        search._save_between_steps()


def test_arrays_go_to_a_gpu_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    locked = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: locked.append(tensor) or tensor)
    with FakeTensorMode(allow_non_fake_inputs=True):
        copy = transfer.on_device(np.arange(3), torch.device("cuda:0"))
        assert (copy.device, copy.shape) == (torch.device("cuda:0"), (3,))
    assert len(locked) == 1
    assert transfer.on_device(np.arange(3), torch.device("cpu")).tolist() == [0, 1, 2]
    assert len(locked) == 1


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["none", "bf16"])
@pytest.mark.parametrize("kind", SEARCHES)
def test_steps_on_a_gpu_do_not_wait(kind: str, amp: str, tmp_path: Path) -> None:
    search = search_on("cuda", tmp_path, amp=amp, **SEARCHES[kind])
    steps(search, first=0)  # loads the kernels
    with _refusing_to_wait():
        steps(search, first=1)
    search._catch_up()
    assert search.state.train.images == IMAGES + 2 * BATCH
