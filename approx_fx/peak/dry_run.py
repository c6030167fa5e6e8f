"""Dry-run the wrapper code that torch._inductor generates: fake tensors, no kernels, to count live and moved bytes."""

from __future__ import annotations

import contextlib
import gc
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextlib.contextmanager
def generated_code() -> Iterator[list[str]]:
    """Collect the source of every graph that Inductor compiles, or loads from its cache, while this is entered."""
    from torch._inductor.graph import GraphLowering

    sources: list[str] = []
    with mock.patch.object(GraphLowering, "save_output_code", sources.append):
        yield sources


@dataclass(frozen=True)
class Access:
    """The bytes that one kernel or op reads and writes. kind: 'kernel' or 'op'; first: bytes of an op's first input."""

    kind: str
    name: str
    read: int
    written: int
    first: int = 0


ENTRY = "void  kernel("
POINTER = r"\b((?:in_|out_|in_out_)ptr\d+)"
TRITON = re.compile(r"^def triton_\w+\((.*?)\):", re.MULTILINE)


def loop_nests(source: str) -> list[tuple[set[str], set[str]]]:
    """(pointers read, pointers written) of each outermost loop of a C++ kernel, by the names of its parameters."""
    body = source[source.index("{") :]
    alias = dict(re.findall(r"auto (\w+) = (in_out_ptr\d+);", body))
    nests: list[tuple[set[str], set[str]]] = []
    depth, end = 0, -1
    for line in body.splitlines():
        if re.match(r"\s*for\s*\(int64_t", line) and end < 0:
            nests.append((set(), set()))
            end = depth
        opened, closed = line.count("{"), line.count("}")
        if end >= 0:
            stores = set(re.findall(rf"(?:store\(|^\s*|transpose_mxn<[^(]*\(.*?, .*?, ){POINTER}\s*(?:\+|\[)", line))
            stores &= {name for name in re.findall(POINTER, line) if not name.startswith("in_ptr")}
            pointers = set(re.findall(POINTER, line))
            nests[-1][1].update(alias.get(name, name) for name in stores)
            nests[-1][0].update(alias.get(name, name) for name in pointers - stores)
        depth += opened - closed
        if end >= 0 and closed and depth <= end:
            end = -1
    return nests


class _NullAsyncCompile:
    """Replaces AsyncCompile. Its kernels compute nothing; they report that they ran and how many bytes they move."""

    def __init__(self, ran: Callable[[str], None], moved: list[Access]) -> None:
        self.ran, self.moved = ran, moved

    def wait(self, scope: dict[str, Any]) -> None:
        """Compile nothing, but tell each kernel the name it is bound to in the wrapper."""
        for name, value in scope.items():
            if isinstance(value, _Kernel):
                value.name = name

    def __getattr__(self, _: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: _Kernel(self.ran, self.moved, str(args[-1]) if args else "")


class _Kernel:
    def __init__(self, ran: Callable[[str], None], moved: list[Access], source: str) -> None:
        self.ran, self.moved, self.source = ran, moved, source
        self.name = ""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        names, nests = self.accesses()
        tensors = {name: value for name, value in zip(names, args, strict=False) if isinstance(value, torch.Tensor)}
        sizes = {name: value.numel() * value.element_size() for name, value in tensors.items()}
        width = {name: value.element_size() for name, value in tensors.items()}
        for read, written in nests:
            moved_bytes = [
                sum(min(sizes.get(name, 0), width.get(name, 0) * self.max_elements(name)) for name in side)
                for side in (read, written)
            ]
            self.moved.append(Access("kernel", self.name, *moved_bytes))
        self.ran(self.name)

    def accesses(self) -> tuple[list[str], list[tuple[set[str], set[str]]]]:
        """The pointers in the arguments' order, and those each loop nest reads and writes; Triton's is one nest."""
        if ENTRY in self.source:
            kernel = self.source[self.source.index(ENTRY) :]  # helpers may come before it
            return re.findall(POINTER, kernel[: kernel.index("{")]), loop_nests(kernel)
        if head := TRITON.search(self.source):
            read, written = (set(re.findall(rf"tl\.{move}\({POINTER}", self.source)) for move in ("load", "store"))
            return re.findall(POINTER, head[1]), [(read, written)]
        return [], []

    def max_elements(self, name: str) -> int:
        """An upper bound on the elements that the kernel accesses through a pointer, perhaps a part of its buffer."""
        sizes = re.findall(r"^    (?:[xyz]|r\d_)numel = (\d+)$", self.source, re.MULTILINE)
        offsets = set(re.findall(rf"tl\.(?:load|store)\({name} \+ (.*?)(?:, |\))", self.source))
        return math.prod(map(int, sizes)) * len(offsets) if sizes and offsets else 2**62

    run = __call__


@dataclass
class Storages:
    """The storages that a dry run allocates. alive: those still referenced, with their bytes.

    ignored: parameters and inputs; moved: an Access for each kernel or op; live: (event, bytes alive after it).
    """

    alive: dict[StorageWeakRef, int] = field(default_factory=dict)
    ignored: set[StorageWeakRef] = field(default_factory=set)
    moved: list[Access] = field(default_factory=list)
    live: list[tuple[str, int]] = field(default_factory=list)
    peak: int = 0

    def ignore(self, values: list[Any]) -> None:
        """Exclude the storages of these tensors, which are parameters and inputs, from the count."""
        self.ignored.update(StorageWeakRef(v.untyped_storage()) for v in values if isinstance(v, torch.Tensor))

    def add(self, label: str, value: Any) -> None:
        """Count the storages of all tensors in `value` that are not counted yet, and record the event `label`."""
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference not in self.ignored:
                    self.alive.setdefault(reference, storage.nbytes())
        self.record(label)

    def record(self, label: str) -> None:
        """Drop the storages that have been freed, and record the bytes alive after the event `label`."""
        if self._count() > self.peak:
            gc.collect()  # fake tensors are in reference cycles: some that the code has freed are still there
            self.peak = max(self.peak, self._count())
        self.live.append((label, self._count()))

    def _count(self) -> int:
        for freed in [ref for ref in self.alive if ref.expired()]:
            del self.alive[freed]
        return sum(self.alive.values())


NO_WORK = (torch.ops.aten.empty_strided, torch.ops.prim.device, torch.ops.aten.empty)


def _sizes(value: Any) -> list[int]:
    return [leaf.numel() * leaf.element_size() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _with_rng_state(func: Any, args: Any, kwargs: Any) -> Any:
    """The results of an op that draws random numbers in a checkpoint, called with its generator's state; else None."""
    name = getattr(func, "__name__", "")
    if name == "run_and_save_rng_state":
        return torch.empty(1, dtype=torch.uint8), args[0](*args[1:], **kwargs)
    return args[1](*args[2:], **kwargs) if name == "run_with_rng_state" else None


class _CountOutputs(TorchDispatchMode):
    """Counts the outputs of every op and the bytes it moves."""

    def __init__(self, storages: Storages) -> None:
        super().__init__()
        self.storages = storages

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _with_rng_state(func, args, kwargs or {})
        result = func(*args, **(kwargs or {})) if result is None else result
        self.storages.add(str(func), result)
        if isinstance(func, HigherOrderOperator):
            return result
        if not func.is_view and func._overloadpacket not in NO_WORK:
            read, written = [_sizes(item) for item in ((args, kwargs), result)]
            self.storages.moved.append(Access("op", str(func), sum(read), sum(written), read[0] if read else 0))
        return result


def run_dry(source: str, inputs: list[Any], storages: Storages, mode: FakeTensorMode) -> Any:
    """Run a wrapper on fake tensors and return its outputs; `storages` counts what it allocates.

    inputs: the first inputs of the call; the list is emptied, so that the call can free them. The other inputs are
    created in the sizes that the wrapper asserts. For a backward these are tangents, which count; a forward is given no
    inputs, and its created ones do not count.
    """
    scope: dict[str, Any] = {"__name__": "approx_fx_dry_run"}
    text = source.replace("async_compile = AsyncCompile()", "async_compile = _no_kernels")
    text = re.sub(r"^.*_cuda_getCurrentRawStream.*$", "get_raw_stream = int", text, flags=re.MULTILINE)
    scope["_no_kernels"] = _NullAsyncCompile(storages.record, storages.moved)
    exec(compile(text, "<inductor>", "exec"), scope)  # source that Inductor generated in this process
    for name in [name for name in scope if name.startswith("empty_strided_")]:
        scope[name] = lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)
    scope["reinterpret_tensor"] = lambda base, size, stride, offset=0: base.as_strided(size, stride, offset)
    for name in ("assert_size_stride", "assert_alignment"):
        scope[name] = lambda *_: None
    with mode:
        with mock.patch("torch._dynamo.testing.rand_strided", _empty):
            created = scope["get_args"]()
        arguments = [*inputs, *created[len(inputs) :]]
        if inputs:
            storages.add("tangents", created[len(inputs) :])
        else:
            storages.ignore(created)
        inputs.clear()
        created.clear()
        with (
            mock.patch("torch.cuda._DeviceGuard", contextlib.nullcontext),
            mock.patch("torch.cuda.set_device"),
            _CountOutputs(storages),
        ):
            outputs = scope["call"](arguments)
            storages.record("return")
    return outputs


def _empty(size: Any, stride: Any, dtype: torch.dtype = torch.float32, device: Any = "cpu", **_: Any) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cpu")
