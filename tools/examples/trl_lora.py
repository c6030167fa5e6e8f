"""TRL's SFTTrainer with LoRA adapters by peft: the adapters are added, then the model is converted."""

import tempfile

import result
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import approx_fx

torch.manual_seed(0)
base = LlamaForCausalLM(
    LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
)
sequences = (torch.arange(64) + torch.randint(256, (64, 1))) % 256
words = {f"word{number}": number for number in range(256)}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)), eos_token="word0")
model = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
watch = result.Watch(model)

approx_fx.convert(model, bits=4)

with tempfile.TemporaryDirectory() as folder:
    arguments = SFTConfig(
        folder, max_steps=8, logging_steps=1, per_device_train_batch_size=8, learning_rate=1e-2, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    dataset = Dataset.from_dict({"input_ids": sequences.tolist()})
    trainer = SFTTrainer(model, arguments, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()

losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
batch = next(iter(trainer.get_train_dataloader()))
watch.show(model, losses, lambda: trainer.compute_loss(model, dict(batch)))
