"""One training run: build, compile and train a model, continuing from the checkpoint of an earlier process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import approx_fx
from tools.lib import checkpoint
from tools.lib.batches import evaluation_batches, train_batches, train_steps
from tools.lib.datasets import Dataset
from tools.lib.model_registry import build
from tools.lib.optimizers import make_optimizer, make_scheduler
from tools.lib.settings import Epoch, Record, Settings

Convert = Callable[[nn.Module, Settings], nn.Module]


def with_approx_fx(model: nn.Module, settings: Settings) -> nn.Module:
    """Convert `model` with the settings' bits and grid; bits None is torch.compile's own partition."""
    return approx_fx.convert(model, bits=settings.bits, grid=settings.grid, compiler=settings.compiler, dynamic=False)


class Run:
    """One run: `resume` reads its checkpoint, `prepare` builds and compiles, `train` trains the remaining epochs.

    Args:
        settings: all settings of the run.
        dataset: the data, on `device`.
        device: the device to run on.
        path: the checkpoint, written after every epoch; None writes none.
        convert: (model, settings) -> the model to train; it may change the given model in place.
        reports: whether the converted model has an approx_fx.report, unless bits is None.

    Raises:
        UserError: the batch is larger than the training set.
    """

    model: nn.Module

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        device: torch.device,
        path: Path | None = None,
        convert: Convert = with_approx_fx,
        reports: bool = True,
    ) -> None:
        self.settings = settings
        self.convert, self.reports = convert, reports
        self.dataset = dataset
        self.device = device
        self.path = path
        self.steps = train_steps(dataset, settings.batch)
        self.history: list[Epoch] = []
        self.compile_seconds = 0.0
        self.report: Any = None
        self._saved: tuple[int | None, int | None] = (None, None)
        self._stored: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) >= self.settings.epochs

    def record(self) -> Record:
        """The results of the run so far."""
        return Record(
            bits=self.settings.bits,
            seed=self.settings.seed,
            finished=self.finished,
            compile_seconds=self.compile_seconds,
            saved_before=self._saved[0],
            saved_after=self._saved[1],
            history=tuple(self.history),
        )

    def resume(self) -> bool:
        """Read the checkpoint, if there is one, and return whether there was. Call it before `prepare`.

        Raises:
            UserError: the file is damaged, or was made with other settings.
        """
        self._stored = checkpoint.read(self.path, self.settings) if self.path else None
        if self._stored is None:
            return False
        record = self._stored["record"]
        self.history = [Epoch(**epoch) for epoch in record["history"]]
        self.compile_seconds = record["compile_seconds"]
        self._saved = (record["saved_before"], record["saved_after"])
        return True

    def prepare(self) -> None:
        """Build the model from its seed, convert and compile it, and restore the state that `resume` read.

        Raises:
            UserError: unknown model, or a model that cannot take the data's images.
        """
        settings = self.settings
        torch.manual_seed(settings.seed)
        model = build(settings.model, len(self.dataset.classes), self.dataset.image_shape).to(self.device)
        self.model = self.convert(model, settings)
        self.optimizer = make_optimizer(settings, self.model)
        self.scheduler = make_scheduler(settings, self.optimizer, settings.epochs * self.steps)
        self._compile()
        if self._stored is not None:
            self._restore(self._stored)

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """One forward and backward in training mode, without an update; its gradients replace the previous ones.

        Args:
            x: float32 [batch, C, H, W].
            y: int64 [batch].

        Returns:
            The mean cross-entropy, a detached scalar.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(x), y)
        torch.autograd.backward(loss)
        return loss.detach()

    def train(
        self, on_step: Callable[[], None] | None = None, on_epoch: Callable[[Epoch], None] | None = None
    ) -> Record:
        """Train the remaining epochs; the checkpoint is written before `on_epoch` is called."""
        while not self.finished:
            number = len(self.history) + 1
            loss, seconds = self._epoch(number, on_step)
            total = seconds + (self.history[-1].total_seconds if self.history else 0.0)
            self.history.append(Epoch(number, loss, self.accuracy(), seconds, total))
            if self.path:
                checkpoint.write(self.path, self._state())
            if on_epoch:
                on_epoch(self.history[-1])
        return self.record()

    def accuracy(self) -> float:
        """Share of the test images that are classified correctly, 0..1. The model runs eagerly, not compiled."""
        self.model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for x, y in evaluation_batches(self.dataset, self.settings.batch):
                correct += (self.model(x)[: len(y)].argmax(1) == y).sum()
        self.model.train()
        return correct.item() / len(self.dataset.test_y)

    def _compile(self) -> None:
        """Compile by running one untimed step, read the report, and restore the state from before the step."""
        state_before = {name: value.clone() for name, value in self.model.state_dict().items()}
        x, y = next(train_batches(self.dataset, self.settings.batch, self.settings.seed, epoch=0))
        start = self._now()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self.gradient(x, y)
        self.compile_seconds = self._now() - start
        self.model.load_state_dict(state_before)
        self.optimizer.zero_grad(set_to_none=True)
        if self.settings.bits is not None and self.reports:
            self.report = approx_fx.report(self.model)
            self._saved = (int(self.report.saved_before), int(self.report.saved_after))

    def _epoch(self, number: int, on_step: Callable[[], None] | None) -> tuple[float, float]:
        """Train one epoch; return its mean loss and seconds."""
        settings = self.settings
        total = torch.zeros((), device=self.device)
        start = self._now()
        for x, y in train_batches(self.dataset, settings.batch, settings.seed, number, settings.augment):
            total += self.gradient(x, y)
            self.optimizer.step()
            self.scheduler.step()
            if on_step:
                on_step()
        return total.item() / self.steps, self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _state(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "record": asdict(self.record()),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
