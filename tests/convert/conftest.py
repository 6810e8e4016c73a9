"""A tokenizer with merges for all kinds of text, and a model that has learnt something, for comparing engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hanmo.convert.trials import OPENINGS, QUESTIONS, conversations, hard_lines

#: What the trained model knows by heart.
TEXT = (
    "春天来了，花园里的花都开了。小明和小红一起去公园玩。他们看见一只白色的小猫，正在树下睡觉。"
    "从前有一个小村庄，村里住着一位老人。今天的天气很好，最高气温18度。中国的首都是北京。"
    "一年有四个季节，春夏秋冬。3加5等于8。The cat is happy, 他们也很高兴。def add(a, b):\n    return a + b\n"
)


@pytest.fixture(scope="session")
def llama_cpp() -> Any:
    """Real llama.cpp; without it a test is skipped."""
    return pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install 'hanmo[gguf]'")


@pytest.fixture(scope="session")
def rich_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BPE of 4,000 tokens whose merges cover spaces, line ends, emoji, rare Han, code: wherever splitters differ."""
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import build, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*hard_lines(1500, seed=1), *[TEXT] * 20], trainer)
    folder = tmp_path_factory.mktemp("rich-tokenizer")
    build(tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def trained_model_dir(tmp_path_factory: pytest.TempPathFactory, rich_tokenizer_dir: Path) -> Path:
    """A Qwen3 of about 1.3M parameters that trained on `TEXT` and on some dialogues for a few seconds."""
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    tokenizer = load(rich_tokenizer_dir)
    form = ChatFormat(tokenizer)
    torch.manual_seed(3)
    model = Qwen3ForCausalLM(build_config("hanmo-1m", len(tokenizer), 512))
    stream = [*tokenizer.encode(TEXT), 0]
    for talk in conversations():
        stream += form.encode(talk)[0]
    rows = torch.tensor(stream[: len(stream) // 128 * 128]).view(-1, 128)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(120):
        batch = rows[torch.arange(4).add(4 * step) % len(rows)]
        model(batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    folder = tmp_path_factory.mktemp("trained") / "model"
    model.generation_config.eos_token_id = form.stop_ids
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gguf_files(tmp_path_factory: pytest.TempPathFactory, trained_model_dir: Path) -> dict[str, Path]:
    """The trained model in every format."""
    from hanmo.convert import convert_gguf
    from hanmo.convert.settings import FORMATS

    folder = tmp_path_factory.mktemp("gguf")
    for form in FORMATS:
        convert_gguf(trained_model_dir, folder / f"{form}.gguf", form)
    return {form: folder / f"{form}.gguf" for form in FORMATS}


@pytest.fixture(scope="session")
def prompts(trained_model_dir: Path) -> Sequence[list[int]]:
    """20 prompts as ids: ten texts to continue, ten questions to answer."""
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    form = ChatFormat(load(trained_model_dir))
    questions = [form.encode([{"role": "user", "content": text}], True)[0] for text in QUESTIONS]
    return [form.tokenizer.encode(text) for text in OPENINGS] + questions
