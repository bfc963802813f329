"""A network and a training loop of your own: one table of density, accuracy and bytes.

    python examples/02_own_network.py

writes mine.mpt, the ticket of the last row, into the working directory.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import biprop
from biprop.data.digits import digits

DENSITIES = (0.05, 0.2, 0.5)
EPOCHS = 4
BATCH = 64


class Net(nn.Module):
    """Any module works; this one has a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, stride=2, padding=1)
        self.branch = nn.Conv2d(32, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.relu(self.norm(self.branch(x)) + x)
        return self.head(x.flatten(1))


def search(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Train the scores; the random weights stay as they are."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()  # changes the scores; the next forward pass recomputes the masks
            schedule.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    model.eval()
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    source = digits()
    train_images, test_images = source.train.images / 255, source.test.images / 255
    print("density  random scores  after the search  bytes")
    for density in DENSITIES:
        model = Net()
        subnetwork = biprop.convert(model, density=density, seed=1)
        before = accuracy(model, test_images, source.test.labels)
        search(model.train(), train_images, source.train.labels)
        after = accuracy(model, test_images, source.test.labels)
        ticket = biprop.Ticket.from_model(
            model, subnetwork, example=test_images[:2], classes=source.classes
        )
        size = ticket.save("mine.mpt")
        print(f"{density:7.0%}  {before:11.2f} %  {after:14.2f} %  {size:,}")

    print(subnetwork)
    for layer in subnetwork.report():
        print(f"  {layer.name:7} {layer.kept:6,} of {layer.weights:6,} kept, gain {layer.gain:.4f}")

    # The file is enough: the module is rebuilt from its operations, without the class Net.
    rebuilt = biprop.Ticket.load("mine.mpt").to_model()
    same = torch.allclose(rebuilt(test_images), model(test_images), atol=1e-4)
    print(f"mine.mpt computes the same logits: {same}")


if __name__ == "__main__":
    main()
