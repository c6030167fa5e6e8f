"""One rank of a two-process run under DDP or FSDP2 in which only the second rank's data are hard to code.

torchrun --nproc-per-node 2 tests/support/hard_data_worker.py ddp|fsdp FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import approx_fx


class Block(nn.Module):
    """(N, 64) -> (N, 64); a loud first input feature makes one of 256 features loud, on which the norm depends."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(64, 256), nn.RMSNorm(256), nn.Linear(256, 64)
        with torch.no_grad():
            self.first.weight[:, 0] = 0
            self.first.weight[7, 0] = 1

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.second(self.norm(self.first(x))))


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[operator]


def gradients(kind: str, bits: int | None, x: Tensor) -> dict[str, Tensor]:
    """Of the second of two steps."""
    from torch.distributed.fsdp import fully_shard

    torch._dynamo.reset()
    torch.manual_seed(0)
    blocks = [Block(), Block()]
    model: nn.Module = nn.Sequential(*blocks)
    for module in [model] if kind == "ddp" else blocks:
        approx_fx.convert(module, bits=bits, compiler="eager", min_bytes=256)
    if kind == "fsdp":
        for block in blocks:
            fully_shard(block)
    wrapped = nn.parallel.DistributedDataParallel(model) if kind == "ddp" else fully_shard(model)
    for _ in range(2):
        wrapped.zero_grad()
        wrapped(x).square().mean().backward()
    return {name: full(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    texts: list[str] = []
    logging.getLogger("approx_fx").addHandler(logging.Handler())
    logging.getLogger("approx_fx").handlers[-1].emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(rank))
    x[:, 0] *= 1000 if rank == 1 else 1
    exact, ours = gradients(kind, None, x), gradients(kind, 4, x)
    cosines = {
        name: float(nn.functional.cosine_similarity(ours[name].flatten(), exact[name].flatten(), 0)) for name in exact
    }
    result = {"cosines": cosines, "texts": texts, "sum": float(sum(value.double().sum() for value in ours.values()))}
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
