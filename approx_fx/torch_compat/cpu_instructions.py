"""torch._inductor.cpu_vec_isa: detect vector instructions while the graph is traced; its test programs take seconds."""

from __future__ import annotations

import threading


def start_asking() -> None:
    """Start the detection in a thread; a caller that needs the answer earlier repeats it, with the same result."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    threading.Thread(target=pick_vec_isa, daemon=True, name="approx_fx: vector instructions").start()
