"""Lightning with DDP in two processes: the model inside the LightningModule is converted, and Lightning wraps it."""

import result
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

import approx_fx
from models.gpt import GPT


class Language(LightningModule):
    """A GPT trained to predict the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.gpt = approx_fx.convert(GPT(depth=2, width=128, heads=4, vocabulary=256, context=64), bits=4)

    def training_step(self, tokens: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy of each next token."""
        loss = nn.functional.cross_entropy(self.gpt(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW of all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


torch.manual_seed(0)
sequences = (torch.arange(65) + torch.randint(256, (64, 1))) % 256
language = Language()
watch = result.Watch(language)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, **quiet)  # type: ignore[arg-type]
trainer.fit(language, DataLoader(sequences, batch_size=8))  # type: ignore[arg-type]
watch.show(language, language.losses, lambda: language.training_step(sequences[:8]))
