"""The module path and the user's source line that a node was traced from."""

from __future__ import annotations

import re

from torch import fx

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)(?:\n\s*(?P<code>.+))?')


def module_of(node: fx.Node) -> str:
    """Path of the innermost module that a node was traced in, such as 'layer1.0.conv1'; '' for the model or unknown."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    path = re.sub(r"L\['[^']*'\](\.__self__)?(\._orig_mod)?\.?", "", path)
    path = re.sub(r"^forward\.(args\[0\]|func)\.__self__\.?", "", path)  # a forward that is a functools.partial
    path = re.sub(r"_modules\['([^']*)'\]", r"\1", path)
    path = re.sub(r"\[['\"]?([^'\"\]]*)['\"]?\]", r".\1", path).strip(".")
    return re.sub(r"(^|\.)__dict__\._modules\b", "", path).strip(".")  # of a class with a __getattr__ of its own


def source_of(node: fx.Node) -> str:
    """The innermost line of the user's code that a node was traced from, as 'file.py:12: code'; '' if unknown."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    if not frames:
        return ""
    user_frames = [frame for frame in frames if not re.search(r"/(torch|approx_fx)/", frame["file"])] or frames
    frame = user_frames[-1]
    name = "/".join(frame["file"].replace("\\", "/").split("/")[-2:])
    return f"{name}:{frame['line']}" + (f": {frame['code'].strip()}" if frame["code"] else "")


def layer_pattern(path: str) -> str:
    """A module path with its numbers replaced, as 'layer*.*.conv*', so that paths of repeated layers compare equal."""
    return re.sub(r"\d+", "*", path)
