"""Settings of the microworld stage."""

from __future__ import annotations

from hanmo.stage import Settings, setting


class MicroworldSettings(Settings):
    """How large the world is, and how much is told and asked about it."""

    seed: int = setting(1, "Seed of the world and of every text about it; the same seed gives the same bytes.", ge=0)
    people: int = setting(36, "Persons in the world; more of them need more pretraining to be learnt.", ge=12, le=400)
    places: int = setting(16, "Towns and villages on the map.", ge=6, le=48)
    megabytes: float = setting(11.0, "Pretraining documents, in millions of UTF-8 bytes of text.", gt=0, le=2000)
    dialogues: int = setting(4000, "SFT dialogues.", ge=0)
    preferences: int = setting(1500, "Preference pairs.", ge=0)
    exam_per_category: int = setting(50, "Exam items of each of the eleven kinds.", ge=1, le=200)
    retrieval: bool = setting(True, "Score the nearest-sentence baseline on the exam (reads the text twice more).")
