"""CLUE's seven tasks on a small encoder, beside the same encoder untrained and a bag of n-grams.

    python benchmarks/clue.py BENCH MODEL WORK [--tasks afqmc,tnews] [--models bag,trained,untrained] [--seeds 2]

BENCH is a folder with public parts of the tasks, MODEL an encoder's folder (its stage's, for what it was trained on),
WORK a folder for runs. What is not there whole is made of what is: the development part of AFQMC is split in three;
TNEWS, IFLYTEK, WSC and CSL are the joined few-shot splits of FewCLUE, trained on `train_few_all` and tested on
`dev_few_all`; OCNLI has 3,000 training pairs. There is no CMNLI. A part of each training file chooses the checkpoint
(of the bag, its penalty) and nobody is trained on it. Results are merged into benchmarks/results/clue.json as they
come; a run (of a model, task and seed) that stands in WORK is not run again. `over` has what the trained encoder has
over the others: the mean difference on the same items, with a bootstrap over items.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "clue.json"
#: Task -> (training file, test file or None to split one off), and settings beside the task's own.
PARTS: dict[str, tuple[str, str | None]] = {
    "afqmc": ("afqmc/dev.json", None),
    "tnews": ("fewclue/tnews/train_few_all.json", "fewclue/tnews/dev_few_all.json"),
    "iflytek": ("fewclue/iflytek/train_few_all.json", "fewclue/iflytek/dev_few_all.json"),
    "ocnli": ("ocnli/train.3k.json", "ocnli/dev.json"),
    "wsc": ("fewclue/cluewsc/train_few_all.json", "fewclue/cluewsc/dev_few_all.json"),
    "csl": ("fewclue/csl/train_few_all.json", "fewclue/csl/dev_few_all.json"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "afqmc": {"epochs": 4, "max_length": 64},
    "tnews": {
        "epochs": 8,
        "max_length": 48,
        "learning_rate": 1e-3,
        "batch_size": 16,
        "weight_decay": 0.1,
        "pooling": "mean",
    },
    "iflytek": {"epochs": 2, "max_length": 64, "learning_rate": 1e-3},
    "ocnli": {"epochs": 4, "max_length": 64},
    "wsc": {"epochs": 8, "max_length": 96},
    "csl": {"epochs": 8, "max_length": 128},
}
#: Shares of AFQMC's development part for the test, and of every training file for choosing.
TEST, DEV = 0.3, 0.1
PENALTIES = (1e-5, 1e-4, 1e-3)


def lay_out(bench: Path, work: Path, name: str) -> Path:
    """Make the task's folder: train.json, dev.json, test.json."""
    import xxhash

    train, test = PARTS[name]
    folder = work / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for line in (bench / train).read_text(encoding="utf-8").split("\n"):
        if line.strip():
            drawn = xxhash.xxh3_64_intdigest(line.encode()) / 2**64
            parts["test" if test is None and drawn < TEST else "dev" if drawn > 1 - DEV else "train"].append(line)
    if test is not None:
        parts["test"] = [line for line in (bench / test).read_text(encoding="utf-8").split("\n") if line.strip()]
    for part, lines in parts.items():
        (folder / f"{part}.json").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def grams(texts: Sequence[str]) -> Counter[str]:
    """Runs of one to three characters; of a pair those of each side, and those that both have."""
    sides = [
        Counter(text[at : at + width] for width in (1, 2, 3) for at in range(len(text) - width + 1)) for text in texts
    ]
    if len(sides) == 1:
        return sides[0]
    found: Counter[str] = Counter()
    for number, side in enumerate(sides):
        found.update({f"{number}:{gram}": count for gram, count in side.items()})
    found.update({f"=:{gram}": 1 for gram in sides[0].keys() & sides[1].keys()})
    return found


def bag(folder: Path, name: str) -> dict[str, Any]:
    """Logistic regression on the n-grams that two training examples have: tf-idf, the penalty chosen on dev."""
    import torch
    import torch.nn.functional as F

    from hanmo.understand.files import read_examples
    from hanmo.understand.scoring import score
    from hanmo.understand.tasks import task

    what = task(name)
    torch.manual_seed(0)
    parts = {}
    for part in ("train", "dev", "test"):
        found = read_examples([folder / f"{part}.json"], what, "skip")[0]
        parts[part] = [example for example in found if example.label is not None]
    counts = {part: [grams(example.texts) for example in examples] for part, examples in parts.items()}
    there = Counter(gram for one in counts["train"] for gram in one)
    index = {gram: number for number, gram in enumerate(gram for gram, n in there.items() if n > 1)}
    weight = torch.tensor([len(parts["train"]) / there[gram] for gram in index]).log() + 1

    def rows(part: str) -> torch.Tensor:
        places, values = [], []
        for row, one in enumerate(counts[part]):
            known = [(index[gram], n) for gram, n in one.items() if gram in index]
            vector = torch.tensor([n for _, n in known], dtype=torch.float32).log1p()
            vector = vector * weight[[column for column, _ in known]]
            values.append(vector / vector.norm().clamp(min=1e-9))
            places += [(row, column) for column, _ in known]
        shape = (len(counts[part]), len(index))
        return torch.sparse_coo_tensor(torch.tensor(places).T, torch.cat(values), shape).to_sparse_csr()

    labels = list(what.labels)
    gold = torch.tensor([labels.index(example.label) for example in parts["train"]])
    given = {part: rows(part) for part in parts}
    best: tuple[float, float, list[str]] | None = None
    for penalty in PENALTIES:
        table = torch.zeros(len(index), len(labels), requires_grad=True)
        bias = torch.zeros(len(labels), requires_grad=True)
        optimizer = torch.optim.LBFGS([table, bias], max_iter=100, line_search_fn="strong_wolfe")

        def closure(table: Any = table, bias: Any = bias, optimizer: Any = optimizer, penalty: float = penalty) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(given["train"] @ table + bias, gold) + penalty * table.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            said = {
                part: [labels[n] for n in (given[part] @ table + bias).argmax(1).tolist()] for part in ("dev", "test")
            }
        right = statistics.mean(a == e.label for a, e in zip(said["dev"], parts["dev"], strict=True))
        if best is None or right > best[0]:
            best = (right, penalty, said["test"])
    assert best is not None
    figures = score(what, len(labels), parts["test"], best[2])
    assert figures is not None
    right = [float(a == e.label) for a, e in zip(best[2], parts["test"], strict=True)]
    return {**figures, "penalty": best[1], "grams": len(index), "right": right}


def untrained(model: Path, out: Path) -> Path:
    """The same encoder with fresh weights."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    from hanmo.models.folder import resolve
    from hanmo.models.save import save_model
    from hanmo.tokenizer import load

    folder = resolve(model)
    torch.manual_seed(0)
    save_model(AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)), load(folder), out, [])
    return out


def tuned(model: Path, data: Path, out: Path, name: str, seeds: int) -> dict[str, Any]:
    """The stage's figures on the test part, over seeds, each a run of its own."""
    from hanmo.understand import stage
    from hanmo.understand.files import read_examples
    from hanmo.understand.settings import UnderstandSettings
    from hanmo.understand.tasks import task

    given: dict[str, Any] = {"on_bad_record": "skip", "learning_rate": 5e-4, **SETTINGS[name]}
    what, runs, rights = task(name), [], []
    gold = [example.label for example in read_examples([data / "test.json"], what, "skip")[0]]
    for seed in range(1, seeds + 1):
        folder = out / str(seed)
        if not (folder / "results.json").is_file():
            stage.run(UnderstandSettings(task=name, seeds=[seed], **given), {"model": [model], "data": [data]}, folder)
        runs.append(json.loads((folder / "results.json").read_text(encoding="utf-8")))
        lines = (folder / (what.submission or "predict.json")).read_text(encoding="utf-8").splitlines()
        said = [json.loads(line)["label"] for line in lines]
        rights.append([float(a == b) for a, b in zip(said, gold, strict=True) if b is not None])
    tests = [run["runs"][0]["test"] for run in runs]
    values = [test["accuracy"] for test in tests]
    return {
        "accuracy": statistics.mean(values),
        "deviation": statistics.stdev(values) if seeds > 1 else None,
        "n": tests[0]["n"],
        **{key: statistics.mean(test[key] for test in tests) for key in ("low", "high")},
        **{key: tests[0][key] for key in ("chance", "majority")},
        "train": sum(e.label is not None for e in read_examples([data / "train.json"], what, "skip")[0]),
        "dev": runs[0]["runs"][0]["dev"]["n"],
        "seeds": values,
        "seconds": [run["runs"][0]["seconds"] for run in runs],
        "settings": given,
        "right": [statistics.mean(one) for one in zip(*rights, strict=True)],
    }


def over(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """By how much the first is better on the same items: the mean difference, its 95 % interval from a bootstrap."""
    import numpy as np

    gain = np.asarray(first) - np.asarray(second)
    draws = np.random.default_rng(7).integers(0, len(gain), (4000, len(gain)))
    low, high = np.quantile(gain[draws].mean(1), [0.025, 0.975])
    return {"difference": float(gain.mean()), "low": float(low), "high": float(high)}


def described(model: Path, text: str) -> dict[str, Any]:
    """What an encoder is and was trained on, by its stage and in words."""
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    chosen = ("preset", "context", "batch_tokens", "masks")
    return {
        **{key: manifest["settings"][key] for key in chosen},
        **{key: manifest["counts"][key] for key in ("parameters", "tokens", "passes", "steps", "heldout_loss")},
        "text": text,
    }


def main() -> None:
    """Run what is asked for and merge it into the table."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("bench", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", default=",".join(PARTS))
    parser.add_argument("--models", default="bag,trained,untrained")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fresh-seeds", type=int, help="of the untrained encoder (default: as many)")
    parser.add_argument("--text", default="", help="what the encoder was trained on, in words")
    options = parser.parse_args()
    fresh: Path | None = None
    for name in options.tasks.split(","):
        data = lay_out(options.bench, options.work, name)
        right: dict[str, list[float]] = {}
        for kind in options.models.split(","):
            if kind == "bag":
                found = bag(data, name)
            else:
                if kind == "untrained":
                    fresh = fresh or untrained(options.model, options.work / "fresh")
                model = fresh if kind == "untrained" and fresh else options.model
                seeds = options.fresh_seeds if kind == "untrained" and options.fresh_seeds else options.seeds
                found = tuned(model, data, options.work / kind / name, name, seeds)
            right[kind] = found.pop("right")
            table = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
            table["machine"] = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread"
            row = table.setdefault("tasks", {}).setdefault(name, {})
            row["encoder"] = described(options.model, options.text)
            row[kind] = found
            if "trained" in right:
                others = {other: over(right["trained"], right[other]) for other in right if other != "trained"}
                row["over"] = {**row.get("over", {}), **others}
            table["tasks"]["cmnli"] = "no part of it was at hand; the code is proved on a fixture"
            RESULT.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            print(
                name, kind, round(found["accuracy"], 4), [round(found["low"], 3), round(found["high"], 3)], flush=True
            )


if __name__ == "__main__":
    main()
