"""Settings of the corpus stage: where text comes from, and which of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from hanmo.corpus.hubapi import is_hub, parse
from hanmo.corpus.quality.settings import ChineseRules, EnglishRules
from hanmo.corpus.tasks import form_of, forms
from hanmo.errors import nearest
from hanmo.files import expand
from hanmo.pool import WorkerSettings
from hanmo.remote import as_path, is_url, matching
from hanmo.stage import Settings, factory, setting

Format = Literal[
    "auto", "txt", "md", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "html", "warc", "epub", "pdf",
    "tfrecord", "npz", "bin",
]  # fmt: skip

#: What `quality.language.identify` calls what it finds.
LanguageName = Literal[
    "zh", "ja", "ko", "en", "fr", "de", "es", "it", "pt", "nl", "pl", "sv", "vi", "id", "tr",
    "und-Latn", "und-Cyrl", "und",
]  # fmt: skip


class Source(Settings):
    """One origin of text: a file, a folder (with all below it) or a glob."""

    path: str = setting(
        ...,
        "file, folder or glob; plain or .gz, .zst, .xz, .bz2, or in an archive (.zip, .tar, .rar, .7z); or a name on a "
        "hub: hf:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]], hf://datasets/OWNER/NAME[@REVISION]/FILES, and with ms: the "
        "same on ModelScope",
    )
    name: str = setting("", "how it is called in statistics; the file's or folder's name when empty")
    format: Format = setting("auto", "auto goes by the file name; name it where names do not tell")
    encoding: str = setting("auto", "auto tells UTF-8, UTF-16 with a mark and GB18030 apart; or any codec (big5, ...)")
    text: list[str] = factory(
        list, "fields that hold the text, joined by newlines; when empty, the one field that is called text, content, …"
    )
    split: Literal["file", "line", "blank_line"] = setting(
        "file", "what is one document in txt and md: the whole file, each line, or what stands between blank lines"
    )
    tokenizer: str = setting(
        "", "for token ids (tfrecord, npz, bin): the folder or file of the tokenizer that made them"
    )
    end_id: int | None = setting(
        None,
        "the id after each document in npz and bin; when empty, the tokenizer's own (bin) or windows (npz)",
        ge=0,
    )
    form: str = setting(
        "",
        "for labelled tasks: by which templates records become text (afqmc, tnews, ocnli, cmrc2018, … or a .yaml of "
        "your own; see hanmo/corpus/tasks.yaml)",
    )
    licence: str = setting("", "a note that is carried into the statistics")
    priority: int = setting(0, "of documents that repeat each other, one of the source with the highest priority stays")
    hub: str = setting("", "a mirror of the hub, e.g. https://hf-mirror.com; HANMO_HUB when empty", affects="speed")
    cache: bool = setting(False, "keep the bytes of a hub's files on disk (in HANMO_CACHE)", affects="speed")
    clean: dict[str, Any] = factory(dict, "settings of `clean` that differ for this source, e.g. {convert: t2s}")
    quality: dict[str, Any] = factory(dict, "settings of `quality` that differ for this source, e.g. {min_han: 0}")

    @model_validator(mode="after")
    def _on_a_hub(self) -> Source:
        if is_hub(self.path):
            parse(self.path)
        elif self.hub or self.cache:
            raise ValueError(f"`hub` and `cache` are for names on a hub (hf:OWNER/NAME), not for {self.path}")
        return self

    @model_validator(mode="after")
    def _of_a_task(self) -> Source:
        if self.form and not self.form.endswith((".yaml", ".yml")):
            form_of(self.form)
        return self


Conversion = Literal[
    "none", "auto", "t2s", "tw2s", "tw2sp", "hk2s", "hk2sp", "s2t", "s2tw", "s2twp", "s2hk", "s2hkp",
    "t2tw", "t2hk", "tw2t", "hk2t", "t2jp", "jp2t",
]  # fmt: skip
MaskKind = Literal["phone", "id_card", "bank_card", "email", "ip", "address"]


class LineSettings(Settings):
    """Which lines go; see `hanmo.corpus.cleaning.lines`."""

    navigation: bool = setting(True, "首页 > 新闻 > 正文, 上一篇：…, 返回顶部")
    menus: bool = setting(True, "runs of short lines, or lines in parts, that name what a site has")
    credits: bool = setting(True, "责任编辑：…, 文章来源：…, 本文由…编译")
    copyright: bool = setting(True, "版权所有, 转载请注明, 免责声明：…")
    sharing: bool = setting(True, "分享到：微信 微博")
    more: bool = setting(True, "点击阅读全文, 查看更多>>")
    follow: bool = setting(True, "扫码关注公众号")
    counters: bool = setting(True, "阅读(123) 评论(0)")
    icp: bool = setting(True, "京ICP备…号")
    cookies: bool = setting(True, "我们使用 cookie …")
    captions: bool = setting(True, "图片来源：…")
    contacts: bool = setting(True, "加微信…, 客服电话：…")
    spam: bool = setting(True, "lines of gambling, pornography, forged papers with an address or several such words")


class CleanSettings(Settings):
    """What a document's characters and lines become; see `hanmo.corpus.clean`."""

    nfc: bool = setting(True, "compose characters (Unicode NFC)")
    half_width: bool = setting(True, "full-width letters and digits to half width (Ａ１ to A1); punctuation stays")
    radicals: bool = setting(True, "radicals that stand for a character to it (PDFs: ⼀ ⻓ to 一 长)")
    forms: bool = setting(True, "vertical, small and half-width forms of Chinese punctuation to the ordinary ones")
    ligatures: bool = setting(True, "ligatures of PDFs to letters (ﬁ to fi)")
    kana: bool = setting(True, "half-width katakana to katakana")
    selectors: bool = setting(True, "remove variation selectors behind Han characters")
    mojibake: bool = setting(True, "repair text read in a wrong encoding (浣犲ソ, ÄãºÃ, ä½ å¥½), where that is proved")
    entities: bool = setting(True, "character entities (&nbsp; &#x4f60;) to characters, outside of code")
    repeats: bool = setting(True, "repeated punctuation to one (！！！！ to ！), outside of code")
    han_spaces: bool = setting(True, "remove spaces that divide nothing: beside Chinese punctuation, in 你 好 世 界")
    punctuation: bool = setting(False, "half-width , ; : ? ! between Han characters to full width")
    rejoin: bool = setting(False, "join lines that were wrapped to a fixed width")
    convert: Conversion = setting(
        "none",
        "a conversion of OpenCC (t2s, tw2sp, s2twp, …); auto: documents in traditional characters to simplified ones, "
        "by the words of Taiwan or Hong Kong where they are found",
    )
    lines: LineSettings = factory(LineSettings, "which lines go that are not text of the document")
    mask: list[MaskKind] = factory(
        list, "personal data to replace by marks: phone, id_card, bank_card, email, ip, address"
    )
    mask_style: Literal["mark", "tag", "stars"] = setting(
        "mark", "<电话>, [PHONE], or a star for each letter and digit"
    )


class QualitySettings(Settings):
    """Which documents are kept, by what they look like after cleaning."""

    min_chars: int = setting(10, "shorter documents are rejected (characters)", ge=1)
    max_chars: int = setting(2_000_000, "longer documents are rejected (characters)", ge=1)
    min_han: float = setting(0.1, "least share of Han characters among those that are not white space", ge=0, le=1)
    max_damage: float = setting(
        0.02, "largest share of replacement marks (U+FFFD) and private-use characters, before cleaning", ge=0, le=1
    )
    languages: list[LanguageName] = factory(
        list, "reject documents in other languages than these (zh, ja, ko, en, fr, de, ... und); empty: any"
    )
    registers: list[Literal["modern", "classical"]] = factory(
        lambda: ["modern", "classical"], "reject Chinese in another register than these"
    )
    rules: bool = setting(True, "judge Chinese and English documents by the rules of `zh` and `en`")
    zh: ChineseRules = factory(ChineseRules, "rules for documents in Chinese")
    en: EnglishRules = factory(EnglishRules, "rules for documents in English")
    classifier: str = setting("", "a model of `hanmo corpus quality train`; its score goes into `meta`")
    min_score: float = setting(0.3, "documents that the classifier scores lower are rejected", ge=0, le=1)
    perplexity: str = setting("", "a model of `hanmo corpus perplexity train`; the perplexity goes into `meta`")
    max_perplexity: float = setting(0.0, "documents of a higher perplexity are rejected; 0: none", ge=0)


class CorpusSettings(WorkerSettings):
    """Reading, cleaning, filtering, deduplicating and splitting raw text."""

    sources: list[Source] = factory(list, "where text comes from, besides the stages named in `from`")

    clean: CleanSettings = factory(CleanSettings, "what characters and lines become")
    quality: QualitySettings = factory(QualitySettings, "which documents are kept")

    dedup: bool = setting(True, "reject documents whose text, white space aside, was seen before")

    near_similarity: float = setting(
        0.7,
        "reject documents at least this much like another (Jaccard index of 5-character shingles, estimated by "
        "signatures to about 0.04); at least 0.5, or 0 for off",
        ge=0,
        le=1,
    )

    repeated_lines: int = setting(
        0,
        "lines (of at least 10 letters that are no digits) that stand in more documents than this stay only in the "
        "first so many; 0: any number. It takes boilerplate out, and set phrases too: look at `changed` in stats.json",
        ge=0,
    )
    repeated_stretch: int = setting(
        0,
        "stretches of at least so many letters and Han characters that stand in an earlier document are cut out, by "
        "whole sentences; 100 is usual. 0: off",
        ge=0,
    )

    contamination: float = setting(
        0.5, "reject documents that hold this share of an exam item (of its runs of 13 characters); 0: off", ge=0, le=1
    )

    heldout_fraction: float = setting(
        0.01, "share of each source's documents that is held out, chosen by their hash", ge=0, le=0.5
    )
    heldout_documents: int = setting(20_000, "hold out at most so many documents", ge=0)
    heldout_mb: float = setting(10.0, "hold out at most so many megabytes of text", ge=0)

    max_document_mb: float = setting(16.0, "a larger line, record or text file is rejected unread", gt=0, le=32)
    max_bad_lines: float = setting(
        0.0,
        "share of a file's records that may be unreadable (torn JSON, wrong bytes, too big) and are then left out and "
        "counted; above it, the stage stops at the first. 0: any stops it",
        ge=0,
        le=1,
    )
    on_bad_file: Literal["fail", "skip"] = setting(
        "fail", "a file that cannot be read to its end (torn archive, unknown encoding) stops the stage, or is counted"
    )

    def phases(self) -> list[str]:
        """See `Settings.phases`."""
        lines, stretch = bool(self.repeated_lines), bool(self.repeated_stretch)
        return [
            "reading and cleaning",
            *["comparing"] * bool(self.near_similarity),
            *["comparing with the held-out part"] * bool(self.near_similarity and self.heldout_fraction),
            "sorting and deduplicating",
            *["looking for repeated parts"] * (lines or stretch),
            *["comparing lines"] * lines,
            *["comparing stretches", "looking closer", "comparing closely"] * stretch,
            *["cutting repeated parts"] * (lines or stretch),
        ]

    @field_validator("repeated_stretch")
    @classmethod
    def _long_enough(cls, value: int) -> int:
        if 0 < value < 30:
            raise ValueError("shorter stretches than 30 are often the same by chance; give 30 or more, or 0 for off")
        return value

    @model_validator(mode="after")
    def _overrides(self) -> CorpusSettings:
        for index, source in enumerate(self.sources):
            for group, check in (("clean", self.clean_of), ("quality", self.quality_of)):
                try:
                    check(source)
                except ValidationError as error:
                    first = error.errors(include_url=False)[0]
                    key = ".".join(map(str, first["loc"]))
                    schema = CleanSettings if group == "clean" else QualitySettings
                    hint = nearest(key, schema.model_fields) if first["type"] == "extra_forbidden" else ""
                    said = f"unknown key{hint}" if first["type"] == "extra_forbidden" else first["msg"]
                    where = f"sources.{index} ({source.name or source.path}): {group}.{key}"
                    raise ValueError(f"{where}: {said}") from None
        return self

    def clean_of(self, source: Source) -> CleanSettings:
        """The cleaning of one source: the corpus's, with what the source says otherwise."""
        held = self.clean.model_dump()
        lines = source.clean.get("lines", {})
        if isinstance(lines, dict):  # switches that the source does not name are the corpus's
            lines = {**held["lines"], **lines}
        return CleanSettings.model_validate({**held, **source.clean, "lines": lines})

    def quality_of(self, source: Source) -> QualitySettings:
        """The quality asked of one source: the corpus's, with what the source says otherwise."""
        return QualitySettings.model_validate(merged(self.quality.model_dump(), source.quality))

    @field_validator("near_similarity")
    @classmethod
    def _searchable(cls, value: float) -> float:
        if 0 < value < 0.5:
            raise ValueError("pairs below 0.5 are not found by signatures; give 0.5 to 1, or 0 for off")
        return value

    def external(self) -> list[Path]:
        """The sources' files and folders; for a glob, what it finds."""
        found: list[Path] = []
        for source in self.sources:
            if is_hub(source.path):
                continue  # the revision in the stage's folder keeps it the same
            path = Path(source.path)
            if is_url(source.path):
                found += [file for file, _ in matching(as_path(source.path))]
            elif any(mark in source.path for mark in "*?["):
                found += sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
            else:
                found.append(path)
            found += [Path(name) for name in (source.tokenizer, source.form) if name and name not in forms()]
        return found + self.models()

    def models(self) -> list[Path]:
        """The trained models that judge documents."""
        asked = [self.quality, *map(self.quality_of, self.sources)]
        return sorted({Path(path) for quality in asked for path in (quality.classifier, quality.perplexity) if path})

    def anchored(self, folder: Path) -> CorpusSettings:
        """A copy whose sources' relative paths are taken from `folder`."""

        def models(quality: dict[str, Any]) -> dict[str, str]:
            names = ("classifier", "perplexity")
            return {name: str(expand(quality[name], folder)) for name in names if quality.get(name)}

        sources = [
            s.model_copy(
                update={
                    "path": s.path if is_hub(s.path) else str(expand(s.path, folder)),
                    "tokenizer": str(expand(s.tokenizer, folder)) if s.tokenizer else "",
                    "form": str(expand(s.form, folder)) if s.form and s.form not in forms() else s.form,
                    "quality": {**s.quality, **models(s.quality)},
                }
            )
            for s in self.sources
        ]
        quality = self.quality.model_copy(update=models(self.quality.model_dump()))
        return self.model_copy(update={"sources": sources, "quality": quality})


def merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `other`, groups within groups."""
    return base | {
        name: merged(base[name], value) if isinstance(value, dict) and name in ("zh", "en") else value
        for name, value in other.items()
    }
