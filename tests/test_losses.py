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


def test_a_teacher_that_says_the_same_costs_nothing() -> None:
    logits = torch.randn(4, 6)
    labels = torch.tensor(2.5)
    assert float(losses.distillation(labels, logits, logits + 3, 1.0, 2.0)) == pytest.approx(
        0, abs=1e-6
    )
    assert float(losses.distillation(labels, logits, logits, 0.25, 2.0)) == pytest.approx(1.875)


@pytest.mark.parametrize("temperature", [1.0, 50.0])
def test_the_teachers_gradient_does_not_shrink_with_the_temperature(temperature: float) -> None:
    """T (softmax(z / T) - softmax(t / T)) / B, which tends to (z - t) / (classes B) for large T
    and logits of mean 0: Hinton et al., equation 4.
    """
    logits = torch.randn(4, 6)
    logits = (logits - logits.mean(1, keepdim=True)).requires_grad_()
    teacher = torch.randn(4, 6)
    teacher = teacher - teacher.mean(1, keepdim=True)
    loss = losses.distillation(torch.tensor(0.0), logits, teacher, 1.0, temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    own, taught = ((z / temperature).softmax(1) for z in (logits.detach(), teacher))
    torch.testing.assert_close(logits.grad, temperature * (own - taught) / 4)
    if temperature == 50:
        limit = (logits.detach() - teacher) / (6 * 4)
        torch.testing.assert_close(logits.grad, limit, rtol=0.1, atol=2e-3)
