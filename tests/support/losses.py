"""Losses of logits, as people write them: (logits [N, V], labels [N]) -> a scalar."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def by_hand(logits: Tensor, labels: Tensor) -> Tensor:
    return (torch.logsumexp(logits, -1) - logits.gather(-1, labels[:, None])[:, 0]).mean()


def weighted(logits: Tensor, labels: Tensor) -> Tensor:
    """A weight for each token, as of masks and of policy gradients."""
    weight = (labels % 3).to(logits.dtype)
    return (F.cross_entropy(logits, labels, reduction="none") * weight).sum() / weight.sum()


LOSSES: dict[str, Loss] = {
    "mean": lambda x, y: F.cross_entropy(x, y),
    "sum": lambda x, y: F.cross_entropy(x, y, reduction="sum"),
    "ignored labels": lambda x, y: F.cross_entropy(x, y.where(y % 2 == 0, -100)),
    "label smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "class weights": lambda x, y: F.cross_entropy(x, y, weight=torch.linspace(0.5, 2, x.shape[1])),
    "z-loss": lambda x, y: F.cross_entropy(x, y) + 1e-3 * torch.logsumexp(x, -1).square().mean(),
    "soft cap": lambda x, y: F.cross_entropy(20 * torch.tanh(x / 20), y),
    "temperature, times 3": lambda x, y: 3 * F.cross_entropy(x / 0.7, y),
    "in [B, T, V]": lambda x, y: F.cross_entropy(x.view(4, -1, x.shape[1]).float().flatten(0, 1), y),
    "one long sequence": lambda x, y: F.cross_entropy(
        (x.view(1, -1, x.shape[1]) * torch.ones(len(x), 1)).flatten(0, 1), y
    ),
    "shifted logits": lambda x, y: F.cross_entropy(
        x.view(4, -1, x.shape[1])[:, :-1].flatten(0, 1), y.view(4, -1)[:, 1:].flatten()
    ),
    "logarithm of a softmax": lambda x, y: F.nll_loss(F.log_softmax(x.view(4, -1, x.shape[1]), -1).flatten(0, 1), y),
    "by hand": by_hand,
    "weight of each token": weighted,
    "distance to one-hot": lambda x, y: F.mse_loss(x.softmax(-1), F.one_hot(y, x.shape[1]).to(x.dtype)),
    "logistic": lambda x, y: F.binary_cross_entropy_with_logits(x, F.one_hot(y, x.shape[1]).to(x.dtype)),
}
# Those of which rows depend on each other.
MIXED: dict[str, tuple[Loss, str]] = {
    "softmax over rows": (lambda x, y: F.cross_entropy(x, y) + x.softmax(0).square().mean(), "amax over some rows"),
    "square of the loss": (lambda x, y: F.cross_entropy(x, y).square(), "computed from the loss"),
}


class Head(nn.Module):
    """(N, width), labels (N) -> the loss of their logits; tied: the head's weight is the embedding's."""

    def __init__(self, loss: Loss, width: int = 32, words: int = 512, bias: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.loss = nn.Linear(width, width), nn.Linear(width, words, bias=bias), loss

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.head(torch.tanh(self.body(x))), labels)


class Distilled(nn.Module):
    """(N, width) -> the divergence of a student's probabilities from a teacher's, whose head does not train."""

    def __init__(self, width: int = 32, words: int = 512) -> None:
        super().__init__()
        self.body, self.student, self.teacher = (
            nn.Linear(width, width),
            nn.Linear(width, words),
            nn.Linear(width, words),
        )
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        student = F.log_softmax(self.student(torch.tanh(self.body(x))), -1)
        return F.kl_div(student, F.log_softmax(self.teacher(x), -1), reduction="batchmean", log_target=True)


def kept_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """A mean over the tokens of which the model is sure: the number of them is a sum over rows of what it computes."""
    weight = (logits.detach().softmax(-1).amax(-1) > 0.003).to(logits.dtype)
    return (F.cross_entropy(logits, labels, reduction="none") * weight).sum(0) / weight.sum(0)


MIXED |= {
    "a number of rows that the logits decide": (kept_tokens, "what is summed over all rows is read by a row again"),
    "logits less their mean": (lambda x, y: F.cross_entropy(x - x.mean(0), y), "summed over all rows is read"),
    "square of a sum": (lambda x, y: x.logsumexp(-1).sum(0).square(), "computed from the loss"),
    "labels of some rows": (lambda x, y: -F.log_softmax(x, -1).gather(1, y[:50, None]).mean(), "gather of some rows"),
}
LOSSES |= {
    "a product that sums rows": lambda x, y: (torch.ones(4, len(y)) @ F.log_softmax(x, -1)).mean(),
    "times a vector of one": lambda x, y: (F.cross_entropy(x, y) * torch.ones(1)).sum(),
    "axes from the end": lambda x, y: x.view(4, -1, 8, x.shape[1] // 8).permute(0, 1, -1, -2).square().mean(),
}


def compare_step(model: nn.Module, exact: nn.Module, inputs: tuple[Tensor, ...], scale: float = 1.0) -> None:
    """Assert that a step of a model in which nothing is coded has the loss and gradients of an exact one's.

    scale: a factor of the loss before the backward.
    """
    for item in (model, exact):
        item.zero_grad()
    loss, expected = model(*inputs), exact(*inputs)
    (loss * scale).backward()
    (expected * scale).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    for (name, ours), right in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert (ours.grad is None) == (right.grad is None), name
        if ours.grad is not None and right.grad is not None:
            error = (ours.grad - right.grad).norm() / right.grad.norm()
            assert error < 3e-6, (name, float(error))
