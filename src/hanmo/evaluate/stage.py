"""The eval stage: several models on the same held-out text, the same exams and the same prompts.

Out: `eval.json` with everything, `exam-<model>.jsonl` with every single reply, to be read by people, and
`heldout-<model>.jsonl` with what each document costs, for comparisons with models that are measured elsewhere.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
import xxhash
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from hanmo.console import console, human_bytes, human_seconds, progress
from hanmo.errors import HanmoError
from hanmo.evaluate import heldout, variety
from hanmo.evaluate.bpb import Scores, Text, compare_bits, document_end, document_opening, figures, score_texts
from hanmo.evaluate.exam import choose_items, sit, worked_examples
from hanmo.evaluate.generate import generate
from hanmo.evaluate.items import ExamItem, chance, load_items
from hanmo.evaluate.settings import EvalSettings
from hanmo.evaluate.significance import compare
from hanmo.files import atomic_write, read_json, write_json
from hanmo.models.families import must_write
from hanmo.models.folder import resolve, title
from hanmo.models.hub import repository_at
from hanmo.models.linglong.generation import complete, pinyin_reader
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer.chat import TURN_END, ChatFormat, encode_text

#: Exam name -> (items, worked examples for base models, baselines beside the models).
Exams = dict[str, tuple[list[ExamItem], list[tuple[str, str]], dict[str, Any]]]


def run(settings: EvalSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Evaluate every model in `inputs["model"]`; see the module for what is written.

    Inputs: "model" (model folders or stage folders, named by folder), "corpus" (optional, a corpus stage: its held-out
    part), "exam" (optional: exam.jsonl files, or folders that hold one).
    """
    out.mkdir(parents=True, exist_ok=True)
    for left in (*out.glob("exam-*.jsonl"), *out.glob("heldout-*.jsonl"), out / "eval.json"):
        left.unlink(missing_ok=True)
    folders = name_folders(inputs["model"])
    exams = load_exams(inputs.get("exam", []), settings)
    texts: list[Text] = []
    counts: dict[str, int] = {}
    for corpus in inputs.get("corpus", []):
        texts, counts = heldout.draw(corpus, settings.heldout_documents, settings.heldout_mb * 1e6)
    device = pick_device(settings.device)
    models = []
    scores: dict[str, Scores] = {}
    right: dict[tuple[str, str], list[bool]] = {}
    for name, folder in folders.items():
        result, scored, replies = evaluate(name, folder, texts, exams, settings, device)
        models.append(result)
        if scored:
            scores[name] = scored
            _write_documents(out / f"heldout-{name}.jsonl", texts, scored)
        for exam, records in replies.items():
            right[name, exam] = [record["right"] for record in records]
        if not replies:
            continue
        with atomic_write(out / f"exam-{name}.jsonl", "wb") as file:
            for exam, records in replies.items():
                for record in records:
                    file.write(orjson.dumps({"exam": exam, **record}, option=orjson.OPT_APPEND_NEWLINE))
    for model in models:
        if model["heldout"]:
            model["heldout"]["perplexity"] = {
                name: math.exp(scores[model["name"]].nats.sum() / (scored.tokens.sum() + len(scored.tokens)))
                for name, scored in scores.items()
            }
    write_json(
        out / "eval.json",
        {
            "heldout": counts,
            "exams": {
                name: {
                    "items": len(items),
                    "chance": sum(map(chance, items)) / len(items),
                    "baselines": baselines,
                }
                for name, (items, _, baselines) in exams.items()
            },
            "models": models,
            "heldout_comparisons": [
                {"first": a, "second": b, **compare_bits(scores[a], scores[b], settings.bootstrap, settings.seed)}
                for a, b in itertools.combinations(scores, 2)
            ],
            "comparisons": [
                {"exam": exam, "first": a, "second": b, **compare(right[a, exam], right[b, exam])}
                for exam in exams
                for a, b in itertools.combinations(folders, 2)
            ],
        },
    )
    return {
        "scored_documents": counts.get("documents", 0),
        "scored_bytes": counts.get("bytes", 0),
        "exam_items": sum(len(items) for items, _, _ in exams.values()),
        "models": {
            model["name"]: {
                **({"bits_per_byte": model["heldout"]["bits_per_byte"]} if model["heldout"] else {}),
                **{f"exam {name}": exam["total"]["accuracy"] for name, exam in model["exams"].items()},
            }
            for model in models
        },
    }


def _write_documents(path: Path, texts: Sequence[Text], scores: Scores) -> None:
    """A line a document: a hash of its text, its source, its bytes and tokens, and its bits."""
    with atomic_write(path, "wb") as file:
        for text, nats, tokens in zip(texts, scores.nats.tolist(), scores.tokens.tolist(), strict=True):
            record = {
                "document": xxhash.xxh3_128_hexdigest(text.text.encode()),
                "source": text.source,
                "bytes": len(text.text.encode()),
                "tokens": tokens,
                "bits": nats / math.log(2),
            }
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def evaluate(
    name: str, folder: Path, texts: list[Text], exams: Exams, settings: EvalSettings, device: torch.device
) -> tuple[dict[str, Any], Scores | None, dict[str, list[dict[str, Any]]]]:
    """All figures of one model for eval.json, its scores of the texts, and its replies by exam."""
    model, tokenizer = load(folder, getattr(torch, settings.precision), device)
    if exams and peculiar(model):
        raise HanmoError(
            f"{folder}: a model with pinyin or from right to left sits no exams; measure it without `exam`"
        )
    chat = is_chat(model, tokenizer)
    longest = int(model.config.max_position_embeddings)
    if settings.context and settings.context > longest:
        raise HanmoError(f"context is {settings.context}, but model '{name}' is made for {longest} tokens; lower it")
    seconds: dict[str, float] = {}

    scores, bits = None, None
    if texts:
        began = time.perf_counter()
        context = settings.context or longest
        scores = score_texts(model, tokenizer, texts, context, batch_tokens=settings.batch_tokens)
        bits = figures(scores, settings.bootstrap, settings.seed) | {"context": context}
        seconds["heldout"] = round(time.perf_counter() - began, 3)
        console.print(
            f"{name}: {bits['bits_per_byte']:.4f} bits per byte [{bits['low']:.4f}, {bits['high']:.4f}] on "
            f"{human_bytes(bits['bytes'])} in {human_seconds(seconds['heldout'])}",
            markup=False,
        )
    results: dict[str, Any] = {}
    replies: dict[str, list[dict[str, Any]]] = {}
    for exam, (items, examples, _) in exams.items():
        with progress() as bar:
            task = bar.add_task(f"{name}: {exam}", total=len(items), info="")
            sitting = sit(
                model,
                tokenizer,
                items,
                chat=chat,
                examples=examples,
                by_likelihood=settings.choose == "likelihood",
                answer_tokens=settings.answer_tokens,
                context=longest,
                batch_prompts=settings.batch_prompts,
                batch_tokens=settings.batch_tokens,
                advance=lambda done, bar=bar, task=task: bar.advance(task, done),
            )
        results[exam], replies[exam] = sitting.result(), sitting.replies
        seconds[f"exam {exam}"] = round(sitting.seconds, 3)
        total = sitting.summary["total"]
        console.print(
            f"{name}: {exam} {total['k']} of {total['n']} right, {total['accuracy']:.1%} "
            f"[{total['low']:.1%}, {total['high']:.1%}], chance {total['chance']:.1%}, in "
            f"{human_seconds(sitting.seconds)}",
            markup=False,
        )
    began = time.perf_counter()
    samples = write_samples(model, tokenizer, chat, settings)
    seconds["samples"] = round(time.perf_counter() - began, 3)
    varied = draw_many(model, tokenizer, settings) if settings.variety and not peculiar(model) else None
    if varied is not None and texts:
        # People's text, in as many pieces of the same length: what is usual for this language and these sources.
        length = round(varied["characters"] / varied["texts"])
        varied["human"] = human_variety([text.text for text in texts], int(varied["texts"]), length)
    result = {
        "name": name,
        "kind": "chat" if chat else "base",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "context": longest,
        "heldout": bits,
        "exams": results,
        "samples": samples,
        "variety": varied,
        "seconds": seconds,
    }
    return result, scores, replies


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model folder's model and tokenizer, ready to be measured."""
    must_write(folder, "its run's log.jsonl has its `heldout_loss`, and `hanmo model fill` shows what it does")
    tokenizer = load_tokenizer(folder)
    transformers_logging.disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (ValueError, OSError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HanmoError(f"{folder}: not a causal language model that loads ({reason})") from None
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    if len(tokenizer) > rows:
        raise HanmoError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows} rows; "
            "they do not belong together"
        )
    model.to(device).eval()  # type: ignore[arg-type]
    return model, tokenizer


def draw_many(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: EvalSettings
) -> dict[str, Any] | None:
    """`variety.figures` of several texts behind each opening; None where not one character was written."""
    begins = document_opening(model, tokenizer)
    end = document_end(tokenizer)
    ids = [[end if begins is None else begins, *encode_text(tokenizer, prompt)] for prompt in settings.prompts]
    written = generate(
        model,
        [one for one in ids for _ in range(settings.variety)],
        stop_ids=[end],
        max_new_tokens=settings.sample_tokens,
        temperature=settings.temperature or 1.0,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    decoded = [str(tokenizer.decode(one, skip_special_tokens=True)) for one in written]
    groups = [decoded[at : at + settings.variety] for at in range(0, len(decoded), settings.variety)]
    return variety.figures(groups) if any(text.strip() for text in decoded) else None


def human_variety(texts: Sequence[str], count: int, length: int) -> dict[str, Any] | None:
    """Repetition and distinct n-grams of the beginnings of at most `count` texts that are long enough."""
    pieces = [made[:length] for text in texts if len(made := "".join(text.split())) >= length][:count]
    return variety.figures([[piece] for piece in pieces]) if pieces and length else None


def write_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chat: bool, settings: EvalSettings
) -> list[dict[str, str]]:
    """One text per prompt, and for a chat model one answer per question: [{kind, prompt, text}]."""
    ask = ChatFormat(tokenizer) if chat else None
    end_of_text = document_end(tokenizer)
    # A document begins behind an end-of-text token, in training as here, or with an opening of its own.
    begins = document_opening(model, tokenizer)
    begins = end_of_text if begins is None else begins
    asked = [("completion", prompt, [begins, *encode_text(tokenizer, prompt)]) for prompt in settings.prompts]
    for question in settings.questions if ask else ():
        turn = [{"role": "user", "content": question}]
        asked.append(("chat", question, ask.encode(turn, add_generation_prompt=True)[0]))  # type: ignore[union-attr]
    longest = int(model.config.max_position_embeddings)
    for _, prompt, ids in asked:
        if len(ids) >= longest:
            raise HanmoError(
                f"prompt '{prompt[:20]}…' has {len(ids)} tokens, the model's context is {longest}; shorten it"
            )
    if peculiar(model):
        return _peculiar_samples(model, tokenizer, end_of_text, settings)
    answers = generate(
        model,
        [ids for _, _, ids in asked],
        stop_ids=ask.stop_ids if ask else [end_of_text],
        max_new_tokens=settings.sample_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    return [
        {"kind": kind, "prompt": prompt, "text": str(tokenizer.decode(ids, skip_special_tokens=True))}
        for (kind, prompt, _), ids in zip(asked, answers, strict=True)
    ]


def peculiar(model: PreTrainedModel) -> bool:
    """Whether a model writes from right to left, or wants pinyin beside its tokens."""
    return bool(getattr(model.config, "backward", False) or getattr(model.config, "use_pinyin", False))


def _peculiar_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, end_of_text: int, settings: EvalSettings
) -> list[dict[str, str]]:
    pinyin_of = pinyin_reader(tokenizer.name_or_path) if model.config.use_pinyin else None  # type: ignore[attr-defined]
    drawn: dict[str, Any] = {"do_sample": settings.temperature > 0}
    if drawn["do_sample"]:
        drawn |= {"temperature": settings.temperature, "top_p": settings.top_p}
    found = []
    for number, prompt in enumerate(settings.prompts):
        ids = encode_text(tokenizer, prompt)
        room = min(settings.sample_tokens, int(model.config.max_position_embeddings) - len(ids) - 1)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed * 1_000_003 + number)
            (new,) = complete(
                model,
                [ids],
                max_new_tokens=room,
                opening=[end_of_text],
                pinyin_of=pinyin_of,
                eos_token_id=end_of_text,
                **drawn,
            )
        text = str(tokenizer.decode(new, skip_special_tokens=True))
        found.append({"kind": "completion", "prompt": prompt, "text": text})
    return found


def is_chat(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a model was trained to chat: it then ends at the end of a turn, by its generation config."""
    turn_end = tokenizer.get_vocab().get(TURN_END)
    config = model.generation_config
    ends = config.eos_token_id if config is not None else None
    return turn_end is not None and turn_end in (ends if isinstance(ends, list) else [ends])


def name_folders(paths: list[Path]) -> dict[str, Path]:
    """Name -> model folder; the name is that of the stage's folder, with its parent's in front where two are alike."""
    named: dict[str, Path] = {}
    for path in paths:
        folder = resolve(path).resolve()
        stage = folder.parent if folder.name == "model" else folder
        name = title(folder)
        if name in named:
            name = repository_at(folder).replace("/", "-") or f"{stage.parent.name}-{stage.name}"
        if name in named:
            raise HanmoError(f"{path}: two models are named {name}; give folders of unlike names")
        named[name] = folder
    return named


def load_exams(paths: list[Path], settings: EvalSettings) -> Exams:
    """Exams by name: a folder's items with its training dialogues as worked examples, or a file's items alone."""
    exams: Exams = {}
    for path in paths:
        file = path / "exam.jsonl" if path.is_dir() else path
        folder = file.parent
        name = folder.name if path.is_dir() else path.name.split(".")[0]
        if name in exams:
            raise HanmoError(f"{path}: two exams are named {name}; give files or folders of unlike names")
        dialogues, stats = folder / "sft.jsonl", folder / "stats.json"
        own = path.is_dir()
        exams[name] = (
            choose_items(load_items(file), settings.exam_limit),
            worked_examples(dialogues, settings.shots, settings.seed) if own and dialogues.is_file() else [],
            _baselines(read_json(stats)) if own and stats.is_file() else {},
        )
    return exams


def _baselines(stats: dict[str, Any]) -> dict[str, Any]:
    """What needs no model at all, from a microworld's statistics: {name: {accuracy, categories, method}}."""
    found = stats.get("retrieval")
    if not found:
        return {}
    part = {"accuracy": found["accuracy"], "categories": found["by_category"], "method": found["method"]}
    return {"retrieval": part}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the machine's accelerator, or the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
