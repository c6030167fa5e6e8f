"""torch._inductor's generated wrappers: run on fake tensors, kernels left out, to see which bytes are alive when."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextlib.contextmanager
def generated_code() -> Iterator[list[str]]:
    """The source of every graph that Inductor compiles, or takes from its cache, inside, in that order."""
    from torch._inductor.graph import GraphLowering

    found: list[str] = []
    with mock.patch.object(GraphLowering, "save_output_code", found.append):
        yield found


@dataclass(frozen=True)
class Access:
    """What one kernel or op moves, in bytes. kind: 'kernel' or 'op'; first: of its first input alone."""

    kind: str
    name: str
    read: int
    written: int
    first: int = 0


ENTRY = "void  kernel("
POINTER = r"\b((?:in_|out_|in_out_)ptr\d+)"
TRITON = re.compile(r"^def triton_\w+\((.*?)\):", re.MULTILINE)


def loop_nests(source: str) -> list[tuple[set[str], set[str]]]:
    """(pointers read, pointers written) of each outermost loop of a C++ function, by its own names for them."""
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
            found = set(re.findall(POINTER, line))
            nests[-1][1].update(alias.get(name, name) for name in stores)
            nests[-1][0].update(alias.get(name, name) for name in found - stores)
        depth += opened - closed
        if end >= 0 and closed and depth <= end:
            end = -1
    return nests


class _NoKernels:
    """In the place of AsyncCompile: a kernel only says that it ran, and what it moves."""

    def __init__(self, ran: Callable[[str], None], moved: list[Access]) -> None:
        self.ran, self.moved = ran, moved

    def wait(self, scope: dict[str, Any]) -> None:
        """Nothing is compiled; the kernels learn their names."""
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
        given = {name: value for name, value in zip(names, args, strict=False) if isinstance(value, torch.Tensor)}
        sizes = {name: value.numel() * value.element_size() for name, value in given.items()}
        width = {name: value.element_size() for name, value in given.items()}
        for read, written in nests:
            moves = [
                sum(min(sizes.get(name, 0), width.get(name, 0) * self.reach(name)) for name in side)
                for side in (read, written)
            ]
            self.moved.append(Access("kernel", self.name, *moves))
        self.ran(self.name)

    def accesses(self) -> tuple[list[str], list[tuple[set[str], set[str]]]]:
        """The pointers, in the order of the arguments, and what each loop nest reads and writes; of Triton one nest."""
        if ENTRY in self.source:
            kernel = self.source[self.source.index(ENTRY) :]  # helpers may come before it
            return re.findall(POINTER, kernel[: kernel.index("{")]), loop_nests(kernel)
        if head := TRITON.search(self.source):
            read, written = (set(re.findall(rf"tl\.{move}\({POINTER}", self.source)) for move in ("load", "store"))
            return re.findall(POINTER, head[1]), [(read, written)]
        return [], []

    def reach(self, name: str) -> int:
        """How many elements of a pointer the kernel can reach at most: of a part of a buffer Triton is told no size."""
        sizes = re.findall(r"^    (?:[xyz]|r\d_)numel = (\d+)$", self.source, re.MULTILINE)
        places = set(re.findall(rf"tl\.(?:load|store)\({name} \+ (.*?)(?:, |\))", self.source))
        return math.prod(map(int, sizes)) * len(places) if sizes and places else 2**62

    run = __call__


@dataclass
class Storages:
    """Every storage that was allocated and is still referred to. live: (what happened, bytes alive behind it)."""

    alive: dict[StorageWeakRef, int] = field(default_factory=dict)
    foreign: set[StorageWeakRef] = field(default_factory=set)
    moved: list[Access] = field(default_factory=list)
    live: list[tuple[str, int]] = field(default_factory=list)

    def leave_out(self, values: list[Any]) -> None:
        """Never count the storages of these tensors: parameters and inputs."""
        self.foreign.update(StorageWeakRef(v.untyped_storage()) for v in values if isinstance(v, torch.Tensor))

    def add(self, label: str, value: Any) -> None:
        """Count the storages of all tensors in `value` that are not counted yet."""
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference not in self.foreign:
                    self.alive.setdefault(reference, storage.nbytes())
        self.look(label)

    def look(self, label: str) -> None:
        """Forget what has been freed, and note what is alive."""
        for gone in [ref for ref in self.alive if ref.expired()]:
            del self.alive[gone]
        self.live.append((label, sum(self.alive.values())))


NO_WORK = (torch.ops.aten.empty_strided, torch.ops.prim.device, torch.ops.aten.empty)


def _sizes(value: Any) -> list[int]:
    return [leaf.numel() * leaf.element_size() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


class _Watch(TorchDispatchMode):
    """Counts the outputs of every op."""

    def __init__(self, storages: Storages) -> None:
        super().__init__()
        self.storages = storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.storages.add(str(func), result)
        if not func.is_view and func._overloadpacket not in NO_WORK:
            read, written = [_sizes(item) for item in ((args, kwargs), result)]
            self.storages.moved.append(Access("op", str(func), sum(read), sum(written), read[0] if read else 0))
        return result


def run_dry(source: str, inputs: list[Any], storages: Storages, mode: FakeTensorMode) -> Any:
    """A wrapper's outputs, run on fake tensors; `storages` counts what it allocates.

    inputs: the first of the call's, emptied, for the call frees them; the rest are made in the sizes of the wrapper:
    tangents, which count, or if there are none the forward's own, which do not.
    """
    scope: dict[str, Any] = {"__name__": "approx_fx_dry_run"}
    text = source.replace("async_compile = AsyncCompile()", "async_compile = _no_kernels")
    text = re.sub(r"^.*_cuda_getCurrentRawStream.*$", "get_raw_stream = int", text, flags=re.MULTILINE)
    scope["_no_kernels"] = _NoKernels(storages.look, storages.moved)
    exec(compile(text, "<inductor>", "exec"), scope)  # our own compiler's output
    for name in [name for name in scope if name.startswith("empty_strided_")]:
        scope[name] = lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)
    scope["reinterpret_tensor"] = lambda base, size, stride, offset=0: base.as_strided(size, stride, offset)
    for name in ("assert_size_stride", "assert_alignment"):
        scope[name] = lambda *_: None
    with mode:
        with mock.patch("torch._dynamo.testing.rand_strided", _empty):
            made = scope["get_args"]()
        given = [*inputs, *made[len(inputs) :]]
        if inputs:
            storages.add("tangents", made[len(inputs) :])
        else:
            storages.leave_out(made)
        inputs.clear()
        made.clear()
        with (
            mock.patch("torch.cuda._DeviceGuard", contextlib.nullcontext),
            mock.patch("torch.cuda.set_device"),
            _Watch(storages),
        ):
            outputs = scope["call"](given)
            storages.look("return")
    return outputs


def _empty(size: Any, stride: Any, dtype: torch.dtype = torch.float32, device: Any = "cpu", **_: Any) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cpu")
