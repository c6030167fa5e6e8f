"""Hugging Face's Trainer: labels, gradient accumulation, gradient checkpointing, and a run that is resumed."""

import tempfile

import result
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import approx_fx

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
)
sequences = (torch.arange(64) + torch.randint(256, (128, 1))) % 256
watch = result.Watch(model)

approx_fx.convert(model, bits=4)

with tempfile.TemporaryDirectory() as folder:
    for steps in (4, 8):
        arguments = TrainingArguments(
            folder, max_steps=steps, save_steps=4, logging_steps=1, per_device_train_batch_size=8, learning_rate=1e-3,
            gradient_accumulation_steps=2, gradient_checkpointing=True, report_to="none", use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in sequences])
        trainer.train(resume_from_checkpoint=steps > 4)

losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
batch = next(iter(trainer.get_train_dataloader()))
watch.show(model, losses, lambda: trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(512)))
