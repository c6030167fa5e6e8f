"""A graph whose step would hold more at its peak than torch.compile's is compiled to hold less, or left exact.

Both peaks are read off the code that Inductor generates for the graph, which is not compiled for that. It takes as long
as Inductor's own part of two compiles, and is done where the peak that is predicted from the graph is not far below the
bytes that torch.compile holds in any case.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from ..joint.fake_values import nbytes
from ..joint.graph import joint_outputs
from ..plan.decisions import Decisions
from ..report import registry
from ..torch_compat.compiled_graph import Hook
from .first_step import Compile, Compiled, Planned

# Bytes at the peak that are not worth another look.
LEAST_BYTES = 2**20
# A peak that is predicted to be within a tenth of what torch.compile's cannot be below is not looked at again.
NEAR = 1.1

log = logging.getLogger("approx_fx")


def no_larger(compile_graph: Compile, peak: Callable[[Sequence[Any], Decisions | None], int], key: str) -> Compile:
    """`compile_graph`, but a graph whose peak would be above torch.compile's is compiled by other decisions.

    First come kernels that hold less. If that is not enough, a graph that returns nothing but scalars, such as a loss,
    trains exactly. A graph that returns other tensors is only a part of a step: it keeps its codes, for while it waits
    for its backward, and others run, it holds less than torch.compile's.

    peak: called with the graph's inputs and decisions, or None for torch.compile; the bytes at the peak of a step.
    key: of the graph, under which the changed decisions are stored for later processes.
    """
    known: dict[str, dict[str, Any]] = registry.load_peaks(key) or {}
    said: set[str] = set()

    def compile_smaller(
        values: Sequence[Any], decisions: Decisions, before_forward: Hook | None, unique: bool = False
    ) -> Compiled:
        name = decisions.key()
        changed = dataclasses.replace(decisions, **known.get(name, {}))
        compiled = compile_graph(values, changed, before_forward, unique)
        if name not in known and compiled.planned is not None:
            known[name] = _changes(compiled.planned, decisions, lambda by: peak(values, by))
            registry.save_peaks(key, known)
            if known[name]:
                compiled = compile_graph(values, dataclasses.replace(decisions, **known[name]), before_forward)
        reason = known.get(name, {}).get("exact", "")
        if reason not in said | {""}:
            log.warning("approx_fx leaves a graph exact, it trains as with torch.compile: %s", reason)
            said.add(reason)
        return compiled

    return compile_smaller


def _changes(planned: Planned, decisions: Decisions, peak: Callable[[Decisions | None], int]) -> dict[str, Any]:
    """The fields of `decisions` to change so that the peak of the graph's step is not above torch.compile's."""
    try:
        if not _is_suspect(planned):
            return {}
        return within(peak(None), decisions, peak, lambda: planned.returns_scalars)[1]
    except Exception as error:  # symbolic sizes, or code that calls what cannot run on fake tensors
        log.debug("approx_fx could not predict a graph's peak: %s: %s", type(error).__name__, error)
        return {}


def within(
    limit: int, decisions: Decisions, peak: Callable[[Decisions], int], is_whole_step: Callable[[], bool]
) -> tuple[int, dict[str, Any]]:
    """(the bytes at the peak of a step, the fields of `decisions` to change so that they are at most `limit`).

    limit: the bytes at the peak of torch.compile's step. peak: those of this pass's, by some decisions. is_whole_step:
    asked, once a peak is known, whether no other graph's tensors wait for this step, so that it may be left exact.
    """
    coded = peak(decisions)
    if coded <= limit:
        return coded, {}
    least = min(coded, peak(dataclasses.replace(decisions, low_peak=True)))
    if least > limit and is_whole_step():
        sizes = f"{least / 2**20:.1f} MiB at its peak, torch.compile's holds {limit / 2**20:.1f} MiB"
        return limit, {"exact": f"its step would hold {sizes}"}
    return least, {"low_peak": True} if least < coded else {}


def _is_suspect(planned: Planned) -> bool:
    """Whether the graph's peak, predicted before any fusion, may be above that of torch.compile's.

    torch.compile holds what it saves and, in the end, all gradients.
    """
    gradients = joint_outputs(planned.joint, planned.options["num_fwd_outputs"])[1]
    floor = max(planned.exact_bytes, sum(nbytes(node) for node in gradients if isinstance(node, fx.Node)))
    return planned.peak > max(LEAST_BYTES, NEAR * floor)
