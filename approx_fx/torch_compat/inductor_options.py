"""torch._inductor: the modes of torch.compile and the options of Inductor's config."""

from __future__ import annotations

from typing import Any


def mode_options(mode: str | None) -> dict[str, Any]:
    """The options of Inductor's config that a mode of torch.compile sets, such as 'max-autotune'; {} for None."""
    from torch._inductor import list_mode_options

    return dict(list_mode_options(mode)) if mode else {}


def mode_names() -> list[str]:
    """The names of torch.compile's modes."""
    from torch._inductor import list_mode_options

    return ["default", *(name for name in list_mode_options() if name != "default")]


def option_names() -> list[str]:
    """The names of the options of Inductor's config."""
    from torch._inductor import list_options

    return list(list_options())
