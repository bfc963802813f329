"""The engine beside PyTorch on six networks of a user's own, of the sizes that such networks have:
milliseconds of processor time a sample, interleaved, one thread each.

    python benchmarks/own_networks.py                       # all networks, batch 1 and 64
    python benchmarks/own_networks.py --networks vit --batches 1 --instruction-set avx2
    python benchmarks/own_networks.py --sizes               # bytes of the ticket and of its exports

The masks are random, of one density in every masked layer: time does not depend on which weights
are kept. PyTorch computes the ticket's own module (`Ticket.to_model`). The last column is the
largest difference of the results beside their largest number. `biprop bench --explain` shows what
the engine spends its time on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from machine import processor
from torch import Tensor, nn

from biprop import Engine, Ticket, convert
from biprop.engine.reference import Reference
from biprop.export.model import content_of, make_model


class Inverted(nn.Module):
    """Expand, depthwise convolution, squeeze and excitation, project; an identity beside."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        wide = 4 * width
        self.expand = nn.Conv2d(width, wide, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, kernel, padding="same", groups=wide, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.squeeze = nn.Conv2d(wide, width // 4, 1)
        self.excite = nn.Conv2d(width // 4, wide, 1)
        self.project = nn.Conv2d(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.norm1(self.expand(x)))
        out = F.hardswish(self.norm2(self.depthwise(out)))
        weights = F.relu(self.squeeze(out.mean((2, 3), keepdim=True)))
        result: Tensor = x + self.project(out * F.hardsigmoid(self.excite(weights)))
        return result


def convnet() -> nn.Module:
    blocks = [Inverted(32, 3), Inverted(32, 5)]
    deeper = [Inverted(64, 3), Inverted(64, 5), Inverted(64, 5)]
    stem, down = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(stem, nn.ReLU6(), *blocks, down, nn.ReLU6(), *deeper, head)


class Concatenating(nn.Module):
    """Each layer reads the results of all before it, dilated and with group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(32 * i, 32, 3, padding=1 + i % 2, dilation=1 + i % 2) for i in range(1, 6)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, 32) for _ in range(5))
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.cat([x, F.elu(norm(layer(x)))], 1)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Layer(nn.Module):
    """Self-attention and a perceptron, each after a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        x = x + self.out(out.reshape(batch, tokens, width))
        result: Tensor = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return result


class ViT(nn.Module):
    def __init__(self, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 65, width))
        self.layers = nn.Sequential(*(Layer(width, 3) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.place
        logits: Tensor = self.head(self.norm(self.layers(tokens))[:, 0])
        return logits


def series() -> nn.Module:
    """Of nine channels and 512 points in time."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((9, 64), (64, 64), (64, 128), (128, 128)):
        conv = nn.Conv1d(inputs, outputs, 5, padding=2, bias=False)
        layers += [conv, nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 6))


def perceptron() -> nn.Module:
    widths = (64, 512, 512)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


class UNet(nn.Module):
    """Three levels; its output are maps."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Module:
            convs = (
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.Conv2d(outputs, outputs, 3, padding=1),
            )
            norms = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            return nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU())

        self.down1, self.down2 = double(3, width), double(width, 2 * width)
        self.bottom = double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.joined2, self.joined1 = double(4 * width, 2 * width), double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        bottom = self.bottom(F.max_pool2d(second, 2))
        second = self.joined2(torch.cat([second, self.up2(bottom)], 1))
        maps: Tensor = self.head(self.joined1(torch.cat([first, self.up1(second)], 1)))
        return maps


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convnet": (convnet, (3, 64, 64)),
    "concatenation": (Concatenating, (3, 32, 32)),
    "vit": (ViT, (3, 32, 32)),
    "series": (series, (9, 512)),
    "perceptron": (perceptron, (64,)),
    "unet": (UNet, (3, 64, 64)),
}
"""Name -> a network, and the shape of a sample."""


def make_ticket(name: str, density: float) -> Ticket:
    """A ticket of an untrained network; batch norm knows the statistics of random samples."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    subnetwork = convert(model, density, seed=0)
    with torch.no_grad():
        model.train()(torch.randn(16, *shape))
    return Ticket.from_model(model.eval(), subnetwork, example=torch.randn(2, *shape))


def interleaved(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of processor time of each run, in turns of 50 ms: what else the machine does counts
    little.
    """
    times: dict[str, list[float]] = {who: [] for who in runs}
    while any(sum(times[who]) < seconds or len(times[who]) < 5 for who in runs):
        for who, run in runs.items():
            run()  # caches hold what the other used
            turn = 0.0
            while turn < 0.05:
                start = time.process_time()
                run()
                times[who].append(time.process_time() - start)
                turn += times[who][-1]
    return times


def compare(name: str, batch: int, args: argparse.Namespace) -> None:
    """Print a row."""
    ticket = make_ticket(name, args.density)
    model, engine = ticket.to_model(), Engine(ticket, 1, args.instruction_set)
    samples = np.random.default_rng(0).standard_normal((batch, *engine.shape), dtype=np.float32)
    tensor = torch.from_numpy(samples)
    with torch.inference_mode():
        expected = model(tensor).numpy()
        error = np.abs(engine.run(samples) - expected).max() / np.abs(expected).max()
        runs = {"engine": lambda: engine.run(samples), "torch": lambda: model(tensor)}
        times = interleaved(runs, args.seconds)
    own, other = (np.quantile(times[who], (0.25, 0.5, 0.75)) / batch * 1000 for who in runs)
    print(
        f"{name:14} {batch:5} {own[1]:9.4f} ({own[0]:.4f} to {own[2]:.4f})   {other[1]:9.4f}"
        f" ({other[0]:.4f} to {other[2]:.4f})   {other[1] / own[1]:5.2f} x   {error:.1e}",
        flush=True,
    )


def show_sizes(name: str, args: argparse.Namespace) -> None:
    """Print bytes: the ticket, with --compact, as ONNX, and all numbers in float32."""
    ticket = make_ticket(name, args.density)
    numbers = ticket.weights + sum(value.size for value in ticket.state.values())
    whole = len(ticket.to_bytes())
    ticket.compact = True
    onnx = len(content_of(make_model(ticket, Reference(ticket), on_pixels=False).proto))
    sizes = (whole, len(ticket.to_bytes()), onnx, 4 * numbers)
    print(f"{name:14} {ticket.weights:10,} " + " ".join(f"{size:12,}" for size in sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each, a row")
    parser.add_argument("--instruction-set")
    parser.add_argument("--sizes", action="store_true", help="bytes instead of times; needs onnx")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.sizes:
        print("network           weights       ticket      compact         ONNX      float32")
        for name in args.networks:
            show_sizes(name, args)
        return
    print(f"{processor()}; torch {torch.__version__}")
    print(
        "network        batch  engine, ms a sample (quartiles)   PyTorch (quartiles)   ratio"
        "   error"
    )
    for name in args.networks:
        for batch in args.batches:
            compare(name, batch, args)


if __name__ == "__main__":
    main()
