"""Settings of the tokens stage."""

from __future__ import annotations

from hanmo.stage import Settings, setting


class TokensSettings(Settings):
    """Encoding a corpus into token shards; what comes out is decided by the corpus and the tokenizer alone."""

    workers: int = setting(0, "worker processes; 0: one per processor", ge=0, affects="speed")
