"""Out into the world: a model folder becomes the files that other engines run, checked against those engines.

`convert_gguf` writes llama.cpp's format, `parity` holds the result against transformers token by token, `imports` goes
the other way: checkpoints of other projects become model folders. Nothing heavy is imported until a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanmo.convert.gguf import convert_gguf as convert_gguf

__all__ = ["convert_gguf"]


def __getattr__(name: str) -> Any:
    if name == "convert_gguf":
        from hanmo.convert.gguf import convert_gguf

        return convert_gguf
    raise AttributeError(f"module 'hanmo.convert' has no attribute '{name}'")
