"""torch._inductor.cpu_vec_isa: find out in the background which vector instructions the CPU has.

Inductor compiles a test program for each instruction set, which takes seconds, and caches the answer for the process.
Started early, in a thread, these C++ compilers run while the graph is traced.
"""

from __future__ import annotations

import threading


def start_asking() -> None:
    """Start the detection in a thread; a caller that needs the answer earlier repeats it, with the same result."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    threading.Thread(target=pick_vec_isa, daemon=True, name="approx_fx: vector instructions").start()
