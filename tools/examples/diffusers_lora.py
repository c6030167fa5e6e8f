"""diffusers' UNet2DConditionModel with LoRA adapters in its attention: `add_adapter`, then it is converted."""

from typing import Any

import result
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch.nn.functional import mse_loss

import approx_fx

torch.manual_seed(0)
unet: Any = UNet2DConditionModel(
    sample_size=16, block_out_channels=(64,), layers_per_block=1, cross_attention_dim=64, attention_head_dim=16,
    down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), mid_block_type=None,
)  # fmt: skip
unet.requires_grad_(False)
unet.add_adapter(LoraConfig(r=4, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
watch = result.Watch(unet)
approx_fx.convert(unet, bits=4, compiler="eager")  # Inductor takes minutes

scheduler: Any = DDPMScheduler()
optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-2)
latents, noise = torch.randn(2, 4, 4, 16, 16)
words, times = torch.randn(4, 16, 64), torch.arange(0, 1000, 250)


def loss_of() -> torch.Tensor:
    """The mean squared error of the predicted noise."""
    return mse_loss(unet(scheduler.add_noise(latents, noise, times), times, words).sample, noise)


losses = []
for _ in range(8):
    optimizer.zero_grad()
    losses.append(loss_of())
    losses[-1].backward()
    optimizer.step()
watch.show(unet, [loss.item() for loss in losses], loss_of)
