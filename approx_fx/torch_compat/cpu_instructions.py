"""torch._inductor.cpu_vec_isa: which vector instructions a CPU has, found out while the graph is traced.

Inductor compiles a program for each set of instructions to see, seconds in which Python waits. It asks once a process
and remembers the answer; asked early, in a thread, the compilers run beside the tracing.
"""

from __future__ import annotations

import threading


def start_asking() -> None:
    """Ask in a thread of its own; whoever asks meanwhile does the same work, and gets the same answer."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    threading.Thread(target=pick_vec_isa, daemon=True, name="approx_fx: vector instructions").start()
