"""What can be asked of an answer: how it is drawn and where it ends. `sampler.py` obeys it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hanmo.errors import HanmoError, nearest

#: field -> (least, greatest), both allowed.
LIMITS: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 1_000_000),
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, 1_000_000),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (-(2**63), 2**63 - 1),
    "beams": (1, 64),
    "length_penalty": (-10, 10),
}
_WHOLE = ("max_tokens", "top_k", "seed", "beams")
_OFF: dict[str, Any] = {
    "max_tokens": None,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": None,
    "stop": (),
    "beams": 1,
}
#: Odd, so that neighbouring answers to one seed have seeds far apart.
_STRIDE = 0x9E3779B1
_MAX_STOPS, _MAX_STOP_LENGTH = 16, 500


#: Most alternatives to each token that may be asked for.
MOST_LOGPROBS = 20


class SamplingError(HanmoError):
    """A sampling setting that is no good; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn, and where it ends.

    Attributes:
        max_tokens: at most so many tokens; None means as many as the context holds.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_p: draw from the fewest tokens whose probabilities sum to this (Holtzman et al. 2020); 1 is off.
        top_k: draw from the k likeliest tokens; 0 is off.
        min_p: drop tokens less likely than this share of the likeliest one; 0 is off.
        repetition_penalty: logits of tokens in prompt and answer are divided (if positive) or multiplied (if negative)
            by it (Keskar et al. 2019); 1 is off.
        presence_penalty: taken once from the logit of every token in the answer so far.
        frequency_penalty: taken from it once per occurrence.
        seed: makes the draw repeatable; None draws anew each time.
        stop: the answer ends before the first of these strings.
        logprobs: tell the log probability of each token, and of so many likeliest ones; None: do not. They are the
            model's own, before any of these settings.
        logit_bias: (id, what is added to its logit), -100 to 100.
        json_schema: the answer is JSON of this schema, given as text; for engines that can.
        grammar: the answer is of this grammar, in llama.cpp's GBNF; for engines that can.
        beams: above 1, the likeliest of so many answers that are followed side by side (beam search); nothing is drawn
            then, and of the settings above only max_tokens, repetition_penalty and stop count. For engines that can.
        length_penalty: answers of a beam search are judged by their log probability divided by their length to this
            power; above 0 favours long ones.
    """

    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    json_schema: str | None = None
    grammar: str | None = None
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, (least, greatest) in LIMITS.items():
            value = getattr(self, name)
            if value is None and name in ("max_tokens", "seed"):
                continue
            kinds = (int,) if name in _WHOLE else (int, float)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise SamplingError(name, f"must be a {'whole ' if name in _WHOLE else ''}number, is {value!r}")
            if not least <= value <= greatest:
                raise SamplingError(name, f"{value} is out of range, must be from {least:g} to {greatest:g}")
        if len(self.stop) > _MAX_STOPS:
            raise SamplingError("stop", f"at most {_MAX_STOPS} strings, got {len(self.stop)}")
        for stop in self.stop:
            if not 0 < len(stop) <= _MAX_STOP_LENGTH:
                raise SamplingError("stop", f"each string has 1 to {_MAX_STOP_LENGTH} characters")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise SamplingError("logprobs", f"{self.logprobs} is out of range, must be from 0 to {MOST_LOGPROBS}")
        if any(not -100 <= bias <= 100 for _, bias in self.logit_bias):
            raise SamplingError("logit_bias", "each bias must be from -100 to 100")
        if self.json_schema is not None and self.grammar is not None:
            raise SamplingError("grammar", "give a grammar or a JSON schema, not both")

    @property
    def greedy(self) -> bool:
        """Whether no chance is involved."""
        return self.temperature == 0 or self.beams > 1

    @property
    def bound(self) -> bool:
        """Whether a grammar or a schema holds the answer."""
        return self.json_schema is not None or self.grammar is not None

    @property
    def repeatable(self) -> bool:
        """Whether the same prompt has to give the same answer again."""
        return self.greedy or self.seed is not None

    def changed(self, name: str, text: str) -> Sampling:
        """A copy in which the field `name` has the value written in `text` ("off" switches it off).

        Raises:
            SamplingError: no such field (the nearest is named), or a value that is no good.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self) if field.name in (*LIMITS, "stop")}
        if name not in defaults:
            raise SamplingError(name, f"no such setting{nearest(name, defaults)} (known: {', '.join(defaults)})")
        value: Any
        if text.lower() == "off" and name in _OFF:
            value = _OFF[name]
        elif name == "stop":
            value = (text.replace("\\n", "\n"),)
        else:
            try:
                value = int(text) if name in _WHOLE else float(text)
            except ValueError:
                raise SamplingError(name, f"must be a number, is {text!r}") from None
        return dataclasses.replace(self, **{name: value})


def seed_of(seed: int, index: int) -> int:
    """The seed of the answer `index` to one prompt, for engines that draw by a number of their own."""
    return seed + index * _STRIDE
