"""torch.autograd: whether a backward is going on."""

from __future__ import annotations

import torch


def in_backward() -> bool:
    """Called from within a backward, such as by the recomputation of torch.utils.checkpoint."""
    return torch._C._current_graph_task_id() != -1
