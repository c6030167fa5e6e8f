"""Where and when something was measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.lib.repo_path import ROOT

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


def command(arguments: list[str]) -> str:
    """What was typed, without the paths of the machine: the script within the repository, and no --out."""
    script, *rest = arguments
    path = Path(script).resolve()
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    if path.name == "__main__.py":
        name = "-m " + name.removesuffix("/__main__.py").replace("/", ".")
    kept, skip = [], False
    for part in rest:
        if not skip and part != "--out" and not part.startswith("--out="):
            kept.append(part)
        skip = part == "--out" and not skip
    return " ".join(["python", name, *kept])


def revision() -> str | None:
    """The commit that is measured, with '-dirty' where files other than results differ; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=7", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", ":!tools/results") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def revision_note(measured: Mapping[str, Any]) -> str:
    """', revision ...' for a line that says where a result was measured; '' for a result that does not know."""
    return f", revision {measured['revision']}" if measured.get("revision") else ""


def environment() -> dict[str, Any]:
    """schema, device, cpus, threads, torch, triton, python, revision, date, command; JSON."""
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
        "revision": revision(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(sys.argv),
    }
