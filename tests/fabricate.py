"""A run folder as the stages leave it, made up: for tests of the report and the studio, and for looking at them.

`python tests/fabricate.py DIR` writes one and its report.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.evaluate.significance import compare, tally

#: Text that breaks a careless page: markup, the end of a script, controls, a right-to-left mark, half of a character.
NASTY = '</script><script>alert("x")</script><b>&amp;\x00\x1b[31m\u202e逆\ufffd'
CATEGORIES = ("fact", "family", "home", "route", "pet", "calendar", "age", "sum", "measure", "自编")
SOURCES = {"百科": 0.38, "小说": 0.27, "法律": 0.2, "诗词": 0.1, "论坛": 0.05}
REASONS = {"too_short": 0.06, "low_han": 0.045, "duplicate": 0.03, "bad_encoding": 0.002}
ITEMS = 60


def fabricate(run: Path, tokenizer_folder: Path) -> Path:
    """Fill `run` with the stages of a demo; returns the eval stage's folder."""
    dice = np.random.default_rng(3)
    clock = 0

    def commit(stage: str, do: str, seconds: float, memory: float, counts: dict[str, Any], **inputs: list[str]) -> Path:
        nonlocal clock
        folder = run / stage
        folder.mkdir(parents=True, exist_ok=True)
        write(
            folder / "manifest.json",
            {
                "stage": stage,
                "do": do,
                "settings": {"seed": 1, "note": NASTY if do == "corpus" else ""},
                "inputs": {role: [str(run / name) for name in names] for role, names in inputs.items()},
                "key": "0",
                "budget": {},
                "result": "0",
                "counts": counts,
                "seconds": seconds,
                "peak_memory_mb": memory,
                "peak_anonymous_mb": memory * 0.7,
                "started": f"2025-03-05T10:{clock // 60:02}:{clock % 60:02}+00:00",
                "finished": "2025-03-05T10:59:59+00:00",
                "versions": {"python": "3.11.9", "hanmo": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
                "machine": {"cpu": "AMD EPYC 9D45", "cores": 2, "system": "Linux"},
            },
        )
        clock += int(seconds) + 1
        return folder

    commit("world", "microworld", 11.2, 190, {"documents": 61_204, "bytes": 24_000_112, "dialogues": 12_000})
    stats = corpus_stats()
    folder = commit(
        "corpus", "corpus", 14.8, 412, {k: stats[k] for k in ("read", "train", "heldout")}, documents=["world"]
    )
    write(folder / "stats.json", stats)
    folder = commit(
        "tokenizer", "tokenizer", 9.1, 640, {"vocabulary": 4096, "characters_per_token": 1.61}, corpus=["corpus"]
    )
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    commit(
        "tokens", "tokens", 3.3, 280, {"train": {"tokens": 8_112_332}, "heldout": {"tokens": 80_112}}, corpus=["corpus"]
    )
    folder = commit(
        "base", "pretrain", 231.4, 1890, {"parameters": 4_980_000, "steps": 980, "tokens": 8_028_160}, data=["tokens"]
    )
    pretrain_log(folder, dice)
    folder = commit("sft", "sft", 64.0, 1510, {"records": 11_760, "steps": 735, "last_loss": 0.19}, model=["base"])
    tuning_log(folder, 735, dice, preferences=False)
    folder = commit(
        "dpo", "dpo", 31.9, 1720, {"pairs": 2_900, "steps": 181, "warnings": ["the answers grew longer"]}, model=["sft"]
    )
    tuning_log(folder, 181, dice, preferences=True)
    folder = commit(
        "eval",
        "eval",
        48.2,
        720,
        {"scored_documents": 612, "exam_items": 600},
        model=["base", "sft", "dpo"],
        corpus=["corpus"],
    )
    evaluation(folder, dice)
    commit(
        "gguf",
        "convert",
        2.2,
        230,
        {"files": {"f16": {"bytes": 10_112_000}, "q8_0": {"bytes": 5_400_000}}},
        model=["dpo"],
    )
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def amount(documents: int) -> dict[str, int]:
    return {"documents": documents, "bytes": documents * 1120, "chars": documents * 402, "han": documents * 350}


def corpus_stats() -> dict[str, Any]:
    sources: dict[str, Any] = {}
    total = 61_204
    for index, (name, share) in enumerate(SOURCES.items()):
        read = round(total * share)
        rejected = {reason: round(read * part * (1 + index) / 2) for reason, part in REASONS.items()}
        heldout = round(read * 0.01)
        examples = {
            reason: [
                {"where": f"raw/{name}.jsonl.zst:{17 + n}", "detail": "7 characters, fewer than 10", "text": text}
                for n, text in enumerate(("首页 上一页 下一页", NASTY))
            ]
            for reason in rejected
        }
        sources[name] = {
            "licence": "",
            "files": 1 + index,
            "read": amount(read),
            "train": amount(read - heldout - sum(rejected.values())),
            "heldout": amount(heldout),
            "rejected": rejected,
            "examples": examples,
            "changed": {"half_width": 9, "nfc": 2},
            "bad_files": [],
            "bad_files_count": 0,
        }

    def summed(key: str) -> dict[str, int]:
        return {part: sum(source[key][part] for source in sources.values()) for part in amount(1)}

    return {
        **{key: summed(key) for key in ("read", "train", "heldout")},
        "rejected": {reason: sum(source["rejected"][reason] for source in sources.values()) for reason in REASONS},
        "changed": {"half_width": 45, "nfc": 10},
        "bad_files": 0,
        "sources": sources,
    }


def pretrain_log(folder: Path, dice: np.random.Generator) -> None:
    log, samples = [], []
    for step in range(1, 981):
        ideal = 1.35 + 7.0 * (1 + step / 9) ** -0.62 - 0.18 * max(0, step - 590) / 390
        if step % 10 == 0 or step == 1:
            rate = 3e-3 * min(1, step / 12) * min(1, max(0.0, (980 - step) / 390))
            log.append(
                {
                    "step": step,
                    "tokens": step * 8192,
                    "loss": round(ideal + dice.normal(0, 0.05), 5),
                    "lr": rate,
                    "tokens_per_second": round(35_000 + dice.normal(0, 900), 1),
                    "seconds": round(step * 0.235, 2),
                    "shares": {"forward": 0.4, "backward": 0.5, "optimiser": 0.1},
                }
            )
        if step % 200 == 0 or step == 980:
            log.append({"step": step, "heldout_bpb": round(ideal / 3.35, 5)})
            early = "的的一，是在了的不" if step < 300 else "小明住在河边的村子里，他养了一只猫。"
            samples += [
                {"step": step, "prompt": "今天", "text": "今天" + early},
                {"step": step, "prompt": "从前有一个", "text": NASTY if step == 980 else early[::-1]},
            ]
    lines(folder / "log.jsonl", log)
    lines(folder / "samples.jsonl", samples)


def tuning_log(folder: Path, steps: int, dice: np.random.Generator, preferences: bool) -> None:
    log: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        part = step / steps
        if step % (steps // 5) == 0 or step == 1:
            look: dict[str, Any] = {"step": step, "validation_loss": round(2.2 * 0.12**part, 5)}
            if preferences:
                look |= {"validation_loss": 0.7 - 0.45 * part, "validation_margin": 2.6 * part}
                look |= {"validation_accuracy": 0.5 + 0.4 * part, "preference_accuracy": 0.6 + 0.3 * part}
                look |= {"log_prob_chosen": -30 + 2 * part, "log_prob_rejected": -31 - 9 * part}
            log.append(look)
        if step % 5 == 0 or step == 1:
            line = {"step": step, "epoch": part * 2, "learning_rate": 8e-4 * (1 - part), "tokens": step * 3000}
            if preferences:
                line |= {
                    "loss": 0.693 * 0.5**part + dice.normal(0, 0.02),
                    "gradient_norm": 1.5 - part + abs(dice.normal(0, 0.2)),
                    "margin": 3 * part + dice.normal(0, 0.1),
                    "accuracy": min(1.0, 0.5 + 0.5 * part),
                    "reward_chosen": part + dice.normal(0, 0.1),
                    "log_prob_chosen": -29 + 2 * part + dice.normal(0, 1),
                    "log_prob_rejected": -30 - 9 * part + dice.normal(0, 1),
                    "reward_rejected": -2 * part + dice.normal(0, 0.1),
                }
            else:
                line |= {"loss": 2.3 * 0.09**part + dice.normal(0, 0.02), "token_accuracy": 0.5 + 0.45 * part}
            log.append(line)
    lines(folder / "log.jsonl", log)
    skipped = {"empty answer": 12, "no user turn": 3}
    account = {
        "files": [{"file": "/somewhere/world/sft.jsonl", "form": "messages", "records": 12_000, "used": 11_760}],
        "read": 12_000,
        "skipped": skipped,
        "skipped_at": [{"file": "/somewhere/world/sft.jsonl", "line": 17, "why": NASTY}],
        "duplicates": 25,
        "not_sampled": 0,
        "notes": {},
        "lengths": {"fits": 11_950, "too long, dropped": 10},
        "train": {"records": 11_760, "tokens": 1_203_221, "learnt": 330_118},
        "validation": {"records": 200, "tokens": 20_221, "learnt": 6_001},
    }
    write(folder / "records.json", account)


def evaluation(folder: Path, dice: np.random.Generator) -> None:
    levels = {"base": 0.37, "sft": 0.83, "dpo": 0.86}
    chances = [[0.25] * 30 + [0.0] * 30 for _ in CATEGORIES]
    hard = dice.normal(0, 0.09, len(CATEGORIES))
    luck = dice.random((len(CATEGORIES), ITEMS))
    models, right = [], {}
    for number, (name, level) in enumerate(levels.items()):
        noise = luck + dice.normal(0, 0.08, luck.shape)
        won = noise < np.clip(level + hard, 0.05, 0.97)[:, None]
        right[name] = [bool(value) for value in won.flatten()]
        flat = [value for row in chances for value in row]
        halves = np.arange(won.size).reshape(won.shape) % 3 == 0
        exam = {
            "method": {"name": "chat" if number else "completion", "shots": 0 if number else 4},
            "total": tally(right[name], flat),
            "categories": {c: tally([bool(v) for v in won[i]], chances[i]) for i, c in enumerate(CATEGORIES)},
            "kinds": {"choice": tally(right[name][::2], [0.25] * 300), "short": tally(right[name][1::2], [0.0] * 300)},
            "hops": {
                "1": tally([bool(v) for v in won[~halves]], [0.12] * int((~halves).sum())),
                "2": tally([bool(v) for v in won[halves]], [0.12] * int(halves.sum())),
            },
            "cut": 2 * number,
            "too_long": 0,
            "empty": 1,
            "seconds": 5.3,
        }
        bpb = (0.412, 0.447, 0.451)[number]
        part = {"bits_per_byte": bpb, "low": bpb - 0.006, "high": bpb + 0.006, "bits_per_character": bpb * 2.9}
        part |= {"bits_per_token": bpb * 4.4, "characters_per_token": 1.61, "bytes_per_token": 4.55}
        part |= {"documents": 612, "bytes": 684_000, "characters": 245_000, "tokens": 152_000}
        sources = {
            source: part | {"bits_per_byte": bpb * k, "low": bpb * k - 0.02, "high": bpb * k + 0.02}
            for source, k in zip(SOURCES, (0.93, 1.02, 0.8, 1.4, 1.2), strict=True)
        }
        samples = [
            {
                "kind": "completion",
                "prompt": "从前有一个",
                "text": "村子，村子边上有一条清水河。小明和小红就住在那里。",
            },
            {"kind": "completion", "prompt": "春天来了", "text": "，花园里的花都开了。" + NASTY},
        ]
        if number:
            samples += [
                {"kind": "chat", "prompt": "你好！", "text": "你好！很高兴见到你。"},
                {"kind": "chat", "prompt": "三加五等于几？", "text": "三加五等于八。答案是8。"},
            ]
        models.append(
            {
                "name": name,
                "kind": "chat" if number else "base",
                "parameters": 4_984_192,
                "vocabulary": 4096,
                "context": 512,
                "heldout": part | {"context": 512, "sources": sources, "perplexity": {"base": 21.4}},
                "exams": {"world": exam},
                "samples": samples,
                "variety": {
                    **{"texts": 40, "characters": 2100, "repetition": 0.04, "distinct_1": 0.21, "distinct_2": 0.63},
                    "self_bleu": 0.31,
                    "human": {"texts": 40, "characters": 2100, "repetition": 0.0, "distinct_1": 0.4, "distinct_2": 0.9},
                },
                "seconds": {"heldout": 8.1, "exam world": 5.3, "samples": 0.8},
            }
        )
        lines(
            folder / f"exam-{name}.jsonl",
            [
                {
                    "exam": "world",
                    "id": f"{c}-{n}",
                    "category": c,
                    "kind": "short" if n >= 30 else "choice",
                    "hops": 2 if n % 3 == 0 else 1,
                    "question": "小明的妈妈在哪里工作？" + ("" if n >= 30 else "\nA. 学校\nB. 医院\nC. 集市\nD. 邮局"),
                    "answer": "医院" if n >= 30 else "B",
                    "reply": "小明的妈妈是林小云，她在医院工作。答案是医院。" if won[i, n] else "答案是学校。",
                    "right": bool(won[i, n]),
                }
                for i, c in enumerate(CATEGORIES)
                for n in range(ITEMS)
            ],
        )
    retrieval = {c: float(np.clip(0.36 + hard[i], 0, 1)) for i, c in enumerate(CATEGORIES)}
    names = list(levels)
    write(
        folder / "eval.json",
        {
            "heldout": {"documents": 612, "bytes": 684_000, "of_documents": 612, "of_bytes": 684_000, "passed_over": 0},
            "exams": {
                "world": {
                    "items": len(CATEGORIES) * ITEMS,
                    "chance": 0.125,
                    "baselines": {"retrieval": {"accuracy": 0.36, "categories": retrieval, "method": "both"}},
                }
            },
            "models": models,
            "heldout_comparisons": [
                {"first": "base", "second": "sft", "difference": 0.035, "low": 0.033, "high": 0.0371},
                {"first": "base", "second": "dpo", "difference": 0.039, "low": 0.036, "high": 0.0412},
                {"first": "sft", "second": "dpo", "difference": 0.004, "low": -0.001, "high": 0.0083},
            ],
            "comparisons": [
                {"exam": "world", "first": a, "second": b, **compare(right[a], right[b])}
                for n, a in enumerate(names)
                for b in names[n + 1 :]
            ],
        },
    )


if __name__ == "__main__":
    from hanmo.evaluate.report import run as report
    from hanmo.evaluate.settings import ReportSettings

    target = Path(sys.argv[1])
    made = fabricate(target, Path(sys.argv[2]))
    report(ReportSettings(), {"eval": [made]}, target / "report")
