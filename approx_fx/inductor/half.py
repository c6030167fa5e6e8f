"""Inductor's settings for one half that encodes or decodes: graph passes, fusion choices, options and patches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx

from ..joint.fake_values import tensor
from ..ops import reference_of
from .choices import peak_aware_choices
from .graph_order import with_lower_peak
from .kernel_order import advance_weight_copies
from .patches import applied
from .post_grad import PostGradPasses
from .switches import is_on

CODED = "approx_fx_coded"


def mark_coded(half: fx.GraphModule) -> fx.GraphModule:
    """Mark a half as one that encodes or decodes, which cannot be seen where our ops have become aten ops."""
    half.meta[CODED] = True
    return half


def is_coded(half: fx.GraphModule) -> bool:
    """Whether a half encodes or decodes a saved tensor."""
    return CODED in half.meta or any(reference_of(node.target) is not None for node in half.graph.nodes)


@contextlib.contextmanager
def settings_for(
    half: fx.GraphModule, is_backward: bool, patches: Sequence[str] | None, low_peak: bool = False
) -> Iterator[None]:
    """Context in which Inductor compiles this half with our settings. patches: names of those applied, None for all.

    low_peak: its kernels hold as few bytes at a time as they can: results with nothing but inputs in common are not
    computed by one kernel, and what is computed from codes is not materialized for several readers.
    """
    from torch._inductor import config
    from torch._inductor.virtualized import V

    passes = PostGradPasses(config.post_grad_custom_post_pass, "backward" if is_backward else "forward")
    options: dict[str, Any] = {"post_grad_custom_post_pass": passes}
    on_cpu = all(value.device.type == "cpu" for node in half.graph.nodes if (value := tensor(node)) is not None)
    if not on_cpu:
        options |= GPU_OPTIONS if is_on("gpu_options") else {}
    elif low_peak:
        options |= RECOMPUTE_PER_READER
    options |= _reordering(on_cpu)
    choices = peak_aware_choices(low_peak) if is_on("peak_aware_fusion") else None
    with (
        config.patch(options),
        V.set_choices_handler(choices) if choices is not None else contextlib.nullcontext(),
        applied(patches),
    ):
        yield


def _reordering(on_cpu: bool) -> dict[str, Any]:
    """Inductor's options that run our scheduler passes behind the reordering passes that the user has set."""
    from torch._inductor import config

    passes = list(config.reorder_for_compute_comm_overlap_passes) if config.reorder_for_compute_comm_overlap else []
    passes += [with_lower_peak] if is_on("graph_order") else []
    passes += [advance_weight_copies] if on_cpu and is_on("kernel_order") else []
    return {"reorder_for_compute_comm_overlap": True, "reorder_for_compute_comm_overlap_passes": passes}


# On a GPU our `materialize` op decides what is materialized, so Inductor's own thresholds are set out of reach. Decoded
# values are summed along rows and along columns by two kernels: one mixed-order kernel would pass what it reads through
# shared memory for every row (the backward of a ViT-S's layer norm on an H100: 142 us, 45 us with nothing coded).
RECOMPUTE_PER_READER = {
    "realize_opcount_threshold": 1000,
    "realize_reads_threshold": 1000,
    "realize_acc_reads_threshold": 1000,
}
GPU_OPTIONS = {**RECOMPUTE_PER_READER, "triton.mix_order_reduction": False}
