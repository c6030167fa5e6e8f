"""torchtitan's way, `torchrun --nproc-per-node 2 tools/examples/torchtitan_style.py`: converted blocks, sharded."""

import result
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import approx_fx
from models.gpt import GPT

dist.init_process_group("gloo")
torch.manual_seed(0)
model = GPT(depth=2, width=128, heads=4, vocabulary=256, context=64)
sequences = (torch.arange(65) + torch.randint(256, (64, 1))) % 256
batches = sequences[dist.get_rank() :: 2].split(8)
watch = result.Watch(model)

for block in model.blocks:  # where torchtitan has block.compile(backend="inductor", fullgraph=True)
    approx_fx.convert(block, bits=4)
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for module in (*model.blocks, model):
    fully_shard(module, mp_policy=policy)


def loss_of(tokens: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of each next token."""
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
for batch in batches + batches:
    optimizer.zero_grad()
    loss = loss_of(batch)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
watch.show(model, losses, lambda: loss_of(batches[0]))
dist.destroy_process_group()
