"""Importing torchvision beside a CPU build of torch, for which its compiled operators do not load."""

from __future__ import annotations

import sys

import torch

# The libraries that hold the missing operators' schemas, kept alive as long as the process.
_kept: list[torch.library.Library] = []


def ready() -> None:
    """Import torchvision; where its operators are missing, and only there, declare the two that its import asks for."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401
