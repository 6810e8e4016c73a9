"""A model that has learnt a page by heart in ten seconds, for trying engines where no trained model is at hand.

Random weights are no test of greedy output: their logits are flat, or, scaled up, name one token for ever. This one
continues its page and answers its dialogues, with a tokenizer whose merges cover whatever tokenizers differ about.
"""

from __future__ import annotations

from pathlib import Path

from hanmo.convert.trials import conversations, hard_lines

#: What the model knows.
PAGE = (
    "春天来了，花园里的花都开了。小明和小红一起去公园玩。他们看见一只白色的小猫，正在树下睡觉。"
    "从前有一个小村庄，村里住着一位老人。今天的天气很好，最高气温18度。中国的首都是北京。"
    "一年有四个季节，春夏秋冬。3加5等于8。The cat is happy, 他们也很高兴。def add(a, b):\n    return a + b\n"
)
_ANSWERS = ("好的，没问题。", "小猫吃鱼。", "春天来了，花都开了。", "小。", "等于五。", "I like reading.", "北京。")


def make_tokenizer(folder: Path) -> None:
    """Train a BPE of 4,000 tokens on the page and on hard lines (spaces, line ends, emoji, rare Han) and save it."""
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
    tokenizer.train_from_iterator([*hard_lines(1500, seed=1), *[PAGE] * 20], trainer)
    build(tokenizer, folder)


def make_model(folder: Path, steps: int = 120) -> None:
    """Train a Qwen3 of 1.3M parameters, context 512, and save it with its tokenizer as a Hugging Face folder."""
    import torch
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config
    from hanmo.models.save import save_model
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    make_tokenizer(folder)
    tokenizer = load(folder)
    form = ChatFormat(tokenizer)
    stream = [*tokenizer.encode(PAGE), form.end_of_text]
    for index, talk in enumerate(conversations()):
        answer = {"role": "assistant", "content": _ANSWERS[index % len(_ANSWERS)]}
        stream += form.encode([*talk, answer])[0]
    length = 128
    rows = torch.tensor(stream[: len(stream) // length * length]).view(-1, length)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Qwen3ForCausalLM(build_config("hanmo-1m", len(tokenizer), 512))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        batch = rows[torch.arange(4).add(4 * step) % len(rows)]
        model(batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    save_model(model.eval(), tokenizer, folder, form.stop_ids)
