"""torch._functorch.partitioners: split a joint graph, and ask which tensors torch.compile itself would save."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._functorch import config as functorch_config
from torch._functorch import partitioners
from torch._functorch.compile_utils import fx_graph_cse, raise_getitems

from . import fake_tensors

Halves = tuple[fx.GraphModule, fx.GraphModule]


def simplify_joint_graph(joint: fx.GraphModule) -> fx.GraphModule:
    """Remove dead code and common subexpressions and resolve checkpoint policies, in place; return the module.

    These are the first steps of `min_cut_rematerialization_partition`, which torch does not offer as a function. Also
    mends fake values that Inductor's joint passes have left stale.
    """
    joint.graph.eliminate_dead_code()
    if functorch_config.cse:
        joint.graph = fx_graph_cse(joint.graph)
    _resolve_checkpoint_policies(joint)
    _mend_strides(joint.graph)
    return joint


def _mend_strides(graph: fx.Graph) -> None:
    """Compute again the fake values of views behind an attention.

    Inductor's patterns put an attention's op in the place of a written-out one, whose result has other strides, and
    leave the views of it as they were.
    """
    mode, changed = fake_tensors.mode_of(graph), set[fx.Node]()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if "scaled_dot_product" in str(node.target) or node.target is operator.getitem:
            is_attention = any("scaled_dot_product" in str(source.target) for source in node.all_input_nodes)
            changed.update([node] if is_attention else [])
            continue
        fake = node.meta.get("val")
        if isinstance(fake, torch.Tensor) and any(source in changed for source in node.all_input_nodes):
            value = fake_tensors.evaluate(mode, node.target, node.args, node.kwargs)
            if value.stride() != fake.stride():
                node.meta["val"] = value
                changed.add(node)


def _resolve_checkpoint_policies(joint: fx.GraphModule) -> None:
    """Tag nodes that must be saved: between two checkpointed regions, collectives, effects, sources of mutations."""
    if partitioners.has_recomputable_ops(joint):
        cleanup: Any = partitioners.cleanup_recompute_tags
        takes_flag = "is_default_partition" in inspect.signature(cleanup).parameters  # torch 2.13
        cleanup(joint, **({"is_default_partition": False} if takes_flag else {}))
    tagging_functions = ["force_save_effectful_ops", "force_save_bw_mutation_src"]
    if not getattr(functorch_config, "unsafe_allow_optimization_of_collectives", False):
        tagging_functions.append("force_save_collectives")
    for name in tagging_functions:
        tag_nodes = getattr(partitioners, name, None)  # the first is not in every torch that is supported
        if tag_nodes is not None:
            tag_nodes(joint)


def split_joint_graph(
    joint: fx.GraphModule, saved: list[fx.Node], saved_sizes: list[fx.Node], num_fwd_outputs: int
) -> Halves:
    """Split into (forward, backward) that pass exactly the `saved` tensors and `saved_sizes` (SymInts) between them."""
    forward, backward = partitioners._extract_fwd_bwd_modules(
        joint, saved, saved_sym_nodes=saved_sizes, num_fwd_outputs=num_fwd_outputs
    )
    backward = partitioners.reordering_to_mimic_autograd_engine(backward)
    return raise_getitems(forward), raise_getitems(backward)


def torch_partition(joint: fx.GraphModule, joint_inputs: Sequence[object], **options: Any) -> Halves:
    """Split the joint graph by torch.compile's own partitioner; `joint` is changed in place."""
    return partitioners.min_cut_rematerialization_partition(joint, joint_inputs, **options)


def saved_by_torch(joint: fx.GraphModule, num_fwd_outputs: int) -> list[fx.Node]:
    """The nodes that torch.compile's own partitioner would save of a simplified joint graph, which is not split."""
    info = partitioners.classify_nodes(joint, [], num_fwd_outputs)
    if not info.required_bw_nodes:
        return []
    for node in reversed(joint.graph.nodes):
        if node.op == "output":
            node.dist_from_bw = int(1e9)
        elif not info.is_required_fw(node):
            node.dist_from_bw = 0
        else:
            node.dist_from_bw = min((user.dist_from_bw + 1 for user in node.users), default=int(1e9))
    budget = functorch_config.activation_memory_budget
    return partitioners.choose_saved_values_set(joint.graph, info, memory_budget=budget)


def must_recompute(node: fx.Node) -> bool:
    """Whether torch.utils.checkpoint, or a selective checkpoint policy, requires recomputing the node."""
    return partitioners.must_recompute(node)


def is_primal(node: fx.Node) -> bool:
    """Whether a placeholder is an input of the forward (parameter, buffer, user input, RNG seed)."""
    return node.op == "placeholder" and not is_tangent(node)


def input_index(node: fx.Node) -> int | None:
    """The position of a joint graph's placeholder among the inputs of the traced function; None if it is not one."""
    return getattr(node.meta.get("desc"), "idx", None) if is_primal(node) else None


def is_tangent(node: fx.Node) -> bool:
    """Whether a placeholder is an incoming gradient or an RNG state of the backward."""
    return node.op == "placeholder" and ("tangents" in str(node.target) or "bwd" in str(node.target))


def overwritten_after_forward(joint: fx.GraphModule) -> set[fx.Node]:
    """The inputs whose new values the forward returns, for AOTAutograd to write them into the inputs' memory."""
    output = next(iter(joint.graph.find_nodes(op="output")))
    written = {getattr(desc, "mutated_input", None) for desc in output.meta.get("desc", ())} - {None}
    return {node for node in joint.graph.find_nodes(op="placeholder") if node.meta.get("desc") in written}


def in_backward_only(node: fx.Node) -> bool:
    """Whether the node must run in the backward, because of a tag or a mutation there."""
    return partitioners._must_be_in_backward(node)


def in_forward_only(node: fx.Node) -> bool:
    """Whether the node must run in the forward, because of a tag or a mutation there."""
    return partitioners._must_be_in_forward(node)


def keep_in_backward(node: fx.Node) -> None:
    """Tag a node so that the split leaves it out of the forward."""
    node.meta["partitioner_tag"] = "must_be_in_backward"
