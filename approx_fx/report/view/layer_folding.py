"""Like layers folded: runs of siblings that save the same kinds of tensors, blocks.0 to blocks.11, seen as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...joint.attribution import layer_pattern
from .picture import Saved


@dataclass(frozen=True)
class Fold:
    """A run of like siblings. members: their module paths, in order; label: 'blocks.0-11'."""

    members: tuple[str, ...]

    @property
    def label(self) -> str:
        """The first member's path up to the last's own name."""
        return f"{self.members[0]}-{self.members[-1].rpartition('.')[2]}"


def folds_of(order: Sequence[str], saved: Sequence[Saved]) -> tuple[Fold, ...]:
    """The outermost runs of two or more like siblings. order: all module paths, as the forward enters them."""
    made: dict[str, list[Saved]] = {}
    for each in saved:
        made.setdefault(each.module, []).append(each)
    return tuple(_folds("", list(dict.fromkeys(order)), made))


def _folds(prefix: str, paths: list[str], made: Mapping[str, list[Saved]]) -> Iterable[Fold]:
    children: dict[str, list[str]] = {}
    for path in paths:
        if path.startswith(prefix) and path != prefix.rstrip("."):
            children.setdefault(prefix + path[len(prefix) :].split(".")[0], []).append(path)
    run: list[str] = []
    signature: object = None
    for child, inside in [*children.items(), ("", [])]:
        own = _signature(child, inside, made) if child else None
        if run and own != signature:
            if len(run) > 1:
                yield Fold(tuple(run))
            else:
                yield from _folds(f"{run[0]}.", children[run[0]], made)
            run = []
        run, signature = ([*run, child] if child else []), own


def _signature(child: str, inside: list[str], made: Mapping[str, list[Saved]]) -> object:
    """What like siblings have in common: their name but for numbers, and all that is saved inside."""
    name = child.rpartition(".")[2]
    if layer_pattern(name) == name:
        return child
    saved = [
        (path[len(child) :], each.op, each.dtype, each.coding, each.bits)
        for path in inside
        for each in made.get(path, ())
    ]
    # Lengths may differ: a DenseNet's layers are alike, but each is wider than the one before.
    return (layer_pattern(name), tuple(sorted(set(saved)))) if saved else child


def folder(folds: Iterable[Fold]) -> dict[str, tuple[str, Fold]]:
    """Member path -> (the path that stands for it, its fold)."""
    return {member: (fold.label, fold) for fold in folds for member in fold.members}


def shown(path: str, folded: Mapping[str, tuple[str, Fold]]) -> str:
    """The path under which a module is drawn: inside a fold, that of the module at the same place of any member."""
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        head = ".".join(parts[:length])
        if head in folded:
            return ".".join([folded[head][0], *parts[length:]])
    return path
