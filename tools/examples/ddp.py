"""DistributedDataParallel, `torchrun --nproc-per-node 2 tools/examples/ddp.py`: converted, then wrapped."""

import result
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import approx_fx
from models.gpt import GPT

dist.init_process_group("gloo")
torch.manual_seed(0)
model = GPT(depth=2, width=128, heads=4, vocabulary=256, context=64)
sequences = (torch.arange(65) + torch.randint(256, (64, 1))) % 256
batches = sequences[dist.get_rank() :: 2].split(8)
watch = result.Watch(model)

approx_fx.convert(model, bits=4)
wrapped = DistributedDataParallel(model)


def loss_of(tokens: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of each next token."""
    return nn.functional.cross_entropy(wrapped(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
for _ in range(2):
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

watch.show(model, losses, lambda: loss_of(batches[0]))
dist.destroy_process_group()
