"""torch._inductor: work for the C++ compiler that starts as soon as it is known, not once all code is written.

Which vector instructions the machine has is asked by compiling small programs, for seconds: in a thread, meanwhile the
graph is traced. And Inductor hands its C++ kernels to the compiler once a whole graph's code is written, so that one
core writes while the others wait. It submits Triton kernels as each is written; here the same is done for C++.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from .together import Kernels

CALL = "async_compile.cpp_pybinding("


def probe(inputs: Sequence[Any]) -> threading.Thread | None:
    """Start to find the CPU's vector instructions, for inputs on the CPU; Inductor keeps what is found. Join it."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    if not any(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in inputs):
        return None
    thread = threading.Thread(target=pick_vec_isa, name="approx_fx-probe", daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def submitted(probing: threading.Thread | None) -> Iterator[None]:
    """Each C++ kernel that is defined inside is compiled at once, in Inductor's pool; its wrapper finds it cached.

    probing: from `probe`, which is waited for where the first code is about to be written. For one compile at a time.
    """
    from torch._inductor.async_compile import get_compile_threads
    from torch._inductor.codegen.wrapper import PythonWrapperCodegen
    from torch._inductor.scheduler import Scheduler

    threads = get_compile_threads()
    write, theirs, kernels = Scheduler.codegen, PythonWrapperCodegen.define_kernel, Kernels(threads)

    def codegen(self: Any, *args: Any) -> Any:
        if probing is not None:
            probing.join()
        return write(self, *args)

    def define_kernel(self: Any, kernel_name: str, kernel_body: str, *rest: Any, **options: Any) -> Any:
        if kernel_body.startswith(CALL) and threads > 1:
            submit(kernel_body, kernels)
        return theirs(self, kernel_name, kernel_body, *rest, **options)

    early = mock.patch.object(PythonWrapperCodegen, "define_kernel", define_kernel)
    with early, mock.patch.object(Scheduler, "codegen", codegen):
        yield


def submit(kernel_body: str, async_compile: Any) -> Any:
    """Start compiling the kernel that a generated module will define by `kernel_body`, an expression; its future."""
    return eval(kernel_body, {"async_compile": async_compile})
