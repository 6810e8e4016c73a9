"""Settings of the tokens stage."""

from __future__ import annotations

from hanmo.pool import WorkerSettings


class TokensSettings(WorkerSettings):
    """Encoding a corpus into token shards; what comes out is decided by the corpus and the tokenizer alone."""

    def phases(self) -> list[str]:
        """See `Settings.phases`."""
        return ["encoding"]
