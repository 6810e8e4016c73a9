"""FewCLUE with no record and with few, by PET's patterns and by options, averaged over the five splits.

    python benchmarks/fewclue.py BENCH WORK NAME=MODEL [NAME=MODEL] [--tasks eprstmt,bustm,tnews]
        [--methods pet,options] [--shots none,all] [--test 0]

BENCH is the folder with FewCLUE's tasks, WORK a folder for runs, MODEL an encoder or a decoder. The test part with
labels is not in it, so that each split learns from its training part (32 records, of TNEWS 240), chooses its checkpoint
by its development part and is tested on the development parts of the other four, which hold nothing of what it has
seen. A model that learns nothing is asked all of them. Results are merged into benchmarks/results/fewclue.json; a run
that stands in WORK is not run again.

The interval of a mean over splits is a bootstrap over the records, each with the splits that asked it; what another
draw of training records would change is in the deviation over the splits.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "fewclue.json"
SPLITS = range(5)
TASKS: dict[str, dict[str, Any]] = {
    "eprstmt": {"epochs": 10, "max_length": 128},
    "bustm": {"epochs": 10, "max_length": 64},
    "tnews": {"epochs": 5, "max_length": 64},
}
#: Of few records, small steps; the rate was set once for all, by no result.
FEW = {"batch_size": 8, "learning_rate": 3e-4}


def content(line: str) -> str:
    """What a record says, without its number and label."""
    return json.dumps([value for key, value in sorted(json.loads(line).items()) if key.startswith("sentence")])


def lay_out(bench: Path, work: Path, name: str, most: int) -> None:
    """Make the splits' folders (train.json, dev.json, test.json), and `all` with a dev.json of all that are asked.

    Args:
        most: of the test records, those whose hashes come first; 0 is all.
    """
    import xxhash

    def lines(file: str) -> list[str]:
        return [line for line in (bench / name / file).read_text(encoding="utf-8").split("\n") if line.strip()]

    parts = {split: lines(f"dev_{split}.json") for split in SPLITS}
    for split in [*SPLITS, None]:
        own = {} if split is None else {"train": lines(f"train_{split}.json"), "dev": parts[split]}
        seen = {content(line) for part in own.values() for line in part}
        others = {content(line): line for number in SPLITS if number != split for line in parts[number]}
        asked = [line for key, line in others.items() if key not in seen]
        asked.sort(key=lambda line: xxhash.xxh3_64_intdigest(line.encode()))
        folder = work / "data" / name / ("all" if split is None else str(split))
        folder.mkdir(parents=True, exist_ok=True)
        for part, held in {**own, "dev" if split is None else "test": asked[: most or None]}.items():
            (folder / f"{part}.json").write_text("".join(f"{line}\n" for line in held), encoding="utf-8")


def one(model: Path, data: Path, out: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run, and for each test record whether it was answered rightly."""
    from hanmo.understand import stage
    from hanmo.understand.files import read_examples
    from hanmo.understand.settings import UnderstandSettings
    from hanmo.understand.tasks import task

    what = task(given["task"])
    if not (out / "results.json").is_file():
        settings = UnderstandSettings(on_bad_record="skip", **given)
        stage.run(settings, {"model": [model], "data": [data]}, out)
    run = json.loads((out / "results.json").read_text(encoding="utf-8"))["runs"][0]
    examples = read_examples([data / ("test.json" if run["test"] else "dev.json")], what, "skip")[0]
    lines = (out / (what.submission or "predict.json")).read_text(encoding="utf-8").splitlines()
    said = [json.loads(line)["label"] for line in lines]
    right = {"\n".join(e.texts): e.label == found for e, found in zip(examples, said, strict=True)}
    return {**(run["test"] or run["dev"]), "seconds": run["seconds"], "right": right}


def over_splits(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of the splits' accuracies with its interval."""
    import numpy as np

    asked = sorted({text for run in runs for text in run["right"]})
    hits = np.array([sum(run["right"].get(text, False) for run in runs) for text in asked])
    times = np.array([sum(text in run["right"] for run in runs) for text in asked])
    draws = np.random.default_rng(7).integers(0, len(asked), (4000, len(asked)))
    low, high = np.quantile(hits[draws].sum(1) / times[draws].sum(1), [0.025, 0.975])
    values = [run["accuracy"] for run in runs]
    return {
        "accuracy": statistics.mean(values),
        "low": float(low),
        "high": float(high),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "records": len(asked),
        "splits": [{key: run[key] for key in ("accuracy", "n", "seconds")} for run in runs],
        **{key: statistics.mean(run[key] for run in runs) for key in ("chance", "majority")},
    }


def described(model: Path) -> dict[str, Any]:
    """What a model is, and by its stage's log how many tokens it has learnt from."""
    from transformers import AutoConfig

    from hanmo.models.folder import resolve

    config = AutoConfig.from_pretrained(resolve(model))
    found = {
        "class": (config.architectures or [""])[0],
        "hidden": config.hidden_size,
        "layers": config.num_hidden_layers,
    }
    log = (model / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return {**found, "tokens": max(json.loads(line).get("tokens", 0) for line in log)}


def main() -> None:
    """Run what is asked for and merge it into the table."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("bench", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="pet,options")
    parser.add_argument("--shots", default="none,all")
    parser.add_argument("--test", type=int, default=0, help="test records of a split, at most")
    options = parser.parse_args()
    for name in options.tasks.split(","):
        room = options.work / (str(options.test) if options.test else "whole")
        lay_out(options.bench, room, name, options.test)
        for title, _, model in (one.partition("=") for one in options.models):
            for shots in options.shots.split(","):
                for method in options.methods.split(","):
                    given = {"task": name, "method": method, "shots": shots, **TASKS[name]}
                    given |= FEW if shots == "all" else {}
                    runs = [
                        one(
                            Path(model),
                            room / "data" / name / str(split),
                            room / title / name / method / shots / str(split),
                            given,
                        )
                        for split in (SPLITS if shots == "all" else ["all"])
                    ]
                    found = {**over_splits(runs), "settings": given}
                    table = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
                    table["machine"] = (
                        f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread"
                    )
                    row = table.setdefault("models", {}).setdefault(title, {})
                    row["model"] = described(Path(model))
                    row.setdefault("tasks", {}).setdefault(name, {})[f"{method} {shots}"] = found
                    RESULT.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
                    interval = [round(found["low"], 3), round(found["high"], 3)]
                    print(title, name, method, shots, round(found["accuracy"], 4), interval, flush=True)


if __name__ == "__main__":
    main()
