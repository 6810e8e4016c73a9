"""How a checkpoint becomes a model of a class, stock or ours: tensors under their new names, held against the class.

A family gives `Rule`s: an expression over the old name, and the new name or what becomes of the tensor otherwise. The
first that matches counts; a name that no rule matches is unmapped, and a strict import refuses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from hanmo.convert.imports.source import Source
from hanmo.errors import HanmoError

#: A tensor that the class computes itself (rotary tables, causal masks, positions).
DERIVED = "<derived>"
#: A tensor of the original that the class has no use for, and whose absence changes none of its results.
UNUSED = "<unused>"

Rule = tuple[str, str]
_SHOWN = 4


@dataclass
class Plan:
    """A mapping onto a class of transformers, or of ours.

    Attributes:
        kind: the family's name for people.
        cls, config: the class and its configuration.
        tensors: by the class's names.
        derived, unused, unmapped: names of the source that are not among them.
        notes: what was changed on the way, for people.
        ids: of special tokens, for generation_config.json; empty for a class that does not generate.
        ids_from_files: a generation_config.json beside the weights knows them better.
        added_tokens: special tokens that the project's code adds behind its vocabulary file; the first two begin and
            end a text.
    """

    kind: str
    cls: type[Any]
    config: Any
    tensors: dict[str, torch.Tensor]
    derived: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: dict[str, Any] = field(default_factory=dict)
    ids_from_files: bool = True
    added_tokens: tuple[str, ...] = ()


@dataclass
class Sorted:
    """Tensors by their new names, and the names of the others."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    derived: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)


def apply(rules: tuple[Rule, ...], source: Source) -> Sorted:
    """Every tensor by the first rule that matches its whole name."""
    found = Sorted()
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    for name, tensor in source.tensors.items():
        pattern, target = next(((p, t) for p, t in compiled if p.fullmatch(name)), (None, ""))
        if pattern is None:
            found.unmapped.append(name)
        elif target == DERIVED:
            found.derived.append(name)
        elif target == UNUSED:
            found.unused.append(name)
        else:
            new = pattern.sub(target, name)
            if new in found.tensors:
                raise HanmoError(f"{source.path}: two tensors would become {new}, one of them {name}")
            found.tensors[new] = tensor
    return found


def layers(tensors: dict[str, torch.Tensor], pattern: str) -> int:
    """One more than the highest layer that `pattern` finds in a name (its first group is the number)."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def tie(found: Sorted, embedding: str, head: str, said: bool | None, source: Source) -> bool:
    """Whether the head is the embedding, by the tensors; where it is, its copy is taken out.

    Args:
        said: what the configuration says, if anything.
    """
    if head not in found.tensors:
        if said is False:
            raise HanmoError(
                f"{source.path}: {head} is missing, and {source.keys.where} says that it is not the embedding "
                "(tie_word_embeddings); is the checkpoint whole?"
            )
        return True
    if said is False or embedding not in found.tensors:
        return False
    one, other = found.tensors[head], found.tensors[embedding]
    if one.shape != other.shape or not torch.equal(one, other):
        return False
    del found.tensors[head]
    found.derived.append(head)
    return True


def halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows [heads x width, ...] of a rotation of neighbours, in the order of a rotation of halves."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def configure(cls: type[Any], source: Source, values: dict[str, Any]) -> Any:
    """The class's configuration.

    Raises:
        HanmoError: it does not take one of the values.
    """
    try:
        return cls(**values)
    except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:160]
        raise HanmoError(f"{source.keys.where}: {cls.__name__} does not take this configuration ({said})") from None


def check(plan: Plan, source: Source, strict: bool) -> list[str]:
    """Hold the mapping against the class; returns the names that are missing (none where `strict`).

    Raises:
        HanmoError: a tensor of a wrong shape; `strict` and tensors missing or left over.
    """
    try:
        with torch.device("meta"):
            model = plan.cls(plan.config)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:160]
        raise HanmoError(
            f"{source.keys.where}: {plan.cls.__name__} does not take this configuration ({said})"
        ) from None
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    plan.unmapped += [name for name in plan.tensors if name not in wanted]
    plan.tensors = {name: tensor for name, tensor in plan.tensors.items() if name in wanted}
    wrong = [
        f"{name} {list(tensor.shape)} for {list(wanted[name])}"
        for name, tensor in plan.tensors.items()
        if tuple(tensor.shape) != wanted[name]
    ]
    if wrong:
        raise HanmoError(f"{source.path}: tensors of another shape than the rest asks for: {listed(wrong)}")
    missing = [name for name in wanted if name not in plan.tensors]
    if strict and (missing or plan.unmapped):
        faults = [
            f"{len(names)} tensors {what} ({listed(names)})"
            for what, names in (("without a place there", plan.unmapped), ("missing", missing))
            if names
        ]
        raise HanmoError(
            f"{source.path}: {plan.kind}, but not wholly a {plan.cls.__name__}: {' and '.join(faults)}; "
            "--no-strict imports the rest"
        )
    return missing


def listed(names: list[str]) -> str:
    """The first few of `names`."""
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
