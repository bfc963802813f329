"""Training losses: cross entropy, AugMix's consistency loss, and distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CONSISTENCY = 12.0
"""Weight of the Jensen-Shannon divergence, as in the AugMix paper."""


def jensen_shannon(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of the plain views plus 12 times the Jensen-Shannon divergence between three
    views (Hendrycks et al., AugMix, ICLR 2020, section 3).

    The divergence is the mean over the views of KL(view || mean of the three), averaged over the
    batch; the mean is clamped to [1e-7, 1].

    Args:
        logits: [3 B, classes] float: the plain views of B images, then two augmented views of each,
            in the same order.
        labels: [B] int64.
        label_smoothing: of the cross entropy, in [0, 1].

    Returns:
        A scalar.
    """
    # In logarithms throughout: the gradient of F.kl_div is NaN where a probability underflows to 0.
    log_views = logits.float().log_softmax(1).view(3, -1, logits.shape[1])
    views = log_views.exp()
    log_mean = views.mean(0).clamp(1e-7, 1).log()
    divergence = (views * (log_views - log_mean)).sum(2).mean()
    plain_views = logits[: len(labels)]
    cross_entropy = F.cross_entropy(plain_views, labels, label_smoothing=label_smoothing)
    return cross_entropy + CONSISTENCY * divergence


def classification(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The loss of a batch, a scalar: cross entropy of logits [B, classes] and labels [B] int64, or,
    for logits [3 B, classes] of three views of each image, `jensen_shannon`.
    """
    if len(logits) == len(labels):
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    assert len(logits) == 3 * len(labels), (logits.shape, labels.shape)
    return jensen_shannon(logits, labels, label_smoothing)


def distillation(
    loss: Tensor, logits: Tensor, teacher_logits: Tensor, weight: float, temperature: float
) -> Tensor:
    """The loss of a network that learns labels and the predictions of a teacher (Hinton, Vinyals
    and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.1):

        (1 - weight) * loss + weight * T^2 * KL(softmax(teacher / T) || softmax(logits / T))

    with the divergence averaged over the batch. The factor T^2 keeps its gradient as large as the
    loss's, whatever the temperature T.

    Args:
        loss: of the labels, a scalar.
        logits, teacher_logits: [B, classes] float.
        weight: from 0, labels only, to 1, the teacher only.
        temperature: T, above 0.

    Returns:
        A scalar.
    """
    own, taught = (z.div(temperature).log_softmax(1) for z in (logits, teacher_logits))
    divergence = F.kl_div(own, taught, reduction="batchmean", log_target=True)
    return (1 - weight) * loss + weight * temperature**2 * divergence
