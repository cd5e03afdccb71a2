"""The loss of a batch: cross entropy of the method's logits, mixed and weighted."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from iif.methods import Method


def classification_loss(
    method: Method,
    outputs: Tensor,
    labels: Tensor,
    soft: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean cross entropy of the method's training logits.

    A mixed image has two labels, and a method may give each of them other logits: the loss is the
    mean of the two cross entropies by their shares. Where the logits do not depend on the label,
    that is the cross entropy with soft targets.

    Args:
        method: in training mode it may count the labels; each image is counted once.
        outputs: (B, K), what the classifier returns.
        labels: (B,) classes of the images; of a mixed image the first one's.
        soft: (B, K) shares of the classes in each image, at most two that are not 0; None
            without mixing.
        weight: (K,) of each class; the mean is then weighted.
    """
    logits = method.training_logits(outputs, labels)
    if soft is None:
        return cross_entropy(logits, labels, weight)
    share = soft.gather(1, labels[:, None])[:, 0].to(logits.dtype)
    partner = soft.scatter(1, labels[:, None], 0.0).argmax(dim=1)
    counting = method.training
    other = method.eval().training_logits(outputs, partner)
    method.train(counting)
    rest = 1 - share
    if weight is not None:
        share, rest = share * weight[labels], rest * weight[partner]
    total = share * _cross_entropies(logits, labels) + rest * _cross_entropies(other, partner)
    return total.sum() / (share + rest).sum()


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]


def class_balanced_weights(counts: NDArray[np.int64], beta: float = 0.9999) -> Tensor:
    """Return the weight of each class's loss by its effective number of images, their mean 1.

    (1 - beta) / (1 - beta^n), Cui et al., CVPR 2019, arXiv 1901.05555, equation 3. Deferred
    re-weighting (Cao et al., NeurIPS 2019, arXiv 1906.07413) uses it in the last epochs.

    Args:
        counts: (K,) training images of each class; a class without one counts as seen once.
        beta: 0 weighs all classes alike; towards 1 by the inverse count.

    Returns:
        (K,) float32.
    """
    seen = np.maximum(counts, 1)
    weights = (1 - beta) / (1 - beta**seen)
    return torch.from_numpy(weights / weights.mean()).float()
