"""A process that trains one model under one system and answers requests, which are names of methods of `Step`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..config import Config
from ..errors import ApproxFxError
from ..inductor.switches import VARIABLE
from ..process.glibc_malloc import keep_freed_memory
from .baselines import apply
from .gpu_profile import kernels
from .live_bytes import measure
from .target import Target, load

Json = dict[str, Any]
LONGEST = 40
CACHE = "TORCHINDUCTOR_CACHE_DIR"
# A process inherits the environment, which is shared by all threads, so only one may start at a time.
_ONE_START = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What one worker runs. dtype: 'float32', or 'bfloat16' for autocast. folder: for its gradients and its cache.

    memory: bytes of GPU memory that the process may use, None for all; more raises. disable: comma-separated names of
    additions to Inductor that are switched off, see `inductor.switches`.
    """

    system: str
    target: str
    batch: int | None
    dtype: str
    config: Config
    folder: str
    memory: int | None = None
    disable: str = ""


@contextlib.contextmanager
def worker(job: Job) -> Iterator[Connection]:
    """Start a process for `job`, to be used with `ask`. Its compile cache is in the job's folder, so it starts cold."""
    context = get_context("spawn")
    parent_end, child_end = context.Pipe()
    Path(job.folder).mkdir(exist_ok=True)
    process = context.Process(target=_serve, args=(child_end, job), daemon=False)
    environment = {CACHE: str(Path(job.folder) / "cache"), VARIABLE: job.disable or os.environ.get(VARIABLE, "")}
    with _ONE_START, mock.patch.dict(os.environ, environment):
        process.start()
    child_end.close()
    try:
        yield parent_end
    finally:
        with contextlib.suppress(OSError):
            parent_end.send("stop")
        process.join(20)
        if process.is_alive():
            process.terminate()
            process.join(5)


def ask(connection: Connection, request: str) -> Any:
    """Call the method of `Step` named `request` in the worker; raises RuntimeError, with one line, if that fails.

    An ApproxFxError of the worker is raised as one.
    """
    try:
        connection.send(request)
        answer = connection.recv()
    except (EOFError, OSError):
        raise RuntimeError(f"a worker process ended while it was asked for {request!r}") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(connection: Connection, job: Job) -> None:
    step: Step | None = None
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if request == "stop":
            return
        try:
            step = step or Step.of(job)
            connection.send(getattr(step, request)())
        except Exception as error:
            text = str(error).strip().splitlines()
            line = text[0] if text else ""
            is_ours = isinstance(error, ApproxFxError)
            connection.send(
                ApproxFxError(line) if is_ours else RuntimeError(f"{job.system}: {type(error).__name__}: {line}")
            )


@dataclass
class Step:
    """One training step of one system: forward, loss, backward; no optimizer, so the weights stay the same."""

    job: Job
    target: Target
    model: Callable[..., Any]

    @classmethod
    def of(cls, job: Job) -> Step:
        """Build the job's target under its system, on the GPU if there is one."""
        keep_freed_memory()  # for every system, so that no ratio is due to the allocator
        target = load(job.target, job.batch)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if job.memory is not None and device.type == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(job.memory / total, 1.0))
        model = target.model.to(device)
        inputs, keywords = tree_map(
            lambda item: item.to(device) if isinstance(item, Tensor) else item, (target.inputs, target.keywords)
        )
        target = dataclasses.replace(target, model=model, inputs=inputs, keywords=keywords)
        return cls(job, target, apply(job.system, model, job.config, target.loss if target.has_loss else None))

    def loss(self) -> Tensor:
        """The loss of a forward. A factory's loss is compiled with the model, by the systems that compile."""
        result = self.forward()
        return result if self.target.has_loss else self.target.loss(result)

    def forward(self) -> Any:
        """The factory's loss, or the model's output if it has none."""
        device = next(self.target.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if self.job.dtype == "bfloat16" else contextlib.nullcontext():
            return self.model(*self.target.inputs, **self.target.keywords)

    def step(self) -> Json:
        """Run one step; return its seconds, and those of the forward with the loss and of the backward."""
        self.target.model.zero_grad(set_to_none=True)
        start, middle, end = _Mark(), _Mark(), _Mark()
        _synchronize()
        begin = time.perf_counter()
        start.set()
        loss = self.loss()
        middle.set()
        loss.backward()
        end.set()
        _synchronize()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "forward": middle.since(start), "backward": end.since(middle)}

    def kernels(self) -> Json:
        """Launches, busy_seconds and the longest kernels (name, launches, seconds) of a step; {} without a GPU."""
        if not torch.cuda.is_available():
            return {}
        all_kernels = kernels(self.step)
        longest = [[kernel.name, kernel.launches, kernel.seconds] for kernel in all_kernels[:LONGEST]]
        launches, busy = (sum(getattr(kernel, name) for kernel in all_kernels) for name in ("launches", "seconds"))
        return {"launches": launches, "busy_seconds": busy, "longest_kernels": longest}

    def _run(self) -> float:
        loss = self.loss()
        loss.backward()
        _synchronize()
        return loss.item()

    def first(self) -> Json:
        """Run the first step; return its seconds, the loss and the samples in a step. The gradients go to a file."""
        start = time.perf_counter()
        loss = self._run()
        seconds = time.perf_counter() - start
        torch.save(flat_gradients(self.target.model), Path(self.job.folder) / "gradients.pt")
        return {
            "compile_seconds": seconds,
            "loss": loss,
            "samples": samples((self.target.inputs, self.target.keywords)),
        }

    def memory(self) -> Json:
        """Peak bytes of a step, and bytes alive between forward and backward, outputs excluded; warms up first.

        Where a loss is computed in chunks, the gradient of the head is alive between the two, and counts.
        """
        self.step()
        self.target.model.zero_grad(set_to_none=True)
        peak = measure(self._run).peak
        self.target.model.zero_grad(set_to_none=True)
        outputs = 0

        def forward() -> Any:
            nonlocal outputs
            result = self.forward()
            outputs = sum({leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
                           for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}.values())  # fmt: skip
            return result

        measured = {"peak_bytes": peak, "saved_bytes": measure(forward).held - outputs}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # other workers may be waiting on the same GPU
        return measured


class _Mark:
    """A point in time: on CUDA an event in the stream, read after the step's end; else the clock."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
        self.clock = 0.0

    def set(self) -> None:
        if self.event is not None:
            self.event.record()
        self.clock = time.perf_counter()

    def since(self, other: _Mark) -> float:
        """Seconds since `other`; on CUDA only valid after a synchronization."""
        if self.event is not None and other.event is not None:
            return other.event.elapsed_time(self.event) / 1000
        return self.clock - other.clock


def samples(inputs: Any) -> int | None:
    """The batch size: the length of the first tensor's first dimension, or None."""
    tensors = [item for item in tree_leaves(inputs) if isinstance(item, Tensor) and item.ndim > 0]
    return len(tensors[0]) if tensors else None


def flat_gradients(model: nn.Module) -> Tensor:
    """All gradients as one float64 vector on the CPU; zeros for a parameter without a gradient."""
    parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).detach().cpu().double().flatten()
             for p in model.parameters() if p.requires_grad]  # fmt: skip
    return torch.cat(parts)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
