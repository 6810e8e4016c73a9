"""Knowledge distillation: a student learns from a larger model's probabilities, not from the records' words alone.

    loss = (1 - weight) cross-entropy + weight T² D(teacher, student at temperature T)

with D one of the divergences of TRL's GKD trainer (Agarwal et al. 2023, arXiv:2306.13649), whose function is used; its
trainer neither mixes in the cross-entropy nor applies a temperature to the loss. T² keeps the two parts in proportion
(Hinton et al. 2015). Both models are asked only where the assistant's words stand, and the teacher reads what the
student reads, packed rows included. `distilled.json` has what became of the divergence on held-out records.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

# Says once an import that its interface may change; the version is pinned.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from trl.experimental.gkd import GKDTrainer

from hanmo.errors import HanmoError
from hanmo.evaluate.bpb import bootstrap_ratio
from hanmo.files import write_json
from hanmo.models.families import must_write
from hanmo.models.folder import resolve
from hanmo.posttrain import own, reporting, sft, training
from hanmo.posttrain.encode import IGNORE, Example
from hanmo.posttrain.scoring import pad_rows, score_logits, states_at
from hanmo.posttrain.settings import DistillSettings
from hanmo.tokenizer import load as load_tokenizer

#: Held-out records in one forward pass.
ROWS = 16


class Teacher:
    """A frozen model that reads what the student reads, and the loss of the student's departure from it.

    Args:
        folder: a model folder or that of a stage, with the student's tokenizer.

    Raises:
        HanmoError: it cannot be loaded, or has another tokenizer.
    """

    def __init__(self, folder: Path, start: training.Start, settings: DistillSettings) -> None:
        folder = resolve(folder)
        must_write(folder)
        _same_tokenizer(folder, start.chat.tokenizer)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=start.dtype, attn_implementation=start.model.config._attn_implementation
            )
        except (ValueError, OSError, KeyError) as error:
            raise HanmoError(
                f"{folder}: not a causal language model that loads ({str(error).splitlines()[0]})"
            ) from None
        context = getattr(model.config, "max_position_embeddings", None) or start.limit
        if context < start.limit:
            raise HanmoError(
                f"{folder}: the teacher has a context of {context} tokens, records may have {start.limit}; "
                f"set max_length to at most {context}"
            )
        self.model: PreTrainedModel = model
        self.model.to(start.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self._start, self._settings = start, settings
        # Rows of embeddings are rounded up, by each model on its own.
        self._tokens = len(start.chat.tokenizer)

    def read(self, where: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The teacher's last hidden states; see `scoring.Lesson`."""
        with torch.no_grad():
            return states_at(self.model.base_model, where, *args, **kwargs)

    def logits(self, read: Tensor) -> Tensor:
        """[N, tokens] fp32 of states that `read` gave."""
        with torch.no_grad():
            return self.model.get_output_embeddings()(read).float()[:, : self._tokens]  # type: ignore[misc]

    def score(self, hidden: Tensor, weight: Tensor, targets: Tensor, read: Tensor) -> tuple[Tensor, ...]:
        """The negative mixed loss of each token; see `scoring.Lesson`."""
        logits = F.linear(hidden, weight).float()
        return mixed(self._settings, logits, self.logits(read), targets)

    def divergence(self, held: list[Example]) -> tuple[np.ndarray, np.ndarray]:
        """KL(teacher || student) summed over each record's learnt tokens, in nats, and how many these are."""
        student = self._start.model
        was_training = student.training
        student.eval()
        nats, tokens = [], []
        for at in range(0, len(held), ROWS):
            rows = [(example.input_ids, example.labels) for example in held[at : at + ROWS]]
            ids, labels, _ = pad_rows(rows, self._start.pad)
            counts = labels[:, 1:] != IGNORE
            where = counts.flatten().nonzero()[:, 0].to(student.device)
            with torch.no_grad(), self._start.autocast():
                given = {"input_ids": ids.to(student.device), "use_cache": False}
                hidden = states_at(student.base_model, where, **given)
                mine = student.get_output_embeddings()(hidden).float()[:, : self._tokens]  # type: ignore[misc]
                told = self.logits(self.read(where, **given))
            apart = F.kl_div(mine.log_softmax(-1), told.log_softmax(-1), reduction="none", log_target=True).sum(-1)
            by_row = counts.sum(1)
            nats += [float(part.sum()) for part in apart.cpu().double().split(by_row.tolist())]
            tokens += by_row.tolist()
        student.train(was_training)
        return np.array(nats), np.array(tokens)


def mixed(settings: DistillSettings, logits: Tensor, told: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The negative mixed loss of each token, and what `score_logits` gives beside it.

    Args:
        logits, told: the student's and the teacher's, fp32 [N, rows of the student's head] and [N, tokens].
        targets: [N] int64.
    """
    picked, *rest = score_logits(logits, targets)
    temperature, share = settings.temperature, settings.weight
    apart = GKDTrainer.generalized_jsd_loss(
        logits[:, : told.shape[1]],
        told,
        beta={"forward": 0.0, "reverse": 1.0, "jsd": settings.between}[settings.divergence],
        temperature=temperature,
        reduction="none",
    ).sum(-1)
    return ((1 - share) * picked - share * temperature**2 * apart, *rest)


def _same_tokenizer(folder: Path, own: PreTrainedTokenizerFast) -> None:
    """See that probabilities of one model are about the same tokens as the other's.

    Raises:
        HanmoError: they are not.
    """
    sides = [json.loads(one.backend_tokenizer.to_str()) for one in (load_tokenizer(folder), own)]
    if any(sides[0][part] != sides[1][part] for part in ("model", "added_tokens", "normalizer", "pre_tokenizer")):
        raise HanmoError(
            f"{folder}: the teacher has another tokenizer than the student, so that their probabilities cannot be "
            "compared; let it answer prompts instead (`hanmo answers`), and tune the student on what it writes"
        )


class _Seen(NamedTuple):
    nats: np.ndarray
    tokens: np.ndarray
    loss: float


def run(settings: DistillSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Tune a model on dialogues towards a teacher's probabilities; see `hanmo.posttrain.sft.run`.

    Inputs: as for SFT, and `teacher`, a model folder or stage.

    Returns:
        SFT's counts, and kl_before, kl_after (KL(teacher || student) in nats a token on held-out records) with the
        difference's 95 % interval.

    Raises:
        HanmoError: as SFT; a teacher that cannot be loaded, or with another tokenizer; a class that TRL does not tune.
    """
    if objective := own.objective_of(resolve(inputs["model"][0])):
        raise HanmoError(
            f"{inputs['model'][0]}: distillation by probabilities is for decoders of stock classes; this model learns "
            f"{objective}. Let the teacher answer prompts (`hanmo answers`), and tune it on what that writes"
        )
    looks: list[_Seen] = []

    def teaching(start: training.Start) -> tuple[Teacher, Any]:
        teacher = Teacher(inputs["teacher"][0], start, settings)

        def measure(held: list[Example]) -> dict[str, float]:
            loss = sft.held_out_loss(start, settings, held)
            looks.append(_Seen(*teacher.divergence(held), loss["validation_loss"]))
            return loss | {"validation_kl": float(looks[-1].nats.sum() / looks[-1].tokens.sum())}

        return teacher, measure

    counts = sft.tune(settings, inputs, out, teaching)
    if looks:
        found = _compared(looks[0], looks[-1])
        write_json(out / "distilled.json", found)
        apart = found["difference"]
        counts |= {"kl_before": found["before"]["kl"], "kl_after": found["after"]["kl"]}
        counts |= {f"difference_{name}": apart[name] for name in ("mean", "low", "high")}
        reporting.announce(
            f"{found['records']} held-out records: KL from the teacher {found['before']['kl']:.3f} to "
            f"{found['after']['kl']:.3f} nats a token, {apart['mean']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
        )
    return counts


def _compared(before: _Seen, after: _Seen) -> dict[str, Any]:
    change = after.nats - before.nats
    low, high = bootstrap_ratio(change, before.tokens)

    def side(seen: _Seen) -> dict[str, float]:
        bounds = bootstrap_ratio(seen.nats, seen.tokens)
        return {
            "kl": float(seen.nats.sum() / seen.tokens.sum()),
            "low": bounds[0],
            "high": bounds[1],
            "loss": seen.loss,
        }

    return {
        "records": len(change),
        "tokens": int(before.tokens.sum()),
        "before": side(before),
        "after": side(after),
        "difference": {"mean": float(change.sum() / before.tokens.sum()), "low": low, "high": high},
    }
