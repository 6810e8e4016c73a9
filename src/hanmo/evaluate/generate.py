"""Writing text in batches, for exams and samples: many prompts of unlike length, each until it stops.

Three things make it fast without compiling anything: prompts are sorted by length, so that a batch has little or no
padding; what all prompts begin with (the worked examples of a few-shot exam) is read once and its keys and values are
shared; and rows that have stopped leave the batch.

Greedy output is that of every prompt alone, token for token, up to floating-point ties: a batched matrix product sums
in another order than a single one, so where the two likeliest logits lie within about 1e-4 the choice may fall on the
other.
Sampled output depends on the seed and on a prompt's place in the list, never on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from hanmo.evaluate import opening


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    context: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 7,
    batch_prompts: int = 64,
    ended: Callable[[list[int]], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt; returns the new ids of each, in the order of the prompts, without the stop id.

    Args:
        model: a transformers causal model with a key-value cache.
        prompts: token ids, none empty.
        stop_ids: ids that end an answer.
        max_new_tokens: most ids per answer; fewer where `context` (default: the model's longest) is reached.
        temperature: 0 takes the likeliest id; otherwise ids are drawn from softmax(logits / temperature), cut to the
            smallest set that holds `top_p` of the probability.
        ended: asked after every id whether the answer so far is all; its last id stays in the answer.
        advance: told how many prompts were finished, for a progress bar.

    Raises:
        ValueError: a prompt is empty or leaves no room in the context.
    """
    limit = context or model.config.max_position_embeddings
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < limit:
            raise ValueError(f"prompt {index} has {len(prompt)} tokens; it must have 1 to {limit - 1}")
    answers: list[list[int]] = [[] for _ in prompts]
    stops = frozenset(stop_ids)
    shared = opening.common(prompts)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            read = opening.read(model, prompts[0][:shared]) if shared else None
            order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
            for at in range(0, len(order), batch_prompts):
                batch = order[at : at + batch_prompts]
                generators = {i: torch.Generator().manual_seed(seed * 1_000_003 + i) for i in batch}
                _fill(
                    model,
                    prompts,
                    batch,
                    answers,
                    shared=shared,
                    cache=opening.repeated(read, len(batch)) if read else DynamicCache(config=model.config),
                    room={i: min(max_new_tokens, limit - len(prompts[i])) for i in batch},
                    choose=lambda logits, rows, g=generators: _choose(logits, temperature, top_p, [g[i] for i in rows]),
                    stops=stops,
                    ended=ended,
                )
                if advance:
                    advance(len(batch))
    finally:
        model.train(was_training)
    return answers


def _fill(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    batch: list[int],
    answers: list[list[int]],
    *,
    shared: int,
    cache: DynamicCache,
    room: dict[int, int],
    choose: Callable[[torch.Tensor, list[int]], list[int]],
    stops: frozenset[int],
    ended: Callable[[list[int]], bool] | None,
) -> None:
    """Decode the prompts numbered in `batch` together into `answers`; `cache` holds their first `shared` tokens."""
    device = model.device
    width = max(len(prompts[i]) for i in batch) - shared
    padding = [width - (len(prompts[i]) - shared) for i in batch]
    ids = torch.tensor(
        [[0] * pad + list(prompts[i][shared:]) for i, pad in zip(batch, padding, strict=True)], device=device
    )
    position = torch.arange(shared, shared + width, device=device) - torch.tensor(padding, device=device)[:, None]
    mask = None
    if any(padding):
        # The padding lies between the shared opening and what is a prompt's own.
        mask = torch.ones(len(batch), shared + width, dtype=torch.long, device=device)
        for row, pad in enumerate(padding):
            mask[row, shared : shared + pad] = 0
    rows = list(batch)
    while rows:
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position.clamp(min=0) if mask is not None else position[:1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = choose(output.logits[:, -1].float(), rows)
        alive = []
        for place, (index, token) in enumerate(zip(rows, chosen, strict=True)):
            if token in stops:
                continue
            answers[index].append(token)
            if len(answers[index]) < room[index] and not (ended and ended(answers[index])):
                alive.append(place)
        if not alive:
            return
        kept = torch.tensor(alive, device=device)
        if len(alive) < len(rows):
            cache.batch_select_indices(kept)
        rows = [rows[place] for place in alive]
        ids = torch.tensor([[chosen[place]] for place in alive], device=device)
        position = position[kept, -1:] + 1
        if mask is not None:
            mask = torch.cat([mask[kept], mask.new_ones(len(rows), 1)], dim=1)


def _choose(logits: torch.Tensor, temperature: float, top_p: float, generators: list[torch.Generator]) -> list[int]:
    """One id per row of float32 logits (rows, vocabulary)."""
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    chances, order = (logits / temperature).softmax(dim=-1).cpu().sort(dim=-1, descending=True, stable=True)
    before = chances.cumsum(dim=-1) - chances
    chances = chances.masked_fill(before >= top_p, 0.0)
    sums = chances.cumsum(dim=-1)
    # One uniform number per row and step, from the row's own stream: the batch around it has no say.
    drawn = torch.stack([torch.rand(1, generator=generator) for generator in generators])
    place = torch.searchsorted(sums, drawn * sums[:, -1:], right=True)
    last = (chances > 0).sum(dim=-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(place, last)).squeeze(1).tolist()
