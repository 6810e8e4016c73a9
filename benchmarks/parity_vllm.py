"""Does real vLLM do with a model folder exactly what transformers does? Token ids, chat template, greedy tokens, stops.

    python benchmarks/parity_vllm.py --python .venv-vllm/bin/python [--model DIR ...] [--report FILE]

vLLM pins its own transformers and so lives in an environment of its own (`make parity` makes it); its interpreter is
given by --python. This script writes down what transformers and our tokenizer say, has `vllm_worker.py` answer the same
over there, and compares. Without --model it takes the models of the last demo, or, without one, a toy of every stock
family (`--family` names one), each trained in seconds. Exit status 0: everything agrees.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jsonschema import Draft202012Validator

from hanmo.console import console, human_seconds
from hanmo.convert import parity, toy
from hanmo.convert.trials import QUESTIONS, conversations, hard_lines
from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.models.folder import resolve
from hanmo.serve.engines import open_engine
from hanmo.serve.engines.base import Engine
from hanmo.serve.engines.vllm import ARGUMENTS_VARIABLE, VARIABLE
from hanmo.serve.sampling import Sampling
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 64
LINES = 1000
#: A form to be filled in, and another way to say what may be written.
SCHEMA = {
    "type": "object",
    "properties": {
        "城市": {"enum": ["北京", "上海", "广州"]},
        "晴": {"type": "boolean"},
        "风": {"type": "array", "items": {"enum": ["东", "西"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["城市", "晴", "风"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= ("红" | "黄" | "蓝") "，" [0-9] "。"'
DRAWS = 8
#: Of one worker: vLLM imports for a while, and compiles its Python files the first time.
TIMEOUT = 900


def generate(model_dir: Path, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy answers of transformers' own `generate`, with the stops of the model folder."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        answers.append(output[0, len(prompt) :].tolist())
    return answers


def ask_vllm(python: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Run the worker in vLLM's environment."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "case.json"), Path(folder, "result.json")
        write_json(question, case)
        environment = {
            **os.environ,
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
        }
        command = [str(python), str(ROOT / "benchmarks" / "vllm_worker.py"), str(question), str(answer)]
        try:
            done = subprocess.run(
                command, env=environment, timeout=TIMEOUT, capture_output=True, text=True, errors="replace"
            )
        except FileNotFoundError:
            raise HanmoError(f"{python}: no such interpreter; `make parity` makes the environment of vLLM") from None
        except subprocess.TimeoutExpired:
            raise HanmoError(f"vLLM did not answer within {TIMEOUT} s") from None
        if done.returncode or not answer.is_file():
            console.print(done.stdout[-2000:] + done.stderr[-6000:], markup=False)
            raise HanmoError(f"vLLM failed (exit status {done.returncode}); its last words are above")
        return read_json(answer)


def compare(model_dir: Path, python: Path) -> dict[str, Any]:
    """The report on one model folder; `agrees` sums it up."""
    form = ChatFormat(load(model_dir))
    config = read_json(model_dir / "config.json")
    context = config.get("max_position_embeddings") or config["n_positions"]
    references = parity.continuations(model_dir, parity.prompts(model_dir), TOKENS)
    talks = [talk for talk in conversations() if talk[-1]["role"] != "assistant"]
    questions = [[{"role": "user", "content": text}] for text in QUESTIONS]
    lines = hard_lines(LINES)
    answers = generate(model_dir, [form.encode(question, True)[0] for question in questions], TOKENS)
    result = ask_vllm(
        python,
        {
            "model": str(model_dir.resolve()),
            "context": context,
            "prompts": [reference.prompt for reference in references],
            "ids": [reference.ids for reference in references],
            "near": [reference.near for reference in references],
            "lines": lines,
            "conversations": talks,
            "questions": questions,
            "answer_tokens": TOKENS,
        },
    )
    greedy = parity.judge(references, result["greedy"])
    expected_lines = [form.tokenizer.encode(line, add_special_tokens=False) for line in lines]
    expected_talks = [{"text": form.render(talk, True), "ids": form.encode(talk, True)[0]} for talk in talks]
    report = {
        "model": str(model_dir),
        "versions": result["versions"],
        "greedy": greedy,
        "lines": _same(expected_lines, result["lines"]),
        "conversations": _same(expected_talks, result["conversations"]),
        # An answer may leave transformers' at a tie, which the greedy comparison has judged.
        "answers": _same(answers, result["answers"]),
        "seconds": result["seconds"],
    }
    exact = all(report[key]["same"] == report[key]["of"] for key in ("lines", "conversations"))
    answered = report["answers"]["same"] + greedy["ties"] >= report["answers"]["of"]
    report["agrees"] = exact and answered and not greedy["differences"]
    return report


def served(model_dir: Path, python: Path) -> dict[str, Any]:
    """Greedy answers of the same engine as a child of `hanmo serve`, against transformers behind the same interface.

    Returns:
        How many questions have the same text, tokens and end, the largest difference of a log probability, and how
        many drawn answers keep to a JSON schema and to a grammar.
    """
    variables = {VARIABLE: str(python), ARGUMENTS_VARIABLE: "--enforce-eager", "VLLM_CPU_KVCACHE_SPACE": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    engines = []
    try:
        for kind in ("vllm", "transformers"):
            engines.append(open_engine(model_dir, kind=kind, parallel=4, device="cpu", threads=1))
        asked = [engines[0].encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]
        greedy = Sampling(temperature=0, max_tokens=TOKENS)
        theirs, ours = ([engine.complete([prompt], greedy)[0] for prompt in asked] for engine in engines)
        told = Sampling(temperature=0, max_tokens=1, logprobs=5)
        first = [[list(engine.stream(prompt, told))[-1].scored for prompt in asked] for engine in engines]
        pairs = [pair for rows in zip(*first, strict=True) for pair in zip(*rows, strict=True)]
        return {
            **_same([asdict(one) for one in ours], [asdict(one) for one in theirs]),
            "logprobs_apart": max((abs(one.logprob - other.logprob) for one, other in pairs), default=0.0),
            "held": _held(engines[0], asked[0]),
        }
    finally:
        for engine in engines:
            engine.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _held(engine: Engine, prompt: list[int]) -> dict[str, int]:
    """How many answers drawn at temperature 1 are what they were held to, of how many."""
    fits = Draft202012Validator(SCHEMA).is_valid
    good = 0
    for seed in range(DRAWS):
        form = Sampling(temperature=1, max_tokens=200, seed=seed, json_schema=json.dumps(SCHEMA, ensure_ascii=False))
        line = Sampling(temperature=1, max_tokens=200, seed=seed, grammar=GRAMMAR)
        filled, written = (engine.complete([prompt], sampling)[0] for sampling in (form, line))
        good += filled.finish == "stop" and fits(json.loads(filled.text))
        good += written.finish == "stop" and re.fullmatch("[红黄蓝]，[0-9]。", written.text) is not None
    return {"same": good, "of": 2 * DRAWS}


def _same(expected: list[Any], got: list[Any]) -> dict[str, Any]:
    wrong = [index for index, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1]]
    first = {"expected": expected[wrong[0]], "got": got[wrong[0]]} if wrong else None
    return {"of": len(expected), "same": len(expected) - len(wrong), "first_difference": first}


def show(report: dict[str, Any], seconds: float) -> None:
    """One line for every comparison."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    greedy = report["greedy"]
    verdict = "agrees" if report["agrees"] else "DIFFERS"
    console.print(f"{report['model']}: {verdict} ({versions})", markup=False, soft_wrap=True)
    console.print(
        f"  greedy: {greedy['identical']} of {greedy['prompts']} prompts identical over {greedy['steps']} tokens, "
        f"{greedy['ties']} ties, {len(greedy['differences'])} differences"
    )
    for key, what in (
        ("lines", "hard lines with the same ids"),
        ("conversations", "conversations with the same text and ids"),
        ("answers", "answers that are the same and stop at the same token"),
    ):
        console.print(f"  {report[key]['same']} of {report[key]['of']} {what}")
    took = report["seconds"]
    console.print(f"  {human_seconds(seconds)} in all, of them vLLM: {took['load']:.0f} s loading, {took['run']:.0f} s")


def models(given: list[Path], families: list[str], scratch: Path) -> Iterator[Path]:
    """The model folders to compare; toys are trained when they are asked for."""
    made = [path.parent for path in sorted((ROOT / "runs" / "demo").glob("*/model/config.json"))]
    if given or (made and not families):
        yield from map(resolve, given or made)
    if families or not (given or made):
        for family in families or toy.FAMILIES:
            console.print(f"training a toy: {family}")
            toy.make_model(scratch / family, family=family)
            yield scratch / family


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter of vLLM's environment")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a model folder or a stage's folder")
    parser.add_argument(
        "--family", action="append", default=[], choices=toy.FAMILIES, help="train a toy of it and compare that"
    )
    parser.add_argument("--report", type=Path, help="write everything as JSON")
    arguments = parser.parse_args()
    reports = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for model_dir in models(arguments.model, arguments.family, Path(scratch)):
                began = time.perf_counter()
                reports.append(compare(model_dir, arguments.python))
                show(reports[-1], time.perf_counter() - began)
                found = reports[-1]["served"] = served(model_dir, arguments.python)
                console.print(
                    f"  {found['same']} of {found['of']} answers that are the same through hanmo serve, "
                    f"log probabilities within {found['logprobs_apart']:.1e}; "
                    f"{found['held']['same']} of {found['held']['of']} drawn answers keep to a schema or grammar"
                )
                # As above, an answer may leave the other at a tie.
                near = found["same"] + reports[-1]["greedy"]["ties"] >= found["of"] and found["logprobs_apart"] < 1e-3
                kept = found["held"]["same"] == found["held"]["of"]
                reports[-1]["agrees"] = reports[-1]["agrees"] and near and kept
    except HanmoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.report:
        write_json(arguments.report, reports)
    return 0 if all(report["agrees"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
