import math

import pytest
import torch
import torch.nn.functional as F

from biprop.search import losses


def test_three_equal_views_are_the_cross_entropy() -> None:
    logits, labels = torch.randn(5, 7), torch.randint(7, (5,))
    together = losses.classification(logits.repeat(3, 1), labels)
    assert float(together) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert torch.equal(
        losses.classification(logits, labels, 0.1),
        F.cross_entropy(logits, labels, label_smoothing=0.1),
    )


def test_a_known_divergence() -> None:
    """Views (1, 0), (0, 1), (1/2, 1/2) have the mean (1/2, 1/2): divergences log 2, log 2 and 0."""
    sure = 200.0
    logits = torch.tensor([[sure, 0], [0, sure], [0, 0]])
    loss = losses.jensen_shannon(logits, torch.tensor([0]))
    assert float(loss) == pytest.approx(12 * 2 / 3 * math.log(2), rel=1e-5)


def test_the_divergence_is_a_mean_over_the_batch() -> None:
    views = torch.randn(3, 4, 6)
    labels = torch.randint(6, (4,))
    whole = losses.classification(views.flatten(0, 1), labels)
    single = [losses.classification(views[:, i], labels[i : i + 1]) for i in range(4)]
    assert float(whole) == pytest.approx(float(torch.stack(single).mean()), rel=1e-5)


def test_the_clamp_keeps_certain_and_wrong_views_finite() -> None:
    logits = torch.tensor([[1000.0, 0, 0]] * 3, requires_grad=True)
    loss = losses.classification(logits, torch.tensor([0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
