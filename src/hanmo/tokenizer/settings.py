"""Settings of the tokenizer stage."""

from __future__ import annotations

from hanmo.stage import Settings, setting


class TokenizerSettings(Settings):
    """Training a byte-level BPE on a corpus."""

    vocab_size: int = setting(
        8192, "tokens in all: 3 special tokens, 256 bytes and the merges; a multiple of 64 is fastest", ge=259
    )
    sample_mb: int = setting(
        100,
        "megabytes of text to train on, taken evenly from the whole corpus; each takes about 12 MB of memory",
        ge=1,
        affects="result",
    )
