"""How robust is a PyTorch model of your own, and how robust is a ticket: accuracy under the common
corruptions of CIFAR-10-C and ImageNet-C.

    python examples/04_robustness.py
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import biprop
from biprop.data.digits import digits
from biprop.robustness.corruptions import corrupt

TICKET = Path(__file__).parents[1] / "pretrained" / "digits.mpt"
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "contrast", "pixelate")
SEVERITIES = (1, 3, 5)

Classifier = Callable[[Tensor], Tensor]
"""Pixels [B, C, H, W] float32 in 0 .. 1 to logits [B, classes]."""


def trained_model(images: Tensor, labels: Tensor) -> nn.Module:
    """An ordinary network, with trained weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, pixels: Tensor, labels: Tensor) -> float:
    """In percent, of pixels [B, C, H, W] uint8."""
    return 100 * (model(pixels / 255).argmax(1) == labels).float().mean().item()


def main() -> None:
    source = digits()
    test = source.test
    models: dict[str, Classifier] = {
        "own model": trained_model(source.train.images / 255, source.train.labels),
        # on_pixels: it normalises pixels in 0 .. 1 itself
        "ticket": biprop.Ticket.load(TICKET).to_model(on_pixels=True),
    }
    print(f"accuracy, %                {''.join(f'{name:>11}' for name in models)}")
    conditions = [("no corruption", 0)]
    conditions += [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    for name, severity in conditions:
        pixels = corrupt(test.images, name, severity) if severity else test.images
        row = [accuracy(model, pixels, test.labels) for model in models.values()]
        condition = f"{name}, severity {severity}" if severity else name
        print(f"{condition:27}{''.join(f'{value:11.2f}' for value in row)}")


if __name__ == "__main__":
    main()
