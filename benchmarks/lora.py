"""Memory of tuning by adapters, and the recipe lora-qwen3-0.6b from a base to a folder for Ollama.

The base is a stand-in: Qwen3-0.6B's configuration with random weights (bf16, as published) and a small tokenizer
trained on the records. So the figures are of memory and time; what is learnt means nothing.

    recipe  all 28 layers through recipes/lora-qwen3-0.6b.yaml and `hanmo convert ollama`
    ways    four of the layers, the same records and steps tuned whole, by LoRA, DoRA and QLoRA

    python benchmarks/lora.py [--records FILE] [--layers 28] [--count 4]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from hanmo.child import machine, versions
from hanmo.files import read_json, write_json
from hanmo.posttrain.records import read_items, sft_kind
from hanmo.posttrain.settings import SftSettings

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "lora.json"
#: The figure to keep: peak memory of any step of the recipe.
LIMIT_MB = 8000


def stand_in(folder: Path, layers: int, texts: list[str]) -> None:
    """A folder with Qwen3-0.6B's shapes, but for the number of layers."""
    import torch
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from hanmo.models.save import save_model
    from hanmo.tokenizer import build, load, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokenizer = skeleton()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    build(tokenizer, folder.with_name("tokenizer"))
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    save_model(model, load(folder.with_name("tokenizer")), folder, [2, 0], torch.bfloat16)


def hanmo(*words: str, **variables: str) -> None:
    subprocess.run([sys.executable, "-m", "hanmo", *words], check=True, env=os.environ | variables)


def figures(stage: Path) -> dict[str, Any]:
    manifest = read_json(stage / "manifest.json")
    kept = ("trained_parameters", "records_per_second", "tokens_per_second", "steps", "precision")
    return {
        "peak_memory_mb": round(manifest["peak_memory_mb"]),
        "seconds": round(manifest["seconds"], 1),
        **{name: manifest["counts"][name] for name in kept if name in manifest["counts"]},
    }


def main() -> None:
    data = Path(os.environ.get("HANMO_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=data / "sft" / "llamafactory_alpaca_zh_demo.json")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--count", type=int, default=4, help="records; the longest are taken")
    given = parser.parse_args()
    settings = SftSettings()
    items, _ = read_items([given.records], settings, sft_kind(settings))
    dialogues = [item.value for item in items]
    texts = [message["content"] for dialogue in dialogues for message in dialogue]
    with tempfile.TemporaryDirectory(prefix="hanmo-lora-") as temporary:
        work = Path(temporary)
        records = work / "records.jsonl"
        long = sorted(dialogues, key=lambda dialogue: -sum(len(message["content"]) for message in dialogue))
        records.write_bytes(b"".join(orjson.dumps({"messages": d}) + b"\n" for d in islice(long, given.count)))
        stand_in(work / "base", given.layers, texts)
        recipe = str(ROOT / "recipes" / "lora-qwen3-0.6b.yaml")
        variables = {"HANMO_BASE": str(work / "base"), "HANMO_RECORDS": str(records)}
        hanmo("run", recipe, "lora.epochs=1", "lora.validation=0", "--out", str(work / "run"), **variables)
        whole = {stage: figures(work / "run" / stage) for stage in ("lora", "gguf")}
        file = work / "run" / "gguf" / "model-q8_0.gguf"
        hanmo("convert", "ollama", str(file), "--out", str(work / "ollama"))
        made = {item.name: item.stat().st_size for item in (work / "ollama").iterdir()}
        ways = {}
        stand_in(work / "four", 4, texts)
        for way in ("none", "lora", "dora", "qlora"):
            words = ["--model", str(work / "four"), "--records", str(records), "--adapter", way, "--merge", "false"]
            words += ["--micro-batch", "1", "--max-length", "256", "--epochs", "1", "--batch-size", "2"]
            hanmo("sft", *words, "--validation", "0", "--threads", "1", "--out", str(work / way))
            ways["full" if way == "none" else way] = figures(work / way)
    peak = max(stage["peak_memory_mb"] for stage in whole.values())
    result = {
        "machine": machine(),
        "versions": versions(),
        "base": f"Qwen3-0.6B's shapes, random weights; recipe: {given.layers} layers, ways: 4 layers",
        "records": given.count,
        "recipe": {**whole, "ollama": made, "peak_memory_mb": peak, "within_8_gb": peak <= LIMIT_MB},
        "ways": ways,
    }
    write_json(RESULT, result)
    print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
