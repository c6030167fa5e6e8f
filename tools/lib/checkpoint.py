"""Write files atomically, so that an interruption leaves the old or the new file; checkpoints of training runs."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tools.lib.settings import Settings, differences
from tools.lib.user_errors import UserError

FIELDS = ("settings", "model", "optimizer", "scheduler", "rng", "cuda_rng", "record")


def write(path: Path, state: dict[str, Any]) -> None:
    """Save `state`, a dict with the keys FIELDS, at `path`, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read(path: Path, settings: Settings) -> dict[str, Any] | None:
    """Load the state stored at `path`, with tensors on the CPU; None if there is no file.

    Raises:
        UserError: the file is damaged, or was made with settings other than `settings`.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = [name for name in FIELDS if name not in state]
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"The checkpoint {path} is damaged; delete it, or start anew with --fresh.") from error
    if missing:
        raise UserError(f"The checkpoint {path} lacks {', '.join(missing)}; delete it, or start anew with --fresh.")
    changed = differences(state["settings"], asdict(settings))
    if changed:
        raise UserError(
            f"The checkpoint {path} was made with {changed}. "
            "Give the same settings, another --out, or start anew with --fresh."
        )
    stored: dict[str, Any] = state
    return stored


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
