"""Fold similar layers: sibling modules that save the same kinds of tensors, as blocks.0 to blocks.11, drawn as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...joint.attribution import layer_pattern
from .picture import Saved


@dataclass(frozen=True)
class Fold:
    """A run of similar sibling modules. members: their module paths, in order; label: such as 'blocks.0-11'."""

    members: tuple[str, ...]

    @property
    def label(self) -> str:
        """The first member's path and the last member's own name, joined by '-'."""
        return f"{self.members[0]}-{self.members[-1].rpartition('.')[2]}"


def find_folds(order: Sequence[str], saved: Sequence[Saved]) -> tuple[Fold, ...]:
    """The outermost runs of two or more similar siblings. order: all module paths, as the forward enters them."""
    saved_by_module: dict[str, list[Saved]] = {}
    for tensor in saved:
        saved_by_module.setdefault(tensor.module, []).append(tensor)
    return tuple(_folds("", list(dict.fromkeys(order)), saved_by_module))


def _folds(prefix: str, paths: list[str], saved_by_module: Mapping[str, list[Saved]]) -> Iterable[Fold]:
    children: dict[str, list[str]] = {}
    for path in paths:
        if path.startswith(prefix) and path != prefix.rstrip("."):
            children.setdefault(prefix + path[len(prefix) :].split(".")[0], []).append(path)
    run: list[str] = []
    signature: object = None
    for child, descendants in [*children.items(), ("", [])]:
        child_signature = _signature(child, descendants, saved_by_module) if child else None
        if run and child_signature != signature:
            if len(run) > 1:
                yield Fold(tuple(run))
            else:
                yield from _folds(f"{run[0]}.", children[run[0]], saved_by_module)
            run = []
        run, signature = ([*run, child] if child else []), child_signature


def _signature(child: str, descendants: list[str], saved_by_module: Mapping[str, list[Saved]]) -> object:
    """A key that is equal for similar siblings: the name without numbers, and the kinds of tensors saved inside."""
    name = child.rpartition(".")[2]
    if layer_pattern(name) == name:
        return child
    saved = [
        (path[len(child) :], tensor.op, tensor.dtype, tensor.coding, tensor.bits)
        for path in descendants
        for tensor in saved_by_module.get(path, ())
    ]
    # Shapes are left out: a DenseNet's layers are similar, but each is wider than the one before.
    return (layer_pattern(name), tuple(sorted(set(saved)))) if saved else child


def folds_by_member(folds: Iterable[Fold]) -> dict[str, tuple[str, Fold]]:
    """Member path -> (the label drawn instead of it, its fold)."""
    return {member: (fold.label, fold) for fold in folds for member in fold.members}


def drawn_path(path: str, folded: Mapping[str, tuple[str, Fold]]) -> str:
    """The path under which a module is drawn: inside a fold, the member's path is replaced by the fold's label."""
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        head = ".".join(parts[:length])
        if head in folded:
            return ".".join([folded[head][0], *parts[length:]])
    return path
