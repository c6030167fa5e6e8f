"""Batches of a data set; their order and augmentation depend only on (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tools.lib.datasets import Dataset
from tools.lib.user_errors import UserError

PADDING = 4


def train_steps(dataset: Dataset, batch: int) -> int:
    """The number of batches in an epoch; the last, smaller one is dropped so that shapes stay static.

    Raises:
        UserError: `batch` is below 1 or above the number of training images.
    """
    images = len(dataset.train_x)
    if not 1 <= batch <= images:
        raise UserError(f"A batch of {batch} was asked for; {dataset.title} allows 1 to {images} training images.")
    return images // batch


def train_batches(
    dataset: Dataset, batch: int, seed: int, epoch: int, augment: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled (x float32 [batch, C, H, W] normalised, y int64 [batch])."""
    order = torch.randperm(len(dataset.train_x), generator=_generator(seed, epoch, "order"))
    draws = _generator(seed, epoch, "augment")
    for start in range(0, train_steps(dataset, batch) * batch, batch):
        index = order[start : start + batch].to(dataset.train_x.device)
        x = dataset.train_x[index]
        yield dataset.normalise(crop_and_flip(x, draws) if augment else x), dataset.train_y[index]


def evaluation_batches(dataset: Dataset, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the test images in order: (x float32 [batch, C, H, W] normalised, y int64 [at most batch]).

    The last x is padded with repeated images, so that shapes stay static; the length of y says how many rows count.
    """
    images = len(dataset.test_x)
    for start in range(0, images, batch):
        index = torch.arange(start, start + batch, device=dataset.test_x.device).clamp_max(images - 1)
        yield dataset.normalise(dataset.test_x[index]), dataset.test_y[start : start + batch]


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pad each image of `x` [B, C, H, W] by 4 zeros, crop it at a random place, mirror it with probability 1/2."""
    images, _, height, width = x.shape
    top = torch.randint(0, 2 * PADDING + 1, (images, 1), generator=generator)
    left = torch.randint(0, 2 * PADDING + 1, (images, 1), generator=generator)
    mirror = torch.rand(images, 1, generator=generator) < 0.5
    rows = (top + torch.arange(height)).to(x.device)
    columns = torch.where(mirror, left + torch.arange(width).flip(0), left + torch.arange(width)).to(x.device)
    padded = torch.nn.functional.pad(x, (PADDING,) * 4)
    image = torch.arange(images, device=x.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A random generator seeded from (seed, epoch, purpose)."""
    entropy = [seed, epoch, *purpose.encode()]
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
