"""Kernels that wait for the C++ compiler share one file and one library, and stay what they are."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import async_compile
from torch._inductor.codecache import CppPythonBindingsCodeCache
from torch._inductor.exc import CppCompileError
from torch._inductor.utils import fresh_cache
from torch.utils._filelock import FileLock

from approx_fx.host import early, together
from approx_fx.host.together import Kernels, joined

ADD = """
#include <torch/csrc/inductor/cpp_prefix.h>
extern "C" void kernel(const float* in_ptr0, float* out_ptr0)
{
    static const float more = NUMBER;
    for (int i = 0; i < 4; ++i) out_ptr0[i] = in_ptr0[i] + more;
}
"""
POINTERS = ["const float*", "float*"]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """Kernels that wait until the test lets them be compiled, as by the one who is free."""
    monkeypatch.setattr(async_compile.AsyncCompile, "pool", lambda: types.SimpleNamespace(submit=lambda work: None))
    monkeypatch.setattr(async_compile, "get_compile_threads", lambda: 2)
    with fresh_cache():
        yield Kernels(2)


def _given(kernels: Kernels, *sources: str) -> list[Any]:
    return [early.submit(f"async_compile.cpp_pybinding({POINTERS!r}, {source!r})", kernels) for source in sources]


def _added(kernel: Any) -> float:
    out = torch.empty(4)
    kernel(torch.zeros(4), out)
    return float(out[3])


def _libraries() -> set[int]:
    folder = Path(torch._inductor.runtime.cache_dir_utils.cache_dir())
    return {path.stat().st_ino for path in folder.rglob("*.main.so")}


def _forget() -> None:
    """What a new process would not know."""
    CppPythonBindingsCodeCache.cache_clear()
    for name in [name for name in sys.modules if name.endswith(".kernel")]:
        del sys.modules[name]


def test_kernels_of_one_library_are_found_each_under_its_name(kernels: Kernels) -> None:
    sources = [ADD.replace("NUMBER", f"{number}.0f") for number in range(5)]
    given = _given(kernels, *sources)
    kernels.work()  # of five, one of two takes three
    kernels.work()
    kernels.work()
    assert not kernels.waiting
    assert [_added(kernel.result()) for kernel in given] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(_libraries()) == 3
    _forget()
    again = _given(kernels, *sources)
    assert not kernels.waiting  # the libraries are there
    assert [_added(kernel.result()) for kernel in again] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_no_more_than_so_many_share_a_file(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "MOST", 2)
    _given(kernels, *(ADD.replace("NUMBER", f"{number}.0f") for number in range(7)))
    kernels.work()
    assert len(kernels.waiting) == 5 and len(_libraries()) == 1


def test_a_kernel_that_does_not_compile_spoils_no_other(kernels: Kernels) -> None:
    good, bad, also_good = _given(kernels, ADD.replace("NUMBER", "1.0f"), ADD, ADD.replace("NUMBER", "2.0f"))
    for _ in range(3):
        kernels.work()
    assert [_added(good.result()), _added(also_good.result())] == [1.0, 2.0]
    with pytest.raises(CppCompileError, match="NUMBER"):
        bad.result()


def test_a_kernel_with_a_macro_of_its_own_stays_alone(kernels: Kernels) -> None:
    own = "#define NUMBER 3.0f\n" + ADD
    assert joined({"a": own}) is None and joined({"a": ADD}) is not None
    given = _given(kernels, own, ADD.replace("NUMBER", "4.0f"), ADD.replace("NUMBER", "5.0f"))
    for _ in range(3):
        kernels.work()
    assert [_added(kernel.result()) for kernel in given] == [3.0, 4.0, 5.0]
    assert len(_libraries()) == 3


def test_a_kernel_that_another_process_is_at_is_left_to_it(kernels: Kernels) -> None:
    _given(kernels, *(ADD.replace("NUMBER", f"{number}.0f") for number in range(3)))
    first, *others = (job.parts() for job in kernels.waiting)
    assert first is not None
    with FileLock(first[0]):
        together.build(kernels.waiting)
    assert not first[2].exists() and all(other is not None and other[2].exists() for other in others)


def test_a_file_system_without_hard_links_gets_copies(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links")

    monkeypatch.setattr(os, "link", refuse)
    given = _given(kernels, *(ADD.replace("NUMBER", f"{number}.0f") for number in range(2)))
    together.build(kernels.waiting)
    assert len(_libraries()) == 2
    for _ in given:
        kernels.work()
    assert [_added(kernel.result()) for kernel in given] == [0.0, 1.0]


def test_other_work_for_inductors_pool_is_done_as_it_is(kernels: Kernels) -> None:
    done = [kernels.submit(task) for task in (lambda: 1, lambda: 2, lambda: 1 // 0)]
    for _ in range(3):
        kernels.work()
    assert [future.result() for future in done[:2]] == [1, 2]
    with pytest.raises(ZeroDivisionError):
        done[2].result()


def test_a_name_that_is_not_in_the_library_is_said(kernels: Kernels) -> None:
    given = _given(kernels, *(ADD.replace("NUMBER", f"{number}.5f") for number in range(4)))
    kernels.work()
    del given
    library = next(Path(torch._inductor.runtime.cache_dir_utils.cache_dir()).rglob("*.main.so"))
    loader = CppPythonBindingsCodeCache._load_library_inner
    with pytest.raises(ImportError, match=r"no kernel named other\.kernel in this library"):
        loader(str(library), "other")
