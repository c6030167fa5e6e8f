"""torch._inductor: kernels that wait for the C++ compiler are compiled several at a time.

A C++ compiler that starts loads Inductor's precompiled header and Python's own, and in the end links: that takes as
long as an ordinary kernel. So who is free takes a share of the kernels that wait. Where more cores are free than
kernels wait, each is compiled alone, as before.

One library then holds several kernels, and Inductor still finds each under the name it looks for: the files are hard
links to one. Python asks a library for the function that makes its module; here this function asks for the name that
the module is imported by, which holds the kernel's key (PEP 489), and calls the one that Inductor wrote for it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Kernels in one file: beyond that the fixed part is small, and the last file to be done is waited for.
MOST = 8
# A kernel with any other directive, such as a macro of its own, is compiled alone.
KNOWN = re.compile(r"#(include <[\w./]+>|pragma .*|define PY_SSIZE_T_CLEAN|ifdef Py_GIL_DISABLED|endif)")
SUFFIX = ".main.so"
SOURCE, LIBRARY = "kernels.cpp", "kernels.so"
HELD = 0.1  # seconds: the one who submits a kernel still holds its lock for a moment
ENTRY = "PyInit_kernel"
PART = """
#define kernel kernel_{index}
#define {entry} {entry}_{index}
namespace part_{index} {{
{body}
}}
#undef {entry}
#undef kernel
"""
WHICH = """
static PyObject* which(PyObject* spec, PyModuleDef*) {{
    PyObject* name = PyObject_GetAttrString(spec, "name");
    const std::string wanted = name == nullptr ? "" : PyUnicode_AsUTF8(name);
    Py_XDECREF(name);
{cases}
    PyErr_Format(PyExc_ImportError, "no kernel named %s in this library", wanted.c_str());
    return nullptr;
}}
static PyModuleDef_Slot slots[] = {{
    {{Py_mod_create, reinterpret_cast<void*>(which)}},
#ifdef Py_GIL_DISABLED
    {{Py_mod_gil, Py_MOD_GIL_NOT_USED}},
#endif
    {{0, nullptr}}}};
static PyModuleDef library = {{PyModuleDef_HEAD_INIT, "kernel", nullptr, 0, nullptr, slots, nullptr, nullptr, nullptr}};
PyMODINIT_FUNC {entry}(void) {{ return PyModuleDef_Init(&library); }}
"""


def joined(sources: Mapping[str, str]) -> str | None:
    """One C++ source out of those of several kernels, with their bindings, by key; None where they cannot share one."""
    includes: dict[str, None] = {"#define PY_SSIZE_T_CLEAN": None}
    parts, cases = [], []
    for index, (key, source) in enumerate(sources.items()):
        body = []
        for line in source.splitlines():
            text = line.strip()
            if text.startswith("#") and not KNOWN.fullmatch(text):
                return None
            if text.startswith("#include"):
                includes[text] = None
            else:
                body.append(line)
        parts.append(PART.format(index=index, entry=ENTRY, body="\n".join(body)))
        cases.append(f'    if (wanted == "{key}.kernel") return part_{index}::{ENTRY}_{index}();')
    return "\n".join(includes) + "\n" + "".join(parts) + WHICH.format(cases="\n".join(cases), entry=ENTRY)


@dataclass(frozen=True)
class Job:
    """One kernel to be compiled. alone: Inductor's own way, which does nothing where the library is there."""

    alone: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)

    def parts(self) -> tuple[str, Any, Path] | None:
        """(lock's path, Inductor's builder, library's path); None if it is not one file made into one library."""
        given: list[Any] = list(getattr(self.alone, "args", ()))
        if len(given) != 2 or not isinstance(given[1], tuple) or len(given[1]) != 1:
            return None
        target = Path(given[1][0].get_target_file_path())
        return (given[0], given[1][0], target) if target.name.endswith(SUFFIX) else None


@dataclass
class Kernels:
    """Stands for Inductor's AsyncCompile where a kernel is given to the compiler, by `cpp_pybinding`.

    threads: of Inductor's pool.
    """

    threads: int
    waiting: list[Job] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def cpp_pybinding(self, argument_types: Sequence[str], source: str) -> Any:
        """Start to compile a kernel; its future."""
        from torch._inductor.async_compile import AsyncCompile

        stand_in: Any = self
        return AsyncCompile.cpp_pybinding(stand_in, list(argument_types), source)

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        """Compile in Inductor's pool, with others that wait."""
        from torch._inductor.async_compile import AsyncCompile

        job = Job(task)
        with self.lock:
            self.waiting.append(job)
        AsyncCompile.pool().submit(self.work)
        return job.done

    def work(self) -> None:
        """Compile a share of what waits. There are at least as many calls as kernels, so that none is left."""
        with self.lock:
            count = min(MOST, math.ceil(len(self.waiting) / self.threads))
            jobs, self.waiting = self.waiting[:count], self.waiting[count:]
        # What cannot be compiled together is compiled alone, and says why if it cannot either.
        with contextlib.suppress(Exception):
            build(jobs)
        for job in jobs:
            try:
                job.done.set_result(job.alone())
            except BaseException as error:
                job.done.set_exception(error)


def build(jobs: Sequence[Job]) -> None:
    """Compile those of these kernels that can share a library into one, where there is more than one of them."""
    from filelock import Timeout
    from torch.utils._filelock import FileLock

    commands: dict[str, dict[Path, str]] = {}  # the compiler's, places left open -> library -> source
    with contextlib.ExitStack() as locks:
        for lock, builder, target in filter(None, (job.parts() for job in jobs)):
            path = target.with_suffix(".cpp")
            text = path.read_text()
            with contextlib.suppress(Timeout):  # held: another process is at it
                locks.enter_context(FileLock(lock, timeout=HELD))
                if not target.exists() and joined({"": text}) is not None:
                    command = builder.get_command_line().replace(str(path), SOURCE).replace(str(target), LIBRARY)
                    commands.setdefault(command, {})[target] = text
        for command, sources in commands.items():
            if len(sources) > 1:
                _build(command, sources)


def _build(command: str, sources: Mapping[Path, str]) -> None:
    text = joined({target.name.removesuffix(SUFFIX): source for target, source in sources.items()})
    assert text is not None
    with tempfile.TemporaryDirectory(dir=next(iter(sources)).parent) as folder:
        Path(folder, SOURCE).write_text(text)
        subprocess.run(shlex.split(command), cwd=folder, capture_output=True, check=True)
        for target in sources:
            try:
                os.link(Path(folder, LIBRARY), target)
            except OSError:  # a file system without hard links
                os.replace(shutil.copy(Path(folder, LIBRARY), Path(folder, target.name)), target)
