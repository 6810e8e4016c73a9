"""Quality: how fast documents are judged, what the rules reject of good text and of bad, how well languages and
registers are told, what a classifier and a perplexity tell.

    pip install django            # for its translations, in many languages
    python benchmarks/quality.py [--documents 20000] [--rounds 5]

Good text is all of `pretrain/` of the shared data (HANMO_DATA, or `shared/data` beside the project): a document that a
rule rejects there counts against it. Bad text is made, so that its faults are known: lists of nouns from jieba's
dictionary, prose decoded wrongly, phrases over and over, navigation, shuffled characters. Registers are those of the
sources: classical are medical books, verse and the classical side of sentence pairs (joined by six), modern are the
others and the modern side; vernacular novels stand between the two and are left out of the confusion. The regression's
weights were fitted on four fifths of the same sources, by hash of the text; figures are on the fifth. Languages are
measured on single messages of Django, and on all of a language together. The result goes to
benchmarks/results/quality.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jieba
import numpy as np
import xxhash

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.corpus.clean import Cleaner
from hanmo.corpus.quality import classifier, ngram
from hanmo.corpus.quality.characters import classes_of, codes_of, sums
from hanmo.corpus.quality.judge import Judge
from hanmo.corpus.quality.language import identify
from hanmo.corpus.settings import CleanSettings, QualitySettings
from hanmo.files import read_jsonl, write_json

RESULT = Path(__file__).parent / "results" / "quality.json"
CLASSICAL = ("tcm_classics_zh", "chinese_poetry")
BETWEEN = ("vernacular_novels_zh",)
LENGTHS = (40, 100, 300, 1000)


def sources(data: Path, most: int) -> Iterator[tuple[str, list[str]]]:
    """(name, documents) of all sources, at most so many of each, evenly spread."""
    for path in sorted((data / "pretrain").glob("*.jsonl.zst")):
        texts = [record["text"] for _, record in read_jsonl(path)]
        yield path.name.partition(".")[0], texts[:: max(1, len(texts) // most)][:most]


def rejected(found: dict[str, list[str]]) -> dict[str, Any]:
    """By source, what the default rules reject."""
    judge, clean, result = Judge(QualitySettings()), Cleaner(CleanSettings()), {}
    for name, texts in found.items():
        reasons = Counter(judge(*clean(text, Counter())).reason for text in texts)
        del reasons[""]
        result[name] = {"documents": len(texts), "share": reasons.total() / len(texts), "reasons": dict(reasons)}
    return result


def bad_texts(found: dict[str, list[str]], count: int, dice: random.Random) -> dict[str, list[str]]:
    """Texts with known faults."""
    prose = [
        text for name in ("cluecorpus_small_sample", "lctt_technews_zh") for text in found[name] if len(text) > 300
    ]
    lines = (Path(jieba.__file__).parent / "dict.txt").read_text(encoding="utf-8").split("\n")
    nouns = [
        word for word, count, kind in filter(None, map(str.split, lines)) if kind in ("n", "vn") and int(count) > 50
    ]

    def piece(length: int) -> str:
        text = dice.choice(prose)
        first = dice.randrange(max(1, len(text) - length))
        return text[first : first + length]

    menu = ["首页", "新闻", "产品", "关于我们", "联系方式", "登录", "注册", "下一页", "更多", "返回顶部", "友情链接"]
    makers: dict[str, Callable[[], str]] = {
        "keywords": lambda: dice.choice(" 、,|").join(dice.sample(nouns, 120)),
        "decoded wrongly": lambda: piece(900).encode().decode("gb18030", "ignore"),
        "one phrase over and over": lambda: piece(dice.randint(6, 40)) * dice.randint(30, 60),
        "navigation": lambda: "\n".join(dice.choice(menu) for _ in range(dice.randint(40, 90))),
        "one page four times": lambda: piece(800) * 4,
        "characters shuffled": lambda: "".join(dice.sample(text := piece(800), len(text))),
        "numbers": lambda: piece(80) + "\n".join(str(dice.randrange(10**7)) for _ in range(80)),
    }
    return {name: [make() for _ in range(count)] for name, make in makers.items()}


def registers(data: Path, found: dict[str, list[str]]) -> dict[str, Any]:
    """Accuracy by source and length on pieces that were not fitted on, and the confusion of whole documents."""
    pairs = [record for _, record in read_jsonl(data / "sft" / "classical_modern_pairs.jsonl.zst")]
    told = {name: ("classical" if name in CLASSICAL else "modern", texts) for name, texts in found.items()}
    for side in ("classical", "modern"):
        lines = [record[side] for record in pairs]
        told[f"pairs, {side} side"] = (side, ["".join(lines[i : i + 6]) for i in range(0, len(lines), 6)])
    dice, result, confusion = random.Random(7), {}, Counter()
    for name, (register, texts) in told.items():
        right: dict[str, list[bool]] = defaultdict(list)
        for text in texts:
            if xxhash.xxh64_intdigest(text[:200].encode()) % 5:
                continue
            for length in (*LENGTHS, 0):
                if len(text) < length:
                    continue
                first = dice.randrange(len(text) - length + 1) if length else 0
                part = text[first : first + length] if length else text
                language = identify(sums(classes_of(codes_of(part))), part)
                if language.name != "zh":
                    continue
                right[str(length) if length else "whole"].append(language.register == register)
                if not length and name not in BETWEEN:
                    confusion[f"{register} told {language.register}"] += 1
        accuracy = {length: {"n": len(hits), "accuracy": float(np.mean(hits))} for length, hits in right.items()}
        result[name] = {"register": register, "accuracy": accuracy}
    return {"sources": result, "confusion of whole documents": dict(confusion)}


def languages() -> dict[str, Any] | str:
    """What the messages of Django's translations are told to be."""
    place = importlib.util.find_spec("django")
    if place is None or place.origin is None:
        return "django is not installed"
    result = {}
    for folder in sorted((Path(place.origin).parent / "conf" / "locale").iterdir()):
        path = folder / "LC_MESSAGES" / "django.po"
        if not path.is_file():
            continue
        blocks = re.findall(r'^msgstr(?:\[\d\])? "(.*)"\n((?:".*"\n)*)', path.read_text(encoding="utf-8"), re.M)
        texts = [first + "".join(line.strip('"') for line in rest.split("\n")) for first, rest in blocks[1:]]
        texts = [text for text in texts if sum(map(str.isalpha, text)) >= (6 if folder.name[:2] in "zh ja ko" else 16)]
        if len(texts) >= 20:
            told = Counter(identify(sums(classes_of(codes_of(text))), text).name for text in texts)
            whole = "\n".join(texts)
            name = identify(sums(classes_of(codes_of(whole))), whole).name
            result[folder.name] = {"messages": dict(told.most_common(5)), "together": name}
    return result


def learnt(data: Path, found: dict[str, list[str]], dice: random.Random) -> dict[str, Any]:
    """A classifier of translations that people scored, and a model of characters; their speed, too."""
    rows = [record for _, record in read_jsonl(data / "sft" / "alpaca_zh_v3_52k.jsonl.zst")]
    sides: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        if row["mt_score"] in (1, 2, 5):
            sides[row["mt_score"] == 5].append("\n".join((row["instruction"], row["input"], row["output"])))
    model, figures = classifier.train(dice.sample(sides[True], 8000), sides[False])
    prose = found["lctt_technews_zh"] + found["opendocs_zh"] + found["luxun_zh"]
    lm = ngram.train(prose)
    shown = {}
    for name in ("cluecorpus_small_sample", "laws_zh", "classical_modern_text", "tcm_classics_zh", "chinese_poetry"):
        texts = [text[:2000] for text in found[name][:300] if len(text) > 60]
        mixed = ["".join(dice.sample(text, len(text))) for text in texts]
        values = [[lm.perplexity(codes_of(text)) for text in side] for side in (texts, mixed)]
        shown[name] = {
            "median": float(np.median(values[0])),
            "99 %": float(np.quantile(values[0], 0.99)),
            "shuffled, 1 %": float(np.quantile(values[1], 0.01)),
        }
    texts = [codes_of(text) for text in found["cluecorpus_small_sample"] + found["lctt_technews_zh"][:500]]
    size = sum(len(bytes(text).decode("utf-32-le").encode()) for text in texts)
    speed = {}
    for name, score in (("classifier", model.score), ("perplexity", lm.perplexity)):
        begun = time.process_time()
        for text in texts:
            score(text)
        speed[name] = size / (time.process_time() - begun) / 1e6
    return {
        "classifier of machine translations (scored 5 against 1 and 2)": figures,
        "perplexity": {"facts": lm.facts, "sources": shown},
        "MB/s on one core": speed,
    }


def speeds(found: dict[str, list[str]], rounds: int) -> dict[str, Any]:
    """Nanoseconds a character for cleaning, for the counts alone and for judging, median of rounds taken in turns."""
    clean = Cleaner(CleanSettings())
    judges = {"language alone": Judge(QualitySettings(rules=False)), "all rules": Judge(QualitySettings())}
    result = {}
    for name, texts in found.items():
        cleaned = [clean(text, Counter()) for text in texts[:1500]]
        chars = sum(len(text) for text, _, _ in cleaned)
        taken: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for what, judge in judges.items():
                begun = time.process_time()
                for item in cleaned:
                    judge(*item)
                taken[what].append((time.process_time() - begun) / chars * 1e9)
        result[name] = {what: float(np.median(values)) for what, values in taken.items()}
        result[name]["characters a document"] = chars / len(cleaned)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000, help="most documents of a source")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    data = Path(os.environ.get("HANMO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    dice = random.Random(7)
    found = dict(sources(data, given.documents))
    judge, clean = Judge(QualitySettings()), Cleaner(CleanSettings(mojibake=False))  # which would repair it
    made = {}
    for name, texts in bad_texts(found, 500, dice).items():
        reasons = Counter(judge(*clean(text, Counter())).reason or "kept" for text in texts)
        made[name] = {"rejected": 1 - reasons["kept"] / len(texts), "reasons": dict(reasons.most_common())}
    result: dict[str, Any] = {
        "good text rejected": rejected(found),
        "bad text rejected": made,
        "register": registers(data, found),
        "language": languages(),
        "models": learnt(data, found, dice),
        "ns a character to judge": speeds(found, given.rounds),
        "machine": machine(),
        "versions": versions(),
    }
    write_json(RESULT, result)
    for name in itertools.islice(result, 6):
        console.print(f"[bold]{name}[/bold]", result[name])


if __name__ == "__main__":
    main()
