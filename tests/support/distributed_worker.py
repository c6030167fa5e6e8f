"""One rank of a two-process run: trains a step under DDP or FSDP2, exactly and in few bits, and says what it saw.

torchrun --nproc-per-node 2 tests/support/distributed_worker.py ddp|fsdp FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import approx_fx
from models.gpt import GPT


def build() -> nn.Module:
    torch.manual_seed(0)
    return GPT(2, 64, 2, 128, 64)


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[operator]


def sharded(model: GPT) -> nn.Module:
    """FSDP2 by block, each block converted: compiled inside, gathered outside."""
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def step(kind: str, bits: int | None, tokens: Tensor) -> tuple[nn.Module, dict[str, Tensor], float]:
    torch._dynamo.reset()
    model = build()
    if kind == "ddp":
        approx_fx.convert(model, bits=bits, compiler="eager", min_bytes=1024)
        wrapped: nn.Module = nn.parallel.DistributedDataParallel(model)
    else:
        for block in model.blocks:
            approx_fx.convert(block, bits=bits, compiler="eager", min_bytes=1024)
        wrapped = sharded(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    losses = []
    gradients: dict[str, Tensor] = {}
    for _ in range(2):
        optimizer.zero_grad()
        logits = wrapped(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        losses.append(float(loss.detach()))
        if not gradients:
            gradients = {name: full(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return model, gradients, losses[-1]


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    tokens = torch.randint(128, (8, 65), generator=torch.Generator().manual_seed(rank))
    _, exact, loss = step(kind, None, tokens)
    model, coded, ours = step(kind, 4, tokens)
    report = approx_fx.report(model)
    a = torch.cat([g.flatten() for g in coded.values()])
    b = torch.cat([g.flatten() for g in exact.values()])
    weights = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    weights |= {shape[::-1] for shape in weights}
    found = {
        "cosine": float(a @ b / (a.norm() * b.norm())),
        "parameters": [len(coded), len(exact)],
        "losses": [loss, ours],
        "ratio": report.ratio,
        "graphs": len(report.graphs),
        "failed": [graph.failed for graph in report.graphs if graph.failed],
        "decisions": [[row.name, row.quantizer, row.bits, list(row.shape)] for row in report.tensors],
        "weights_saved": [row.name for row in (*report.tensors, *report.kept) if row.shape in weights],
        "gradients": float(a.double().sum()),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
