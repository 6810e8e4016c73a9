"""Models: shapes, model folders, their parts and hidden states, attention and loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanmo.models.states import hidden

__all__ = ["hidden"]


def __getattr__(name: str) -> Any:
    """Import `hidden` where it is asked for: it needs torch, and the command line's help does not."""
    if name == "hidden":
        from hanmo.models.states import hidden

        return hidden
    raise AttributeError(name)
