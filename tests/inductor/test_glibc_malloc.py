"""glibc's malloc keeps freed memory for the next step, unless the user has set it up."""

import os
import subprocess
import sys

import pytest
import torch

from approx_fx.process.glibc_malloc import USER_VARIABLES, is_configured_by_user

PROGRAM = """
import platform, resource, torch
from approx_fx.process.glibc_malloc import keep_freed_memory
done = keep_freed_memory()
def touch():
    for size in (3, 12, 40):
        torch.ones(size << 18)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(done, platform.libc_ver()[0] == "glibc", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

FOR_A_WHILE = """
import platform, resource, torch
from approx_fx.process.glibc_malloc import freed_memory_kept
def resident():
    return int(open("/proc/self/statm").read().split()[1])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(1 << 20)
before = resident()
with freed_memory_kept():
    torch.ones(12 << 20)
    first = faults()
    for _ in range(5):
        torch.ones(12 << 20)
    inside = faults() - first
print(resident() - before < 1000, platform.libc_ver()[0] == "glibc", inside)
"""


def run(program: str = PROGRAM, **variables: str) -> tuple[bool, bool, int]:
    clean = {name: value for name, value in os.environ.items() if not is_configured_by_user({name: value})}
    out = subprocess.run([sys.executable, "-c", program], env=clean | variables, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    done, glibc, faults = out.stdout.split()
    return done == "True", glibc == "True", int(faults)


@pytest.mark.cpp
def test_freed_memory_is_not_faulted_in_again() -> None:
    done, glibc, faults = run()
    assert done == glibc
    if glibc:
        assert faults < 1000  # 5 times 55 MiB are 70,400 pages of 4 KiB


@pytest.mark.cpp
def test_freed_memory_is_kept_for_a_while() -> None:
    """48 MiB are 12,288 pages; where the freed block is too small once it is aligned, a second one is faulted in."""
    is_returned, glibc, faults = run(FOR_A_WHILE)
    if glibc:
        assert is_returned
        assert faults < 2 * 12_288  # 5 times as many if it was not kept


@pytest.mark.parametrize("asked", [False, True])
def test_a_compile_leaves_malloc_alone_unless_asked(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr("approx_fx.backend.keep_freed_memory", lambda: done.append("cpu"))
    options = {"bits": 4, "keep_freed_memory": asked}
    torch.compile(torch.nn.Linear(3, 2), backend="approx_fx", options=options)(torch.ones(2, 3))
    assert done == ["cpu"] * asked


@pytest.mark.cpp
def test_the_users_own_setting_stays() -> None:
    done, _, _ = run(MALLOC_TOP_PAD_="131072")
    assert not done


@pytest.mark.parametrize("name", USER_VARIABLES)
def test_a_variable_of_malloc_is_a_setting(name: str) -> None:
    assert is_configured_by_user({name: "1"})


def test_tunables_count_if_they_name_malloc() -> None:
    assert is_configured_by_user({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"})
    assert not is_configured_by_user({"GLIBC_TUNABLES": "glibc.cpu.x86_shstk=off"})
