"""Import torchvision with a CPU build of torch, for which torchvision's compiled operators do not load."""

from __future__ import annotations

import sys

import torch

# Libraries with the missing operators' schemas; a reference keeps them registered until the process ends.
_libraries: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision; if its operators are missing, declare the two that its import refers to."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401
