"""Describe where and when something was measured: machine, versions, revision, date and command."""

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
    """Convert a name for use in a file name: 'NVIDIA H100 80GB HBM3' -> 'nvidia-h100-80gb-hbm3'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def device_slug() -> str:
    """'cpu', or the GPU's name for use in a file name."""
    import torch

    return slug(device_name()) if torch.cuda.is_available() else "cpu"


def command(arguments: list[str]) -> str:
    """The command line without paths of the machine: the script relative to the repository, and no --out."""
    script, *options = arguments
    path = Path(script).resolve()
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    if path.name == "__main__.py":
        name = "-m " + name.removesuffix("/__main__.py").replace("/", ".")
    reported, skip = [], False
    for part in options:
        if not skip and part != "--out" and not part.startswith("--out="):
            reported.append(part)
        skip = part == "--out" and not skip
    return " ".join(["python", name, *reported])


def revision() -> str | None:
    """The commit that is measured, with '-dirty' if files other than results are changed; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=7", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", ":!docs/results") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def revision_note(measured: Mapping[str, Any]) -> str:
    """', revision ...' for a line that says where a result was measured; '' for a result without a revision."""
    return f", revision {measured['revision']}" if measured.get("revision") else ""


def footnote(made: Mapping[str, Any]) -> str:
    """The line below a table: where, when and by which revision and command it was made. made: see `environment`."""
    place = f"{made['device']}, {made['threads']} threads, torch {made['torch']}, {made['date'][:10]}"
    return f"{place}, revision {made['revision']}; `{made['command']}`"


def environment() -> dict[str, Any]:
    """JSON with schema, device, cpus, threads, torch, triton, python, revision, date and command."""
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
