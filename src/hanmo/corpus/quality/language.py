"""Which language a text is in, and for Chinese, which register and which characters.

Scripts tell most: kana for Japanese, hangul for Korean, Cyrillic; a Han character weighs as much as a word of letters.
Latin text is English or another language by its most frequent words. Chinese is classical (文言) or modern (白话) by
the characters that only one of them needs (矣 曰 皆 亦 against 的 了 们 到), by a small regression over their shares;
simplified or traditional by characters that only one of them has. Names are BCP 47's: zh, ja, ko, en, und-Cyrl.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from hanmo.corpus.quality.characters import REGISTER_BIAS

#: Letters of an English word, about: what one Han character is set against.
WORD = 5.0
#: Share of kana among kana and Han above which a text is Japanese; without kana, the share of Japanese-only Han.
#: Japanese prose has 0.4 to 0.7 of kana, Chinese about Japan a few names.
_KANA_SHARE, _JAPANESE_SHARE = 0.15, 0.04
#: So many characters of a Latin text are looked at.
_LOOKED = 20_000
_WORD = re.compile(r"[a-zà-öø-ÿāăąćčđēęěğĩīılłńňőœřśşšťũūůűźżžơưạ-ỹ']+")
#: The most frequent words of languages in Latin letters.
_FREQUENT = {
    "en": "the of and to in is that for it as was with be by on not are this at from or have you an which",
    "fr": "de la le et les des en un une du est dans que qui pour par pas sur ce plus ne au il se vous",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más o este",
    "it": "di e il la che in un a per è una sono con del non si da le dei alla i della nel questo",
    "pt": "de a o que e do da em um para com não uma os no se na por mais as dos como foi ao este",
    "nl": "de van een het en in is dat op te zijn met voor niet die aan er om ook als bij deze worden",
    "pl": "w i na z do się nie jest to że od o za po przez jak dla są lub być może tym oraz",
    "sv": "och i att det som en på är av för med den till inte om ett har de kan eller var från",
    "vi": "và của là có không được trong cho một các này người với những để khi đã từ về nhiều",
    "id": "yang dan di ini dengan untuk tidak dari dalam akan pada itu juga ke atau adalah anda harus",
    "tr": "ve bir bu için de da ile olarak daha değil olan çok en gibi veya bu var sonra olmalıdır",
}
_WORDS = {language: frozenset(words.split()) for language, words in _FREQUENT.items()}


class Language(NamedTuple):
    """What a text is written in."""

    name: str  # BCP 47; "und" where there are no letters
    share: float  # of the text's words (of a letter script) and characters (of Han), by weight
    register: str  # "modern" or "classical", "" for another language
    script: str  # "Hans" or "Hant", "" for another language or where nothing tells

    @property
    def meta(self) -> dict[str, str]:
        """As a document's record carries it."""
        found = {"lang": self.name, "register": self.register, "script": self.script}
        return {name: value for name, value in found.items() if value}


def identify(sums: Mapping[str, float], text: str) -> Language:
    """The language of a text, by its character sums (see `characters.sums`)."""
    han, kana, latin = sums["han"], sums["kana"], sums["latin"]
    hangul, cyrillic = sums["hangul"], sums["cyrillic"]
    if not kana and not hangul and han * WORD > sums["letter"]:  # the common case
        name, weight, whole = "zh", han, han + sums["letter"] / WORD
        if sums["japanese"] > _JAPANESE_SHARE * han:
            name = "ja"
    else:
        japanese = kana > _KANA_SHARE * (han + kana) or sums["japanese"] > _JAPANESE_SHARE * max(han, 1)
        other = max(0.0, sums["letter"] - latin - cyrillic - hangul)
        weights = {
            "ja" if japanese else "zh": han + kana,
            "ko": hangul / 2,
            "und-Latn": latin / WORD,
            "und-Cyrl": cyrillic / WORD,
            "und": other / WORD,
        }
        name, weight = max(weights.items(), key=lambda item: item[1])
        whole = sum(weights.values())
    if not weight:
        return Language("und", 1.0, "", "")
    if name == "und-Latn":
        name = latin_language(text[:_LOOKED])
    if name != "zh":
        return Language(name, weight / whole, "", "")
    register = "classical" if register_score(sums) > 0 else "modern"
    traditional, simplified = sums["traditional"], sums["simplified"]
    script = "" if traditional == simplified else "Hant" if traditional > simplified else "Hans"
    return Language(name, weight / whole, register, script)


def register_score(sums: Mapping[str, float]) -> float:
    """The evidence that Chinese text is classical: the logarithm of its odds; minus infinity without Han."""
    han = sums["han"]
    return REGISTER_BIAS + sums["register"] / han if han else -math.inf


def latin_language(text: str) -> str:
    """The language of a text in Latin letters: the one whose frequent words fill most of it, else "und-Latn".

    Text of few sentences has few such words, so a language is named from a twelfth of all words upwards.
    """
    words = _WORD.findall(text.lower())
    if not words:
        return "und-Latn"
    found = {name: sum(map(frequent.__contains__, words)) for name, frequent in _WORDS.items()}
    name = max(found, key=found.__getitem__)
    return name if found[name] * 12 >= len(words) else "und-Latn"
