"""compare: the same step under approx_fx and under others, each in a process of its own, steps alternated."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .config import Config
from .convert import convert
from .errors import ApproxFxError, did_you_mean
from .memory import measure
from .target import Target, load

SYSTEMS = ("approx_fx", "compile", "eager")
Json = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One system's run. dtype: 'float32', or 'bfloat16' for autocast. folder: for its gradients and its cold cache."""

    system: str
    target: str
    batch: int | None
    dtype: str
    config: Config
    folder: str


def compare(
    target: str,
    batch: int | None = None,
    config: Config | None = None,
    dtype: str = "float32",
    steps: int = 10,
    against: tuple[str, ...] = ("compile",),
    progress: Callable[[str], None] = lambda _: None,
) -> Json:
    """Time, peak, saved bytes and gradients of one training step; returns the contract's JSON.

    compile_seconds is the first step with a cold cache; step_seconds the median of `steps` alternated steps.
    ratio.step and ratio.compile are approx_fx / compile, ratio.peak and ratio.saved compile / approx_fx.
    """
    for name in against:
        if name not in SYSTEMS[1:]:
            raise ApproxFxError(
                f"--against {name!r} is not known.{did_you_mean(name, SYSTEMS)} Allowed: compile, eager."
            )
    if steps < 1:
        raise ApproxFxError(f"--steps {steps} is not allowed: 1 or more.")
    load(target, batch)
    config = config or Config()
    names = list(dict.fromkeys(("approx_fx", *against)))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        jobs = {name: Job(name, target, batch, dtype, config, str(Path(folder) / name)) for name in names}
        workers = {name: stack.enter_context(_worker(job)) for name, job in jobs.items()}
        runs: dict[str, Json] = {}
        for name in names:
            progress(f"compiling: {name}")
            runs[name] = _ask(workers[name], "first")
        for name in names:
            progress(f"measuring memory: {name}")
            runs[name].update(_ask(workers[name], "memory"))
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for index in range(steps):
            progress(f"step {index + 1} of {steps}")
            for name in names if index % 2 == 0 else reversed(names):
                seconds[name].append(_ask(workers[name], "step"))
        for name in names:
            runs[name]["step_seconds"] = statistics.median(seconds[name])
            runs[name]["step_seconds_all"] = seconds[name]
        return _summary(runs, folder, names, dataclasses.asdict(config), jobs["approx_fx"])


def _summary(runs: dict[str, Json], folder: str, names: list[str], options: Json, job: Job) -> Json:
    ours, base = runs["approx_fx"], names[1] if len(names) > 1 else "approx_fx"
    other = runs[base]
    mine = torch.load(Path(folder) / "approx_fx" / "gradients.pt")
    theirs = torch.load(Path(folder) / base / "gradients.pt")
    norm = theirs.norm()
    ratio = {
        "step": ours["step_seconds"] / other["step_seconds"],
        "compile": ours["compile_seconds"] / other["compile_seconds"],
        "peak": other["peak_bytes"] / max(ours["peak_bytes"], 1),
        "saved": other["saved_bytes"] / max(ours["saved_bytes"], 1),
    }
    return {
        "schema": 1,
        "target": job.target,
        "batch": job.batch,
        "dtype": job.dtype,
        "options": options,
        "against": base,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "runs": runs,
        "ratio": ratio,
        "gradient": {
            "relative_error": float((mine - theirs).norm() / norm),
            "cosine": float(mine @ theirs / (mine.norm() * norm)),
        },
        "loss_equal": ours["loss"] == other["loss"],
    }


@contextlib.contextmanager
def _worker(job: Job) -> Iterator[Connection]:
    """A process that answers one request at a time; the cold cache is set before it imports torch."""
    context = get_context("spawn")
    here, there = context.Pipe()
    Path(job.folder).mkdir()
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(job.folder) / "cache")
    process = context.Process(target=_serve, args=(there, job), daemon=False)
    process.start()
    there.close()
    if before is None:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    else:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
    try:
        yield here
    finally:
        with contextlib.suppress(OSError):
            here.send("stop")
        process.join(20)
        if process.is_alive():
            process.terminate()


def _ask(worker: Connection, request: str) -> Any:
    worker.send(request)
    try:
        answer = worker.recv()
    except EOFError:
        raise RuntimeError(f"a worker process ended while it was asked for {request!r}") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(connection: Connection, job: Job) -> None:
    step: Step | None = None
    while True:
        request = connection.recv()
        if request == "stop":
            return
        try:
            step = step or Step.of(job)
            connection.send(getattr(step, request)())
        except Exception as error:
            text = str(error).strip().splitlines()
            connection.send(RuntimeError(f"{job.system}: {type(error).__name__}: {text[0] if text else ''}"))


@dataclass
class Step:
    """One training step of one system: forward, loss, backward; no optimizer, so every step sees the same weights."""

    job: Job
    made: Target
    model: Callable[..., Any]

    @classmethod
    def of(cls, job: Job) -> Step:
        """The target's model under the job's system, on the GPU if there is one."""
        made = load(job.target, job.batch)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = made.model.to(device)
        inputs = tuple(item.to(device) if isinstance(item, Tensor) else item for item in made.inputs)
        made = dataclasses.replace(made, model=model, inputs=inputs)
        if job.system == "approx_fx":
            return cls(job, made, convert(model, **dataclasses.asdict(job.config)))
        return cls(job, made, torch.compile(model) if job.system == "compile" else model)

    def forward(self) -> Any:
        """The model's output."""
        device = next(self.made.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if self.job.dtype == "bfloat16" else contextlib.nullcontext():
            return self.model(*self.made.inputs)

    def step(self) -> float:
        """Seconds of one step."""
        self.made.model.zero_grad(set_to_none=True)
        _synchronize()
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start

    def _run(self) -> float:
        loss = self.made.loss(self.forward())
        loss.backward()
        _synchronize()
        return loss.item()

    def first(self) -> Json:
        """The first step: seconds, loss; gradients go to a file."""
        start = time.perf_counter()
        loss = self._run()
        seconds = time.perf_counter() - start
        torch.save(flat_gradients(self.made.model), Path(self.job.folder) / "gradients.pt")
        return {"compile_seconds": seconds, "loss": loss}

    def memory(self) -> Json:
        """Peak of a whole step, and what is held between forward and backward, outputs not counted."""
        self.step()
        self.made.model.zero_grad(set_to_none=True)
        peak = measure(self._run).peak
        self.made.model.zero_grad(set_to_none=True)
        outputs = 0

        def forward() -> Any:
            nonlocal outputs
            result = self.forward()
            outputs = sum({leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
                           for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}.values())  # fmt: skip
            return result

        return {"peak_bytes": peak, "saved_bytes": measure(forward).held - outputs}


def flat_gradients(model: nn.Module) -> Tensor:
    """All gradients as one float64 vector on the CPU; a parameter without one counts as zeros."""
    parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).detach().cpu().double().flatten()
             for p in model.parameters() if p.requires_grad]  # fmt: skip
    return torch.cat(parts)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
