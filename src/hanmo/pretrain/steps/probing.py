"""The frame in which a given model is tried: whether a packed step computes what the model itself does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hanmo.errors import HanmoError


@contextmanager
def probing(model: Any, cannot: str, known: str = "") -> Iterator[None]:
    """Inside, the model neither learns nor drops anything out; behind it, it trains, with the attention it had.

    Args:
        cannot: what is said where its code fails inside: this, the fault, and `known` in one line.

    Raises:
        HanmoError: its code failed.
    """
    attention = model.config._attn_implementation
    model.eval()
    try:
        with torch.no_grad():
            yield
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError, HanmoError) as error:
        said = " ".join(str(error).split())[:100]
        raise HanmoError(f"{cannot} ({type(error).__name__}: {said}){known}") from None
    finally:
        model.train()
    model.set_attn_implementation(attention)
