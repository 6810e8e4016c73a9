"""The judgement of one document: every check in its order, cheapest first, and what is noted of those that pass.

A document's characters are counted once (`page`), its language told from the sums (`language`); then come the lengths,
the languages asked for, the rules of its language, perplexity and the trained classifier.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from hanmo.corpus.clean import Counts
from hanmo.corpus.quality import rules_en, rules_zh
from hanmo.corpus.quality.classifier import Classifier
from hanmo.corpus.quality.language import Language, identify
from hanmo.corpus.quality.ngram import NgramModel
from hanmo.corpus.quality.page import Page
from hanmo.corpus.settings import QualitySettings


class Verdict(NamedTuple):
    """What was found of a document."""

    reason: str  # "" where it is kept
    detail: str
    meta: dict[str, Any]  # lang, register, script; quality and perplexity where they were asked for


class Judge:
    """Decides by the settings of one source."""

    def __init__(self, settings: QualitySettings) -> None:
        self.settings = settings

    @cached_property
    def _classifier(self) -> Classifier:
        return Classifier.load(self.settings.classifier)

    @cached_property
    def _model(self) -> NgramModel:
        return NgramModel.load(self.settings.perplexity)

    def __call__(self, text: str, before: Counts, after: Counts) -> Verdict:
        """Judge a clean text.

        Args:
            before, after: its counts before and after cleaning.
        """
        reason, detail = _plain(self.settings, before, after)
        if reason:
            return Verdict(reason, detail, {})
        page = Page(text)
        language = identify(page.sums, text)
        meta: dict[str, Any] = language.meta
        reason, detail = self._language(language, after)
        if not reason and self.settings.rules:
            if language.name == "zh":
                reason, detail = rules_zh.fault(page, language, self.settings.zh)
            elif language.name == "en" and "en" in self.settings.languages:
                reason, detail = rules_en.fault(page, self.settings.en)
        if not reason and self.settings.perplexity:
            value = self._model.perplexity(page.codes)
            meta["perplexity"] = round(value, 2)
            limit = self.settings.max_perplexity
            if limit and value > limit:
                reason, detail = "perplexity", f"perplexity {value:.1f}, above max_perplexity {limit:g}"
        if not reason and self.settings.classifier:
            value = self._classifier.score(page.codes)
            meta["quality"] = round(value, 4)
            limit = self.settings.min_score
            if value < limit:
                reason, detail = "classifier", f"score {value:.3f}, below min_score {limit:g}"
        return Verdict(reason, detail, meta)

    def _language(self, language: Language, after: Counts) -> tuple[str, str]:
        settings = self.settings
        wanted = settings.languages
        if wanted and language.name not in wanted:
            found = f"looks like {language.name} ({language.share:.2f} of it)"
            return "language", f"{found}, not among languages {', '.join(wanted)}"
        # English that was asked for need not be Chinese.
        if language.name == "zh" or language.name not in wanted:
            solid = after.chars - after.space
            if after.han < settings.min_han * solid:
                return "low_han", f"Han share {after.han / solid:.2f}, below min_han {settings.min_han:g}"
        if language.register and language.register not in settings.registers:
            return "register", f"{language.register} Chinese, not among registers {', '.join(settings.registers)}"
        return "", ""


def _plain(quality: QualitySettings, before: Counts, after: Counts) -> tuple[str, str]:
    """What the counts alone tell."""
    if after.chars == after.space:
        return "empty", "nothing but white space"
    if after.chars < quality.min_chars:
        return "too_short", f"{after.chars} characters, fewer than min_chars {quality.min_chars}"
    if after.chars > quality.max_chars:
        return "too_long", f"{after.chars} characters, more than max_chars {quality.max_chars}"
    if before.damaged > quality.max_damage * before.chars:
        return "damaged", f"{before.damaged} of {before.chars} characters are replacement marks or private"
    return "", ""
