"""Where and when something was measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
import sys
from typing import Any

SCHEMA = 1


def device_name() -> str:
    """The GPU's name, or the CPU's architecture."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{platform.machine()} CPU"


def slug(name: str) -> str:
    """A file's name part: 'NVIDIA H100 80GB HBM3' -> 'nvidia-h100-80gb-hbm3'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def device_slug() -> str:
    """'cpu', or the GPU's name as a file's name part."""
    import torch

    return slug(device_name()) if torch.cuda.is_available() else "cpu"


def environment() -> dict[str, Any]:
    """schema, device, cpus, threads, torch, triton, python, date, command; JSON."""
    import torch

    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    return {
        "schema": SCHEMA,
        "device": device_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": version,
        "python": platform.python_version(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
    }
