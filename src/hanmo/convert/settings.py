"""Settings of the convert stage."""

from __future__ import annotations

from pydantic import field_validator

from hanmo.errors import nearest
from hanmo.stage import Names, Settings, factory, setting

#: What weights are written as by us, with the bits each weight takes.
WRITTEN: dict[str, float] = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5}
#: What llama.cpp's quantiser makes of them; a mixture has more bits for a few matrices.
BLOCKS: dict[str, float] = {"q6_k": 6.56, "q5_k_m": 5.7, "q4_k_m": 4.8, "q4_0": 4.5, "iq4_xs": 4.25}
FORMATS = WRITTEN | BLOCKS


def unknown_format(name: str) -> str:
    """The line that answers a format nobody knows, with the nearest and all the known ones."""
    return f"format '{name}' is unknown{nearest(name.lower(), FORMATS)} (known: {', '.join(FORMATS)})"


class ConvertSettings(Settings):
    """Writing a model as GGUF files, one for each format."""

    formats: Names = factory(
        lambda: ["f32", "f16", "q8_0"],
        "one file each: f32 (exact), f16 or bf16 (half the size), q8_0 (8 bits, a quarter of the size), and by "
        "llama.cpp's quantiser q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs",
    )
    importance_tokens: int = setting(
        200_000, "of the corpus, where one is given: which weights the quantiser rounds with more care", ge=1000
    )
    threads: int = setting(0, "of the quantiser and of the importance; 0: all", affects="speed", ge=0)

    @field_validator("formats")
    @classmethod
    def _check_formats(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError(f"give at least one format (known: {', '.join(FORMATS)})")
        for name in value:
            if name not in FORMATS:
                raise ValueError(unknown_format(name))
        return list(dict.fromkeys(value))
