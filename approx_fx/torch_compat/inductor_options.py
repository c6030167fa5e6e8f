"""torch._inductor: the names of torch.compile's modes and of the options of Inductor's config."""

from __future__ import annotations

from typing import Any


def mode_options(mode: str | None) -> dict[str, Any]:
    """The options of Inductor's config that a mode of torch.compile stands for, such as 'max-autotune'."""
    from torch._inductor import list_mode_options

    return dict(list_mode_options(mode)) if mode else {}


def mode_names() -> list[str]:
    """The modes of torch.compile."""
    from torch._inductor import list_mode_options

    return ["default", *(name for name in list_mode_options() if name != "default")]


def option_names() -> list[str]:
    """The options of Inductor's config."""
    from torch._inductor import list_options

    return list(list_options())
