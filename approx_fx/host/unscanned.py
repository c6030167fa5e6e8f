"""torch.fx.graph: a new node's arguments are taken as they are.

torch 2.13 looks through the arguments of every new node, nested ones too, for symbolic sizes to warn of: an eighth of
the pass. Our nodes take the arguments of nodes that were there before, or constants.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from torch.fx import graph
from torch.utils import _pytree


@contextlib.contextmanager
def arguments_unscanned() -> Iterator[None]:
    """Within, fx makes nodes without that search, in all threads; elsewhere, and in an older torch, nothing changes."""
    module: Any = graph
    theirs = module.pytree
    module.pytree = SimpleNamespace(**{**vars(_pytree), "tree_iter": lambda _: ()})
    try:
        yield
    finally:
        module.pytree = theirs
