"""Networks of a user's own, for tests of tickets that hold their operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biprop import Ticket, convert
from biprop.subnetwork import BinaryActivation


class Block(nn.Module):
    """An inverted residual: depthwise convolution, squeeze and excitation, an identity."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        wide = 3 * width
        self.expand = nn.Conv2d(width, wide, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, kernel, padding="same", groups=wide, bias=False)
        self.norm2 = nn.BatchNorm2d(wide, eps=1e-3)
        self.squeeze = nn.Conv2d(wide, 4, 1)
        self.excite = nn.Conv2d(4, wide, 1)
        self.project = nn.Conv2d(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.norm1(self.expand(x)))
        out = F.hardswish(self.norm2(self.depthwise(out)))
        weights = F.relu(self.squeeze(out.mean((2, 3), keepdim=True)), inplace=True)
        out = out * F.hardsigmoid(self.excite(weights))
        return x + self.project(out)


class ConvNet(nn.Module):
    """Blocks of depthwise convolutions with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8, 3), Block(8, 5))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.stem(x)))
        logits: Tensor = self.head(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return logits


class Concatenating(nn.Module):
    """A residual network with concatenation, several pools, grouped and dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False, padding_mode="reflect")
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.norm2 = nn.GroupNorm(4, 8)
        self.conv3 = nn.Conv2d(16, 8, (3, 1), stride=(2, 1), padding=(1, 0))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        x = torch.cat([x, F.elu(self.norm2(self.conv2(x)) + x)], 1)
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        first, second = self.conv3(x).chunk(2, 1)
        x = torch.cat([first - 2 * second, torch.tanh(first) * second / 2], 1)
        return F.log_softmax(self.head(x.amax((2, 3))), dim=1)


class Transformer(nn.Module):
    """A small ViT, of PyTorch's own layers and of one with scaled dot-product attention."""

    def __init__(self, patches: int = 4, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, patches + 1, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 16, activation="gelu", batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.rand(width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.place
        tokens = self.layer(tokens)
        tokens = tokens + self.scale * self.attention(self.norm(tokens))
        logits: Tensor = self.head(F.gelu(tokens[:, 0], approximate="tanh"))
        return logits

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        out = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(out.transpose(1, 2).reshape(batch, tokens, width))
        return result


class Series(nn.Module):
    """A one-dimensional convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 6, 5, stride=2, padding=2),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1, output_padding=1),
            nn.Hardtanh(),
            nn.AvgPool1d(2),
        )
        self.head = nn.Linear(4, 3)
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean(2) * self.factor)
        return logits


class UNet(nn.Module):
    """Down and up again, by transposed convolutions and by repetition; its output are maps."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(1, 4, 3, padding=1)
        self.down2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.down3 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.up1 = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2)
        self.up2 = nn.ConvTranspose2d(16, 4, 4, stride=2, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(4)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        second = F.relu(self.down2(first))
        third = F.relu(self.down3(second))
        third = F.interpolate(F.max_pool2d(third, 2), scale_factor=2)
        second = torch.cat([second, self.up1(third)], 1)
        maps: Tensor = self.head(torch.cat([first, self.norm(self.up2(second))], 1))
        return maps


class Words(nn.Module):
    """Causal self-attention over embedded whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.places = nn.Embedding(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        mask = torch.triu(torch.full((6, 6), -torch.inf), 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.places(torch.arange(6))
        out, _ = self.attention(x, x, x, attn_mask=self.mask, need_weights=False)
        logits: Tensor = self.head(x + out).softmax(-1)[:, -1]
        return logits


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 20),
        nn.BatchNorm1d(20),
        nn.ReLU(),
        nn.Linear(20, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


def plain_resnet() -> nn.Module:
    """Of operations that the engine has."""
    return PlainResNet()


class PlainResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16, eps=1e-3)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 32, 3, stride=2)
        self.sign = BinaryActivation()
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.hidden = nn.Linear(32 * 9, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)) + x)
        x = self.conv3(self.sign(self.down(F.max_pool2d(x, 2))))
        logits: Tensor = self.head(F.relu(self.hidden(x.flatten(1))))
        return logits


IMAGES = (2, 3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "depthwise": (ConvNet, IMAGES),
    "concatenation": (Concatenating, (2, 3, 15, 18)),
    "transformer": (Transformer, (2, 3, 8, 8)),
    "series": (Series, (3, 2, 24)),
    "perceptron": (perceptron, (3, 12)),
    "unet": (UNet, (2, 1, 16, 24)),
    "words": (Words, (2, 6)),
    "resnet": (plain_resnet, (2, 3, 16, 16)),
}
"""Name -> a network, and the shape of a batch for it."""


def batch_for(name: str, count: int = 0) -> Tensor:
    """Random input for a network."""
    shape = NETWORKS[name][1]
    shape = (count or shape[0], *shape[1:])
    return torch.randint(0, 11, shape) if name == "words" else torch.randn(shape)


def trained(name: str, density: float = 0.5) -> tuple[nn.Module, Any]:
    """A converted network in evaluation mode, with running statistics of its own."""
    model = NETWORKS[name][0]()
    subnetwork = convert(model, density, seed=3)
    with torch.no_grad():
        for _ in range(2):
            model(batch_for(name, 16))
        for key, value in model.state_dict().items():
            if "norm" in key and key.endswith(("weight", "bias")):
                value.add_(0.3 * torch.randn_like(value))
    return model.eval(), subnetwork


@cache
def packed(name: str) -> tuple[nn.Module, Ticket]:
    """A converted network, and its ticket as read from its file; the same at each call."""
    model, subnetwork = trained(name)
    ticket = Ticket.from_model(model, subnetwork, example=batch_for(name))
    return model, Ticket.from_bytes(ticket.to_bytes())
