"""torch._inductor.graph: an input that is saved for the backward is saved itself, not in another layout.

Where Inductor lays convolutions out channels-last, it returns a channels-last copy of every weight and image that the
backward reads, and the copy is what autograd saves: as many bytes again as the weights have. Outputs that a caller sees
are spared that; so saved inputs are marked as such. Saving the input itself also keeps autograd's check that nobody has
changed it before the backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

_VISIBLE = "user_visible_output_idxs"


@dataclass(frozen=True)
class SaveInputsAsTheyAre(CustomGraphPass):
    """A pass behind Inductor's own, on the forward; it touches the output node's marks alone."""

    def __call__(self, graph: fx.Graph) -> None:
        """Mark the outputs; a graph without marks, or of a backward, is left alone."""
        output = next(iter(graph.find_nodes(op="output")))
        placeholders = graph.find_nodes(op="placeholder")
        if _VISIBLE not in output.meta or any("tangents" in str(node.target) for node in placeholders):
            return
        results: Any = output.args[0]
        returned = [index for index, node in enumerate(results) if node in placeholders]
        output.meta[_VISIBLE] = sorted({*output.meta[_VISIBLE], *returned})

    def uuid(self) -> str:
        """Constant: the pass has no options, and this package's sources are in the partitioner's key."""
        return "approx_fx.save_inputs_as_they_are"
