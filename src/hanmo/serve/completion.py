"""`hanmo generate`: continue prompts from the command line or a file, to the terminal or to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from hanmo.console import console, progress
from hanmo.errors import HanmoError
from hanmo.files import fingerprint_json, fingerprint_path, open_binary, read_jsonl
from hanmo.models import hub
from hanmo.models.folder import is_encoder_decoder
from hanmo.serve.engines import Completion, Engine, open_engine
from hanmo.serve.plugins import Frame
from hanmo.serve.prompt import PromptTooLong
from hanmo.serve.results import Results
from hanmo.serve.sampling import Sampling
from hanmo.serve.text import for_terminal, whole_text


@dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it, with what stands around it; `clipped` characters did not fit."""

    text: str
    ids: list[int]
    clipped: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of a prompt; see `Asked`."""

    completion: Completion
    asked: str = ""
    clipped: int = 0


class Answerer(Protocol):
    """Answers prompts together; `first` is the number of the first of them, from 0."""

    def __call__(self, texts: Sequence[str], first: int) -> list[Answer]: ...


def run(
    model: Path | str,
    prompts: Sequence[str],
    *,
    input: Path | None,
    output: Path | None,
    as_chat: bool,
    frame: Frame,
    clip: bool,
    batch_size: int,
    sampling: Sampling,
    context: int | None,
    device: str,
    threads: int | None,
) -> list[Completion]:
    """See `hanmo.serve.generate`."""
    given = [*prompts, *(read_prompts(input) if input is not None else [])]
    if not given:
        raise HanmoError("nothing to complete: give a prompt, or a file of prompts with --input")
    if batch_size < 1:
        raise HanmoError(f"batch_size: must be 1 or more, is {batch_size}")
    for number, text in enumerate(given, 1):
        if not whole_text(text):
            raise HanmoError(f"prompt {number}: not valid text (is the terminal's encoding UTF-8?)")
    model = hub.local(model)
    if is_encoder_decoder(model):
        return _fill_gaps(model, given, output, as_chat, frame, batch_size, sampling, device, threads)
    engine = open_engine(model, context=context, device=device, threads=threads)
    try:
        engine.check(sampling)
        writer = _Writer(engine, sampling, frame, as_chat, clip)
        if frame.steady:  # what does not fit is said before the first answer is computed
            writer.prepare(given)
        if output is None and len(given) == 1:
            return [_print_one(writer, given[0])]
        settings = [asdict(sampling), as_chat, clip, engine.context]
        answers = _answers(writer, model, given, frame, settings, output, batch_size)
        writer.warn(answers)
        if output is None:
            for answer in answers:
                whole, new = "" if as_chat else answer.asked, answer.completion.text
                print(for_terminal(new + whole if engine.backward else whole + new), end="\n\n")
        return [answer.completion for answer in answers]
    finally:
        engine.close()


class _Writer:
    """Puts prompts to an engine.

    A prompt that leaves too little room for an answer loses its beginning (for a model that writes from right to left:
    its end), where it may, but nothing of what the frame puts around it.
    """

    def __init__(self, engine: Engine, sampling: Sampling, frame: Frame, as_chat: bool, clip: bool) -> None:
        self.engine, self.sampling, self.as_chat = engine, sampling, as_chat
        self._frame, self._clip = frame, clip
        # A quarter of the context, unless less is wanted.
        self._reserve = min(engine.context // 4, sampling.max_tokens or engine.context)
        self._ready: list[Asked] = []

    def prepare(self, texts: Sequence[str]) -> None:
        """Encode all prompts now."""
        self._ready = [self.ask(text, number) for number, text in enumerate(texts, 1)]

    def ask(self, text: str, number: int) -> Asked:
        """What the model gets for prompt `number` (from 1)."""
        if self._ready:
            return self._ready[number - 1]
        before, behind = self._frame.around(text)

        def cut(count: int) -> Asked:
            kept = text[: len(text) - count] if self.engine.backward else text[count:]
            whole = before + kept + behind
            if self.as_chat:
                return Asked(whole, self.engine.encode_chat([{"role": "user", "content": whole}]), count)
            return Asked(whole, self.engine.encode(whole), count)

        room = self.engine.context - self._reserve
        found = cut(0)
        if self._clip and len(found.ids) > room:
            # Fewer characters may once in a while be more tokens; a search by halves then cuts a few too many.
            low, high = 1, len(text)
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if len(cut(middle).ids) <= room else (middle + 1, high)
            found = cut(low)
        try:
            self.engine.check_room(found.ids)
        except PromptTooLong as error:
            raise HanmoError(f"prompt {number}: {error}") from None
        return found

    def __call__(self, texts: Sequence[str], first: int) -> list[Answer]:
        asked = [self.ask(text, number) for number, text in enumerate(texts, first + 1)]
        found = self.engine.complete([one.ids for one in asked], self.sampling, first=first)
        return [Answer(one, prompt.text, prompt.clipped) for one, prompt in zip(found, asked, strict=True)]

    def warn(self, answers: Sequence[Answer]) -> None:
        """Say how many prompts were cut."""
        cut = [answer.clipped for answer in answers if answer.clipped]
        if cut:
            end = "end" if self.engine.backward else "beginning"
            console.print(
                f"{len(cut)} of {len(answers)} prompts are too long for the context of {self.engine.context} tokens "
                f"and lost their {end}, {sum(cut)} characters in all (--no-clip refuses them)"
            )


def _fill_gaps(
    model: Path | str,
    given: Sequence[str],
    output: Path | None,
    as_chat: bool,
    frame: Frame,
    batch_size: int,
    sampling: Sampling,
    device: str,
    threads: int | None,
) -> list[Completion]:
    if as_chat or sampling.stop or sampling.beams > 1:
        raise HanmoError(f"{model}: an encoder-decoder fills gaps; --as-chat, --stop and --beams are for others")
    from hanmo.serve.gaps import GapFiller

    filler = GapFiller(model, device, threads)

    def fill(texts: Sequence[str], first: int) -> list[Answer]:
        return [Answer(one) for one in filler.complete([frame(text) for text in texts], sampling, first=first)]

    answers = _answers(fill, model, given, frame, [asdict(sampling)], output, batch_size)
    if output is None:
        for answer in answers:
            print(for_terminal(answer.completion.text))
    return [answer.completion for answer in answers]


def read_prompts(path: Path) -> Iterator[str]:
    """The prompts in a file: `{"prompt": text}` lines where it is a .jsonl, else its lines. Empty lines do not count.

    Raises:
        HanmoError: no such file, or a line that is no prompt (named).
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".jsonl" in suffixes or ".json" in suffixes:
        for number, record in read_jsonl(path):
            prompt = record.get("prompt") if isinstance(record, dict) else None
            if not isinstance(prompt, str) or not prompt:
                raise HanmoError(f'{path}:{number}: needs a text under "prompt"')
            yield prompt
        return
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise HanmoError(f"{path}:{number}: not UTF-8; convert the file first") from None
                if text.strip():
                    yield text
    except OSError as error:
        raise HanmoError(f"{path}: cannot be read ({error.strerror or error})") from None


def _print_one(writer: _Writer, text: str) -> Completion:
    engine = writer.engine
    asked = writer.ask(text, 1)
    whole = "" if writer.as_chat else asked.text
    before, behind = ("", whole) if engine.backward else (whole, "")
    sys.stdout.write(for_terminal(before))
    parts = []
    for delta in engine.stream(asked.ids, writer.sampling):
        parts.append(delta.text)
        sys.stdout.write(for_terminal(delta.text))
        sys.stdout.flush()
        last = delta
    sys.stdout.write(for_terminal(behind) + "\n")
    assert last.finish is not None
    found = Completion("".join(parts), len(asked.ids), last.tokens, last.finish)
    writer.warn([Answer(found, asked.text, asked.clipped)])
    return found


def _answers(
    answer: Answerer,
    model: Path | str,
    texts: Sequence[str],
    frame: Frame,
    settings: list[object],
    output: Path | None,
    batch_size: int,
) -> list[Answer]:
    """Answer all, batch by batch; with a file, each batch is kept as it comes."""
    if output is None:
        return list(_batches(answer, texts, 0, batch_size))
    key = fingerprint_json([fingerprint_path(model), list(texts), frame.settings, settings])
    with Results(output, key, len(texts), batch_size) as results:
        found = [_from_record(record) for record in results.done]
        held: list[Answer] = []
        for one in _batches(answer, texts, len(found), batch_size):
            held.append(one)
            if len(held) == batch_size or len(found) + len(held) == len(texts):
                place = len(found)
                results.add([_to_record(text, one) for text, one in zip(texts[place:], held, strict=False)])
                found += held
                held = []
    return found


def _batches(answer: Answerer, texts: Sequence[str], done: int, batch_size: int) -> Iterator[Answer]:
    began, tokens = time.monotonic(), 0
    with progress() as bar:
        task = bar.add_task("prompts", total=len(texts), completed=done, info="")
        for start in range(done, len(texts), batch_size):
            found = answer(texts[start : start + batch_size], start)
            tokens += sum(one.completion.completion_tokens for one in found)
            yield from found
            rate = tokens / (time.monotonic() - began)
            bar.update(task, advance=len(found), info=f"{start + len(found)} of {len(texts)}, {rate:.0f} tokens/s")


def _to_record(text: str, answer: Answer) -> dict[str, object]:
    completion = answer.completion
    record: dict[str, object] = {
        "prompt": text,
        "completion": completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "tokens": completion.completion_tokens,
        "finish_reason": completion.finish,
    }
    return {**record, "clipped": answer.clipped} if answer.clipped else record


def _from_record(record: dict[str, Any]) -> Answer:
    completion = Completion(record["completion"], record["prompt_tokens"], record["tokens"], record["finish_reason"])
    return Answer(completion, clipped=record.get("clipped", 0))
