"""`hanmo generate`: continue prompts from the command line or a file, to the terminal or to a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from hanmo.console import progress
from hanmo.errors import HanmoError
from hanmo.files import atomic_write, open_binary, read_jsonl
from hanmo.models.folder import is_encoder_decoder
from hanmo.serve.engines import Completion, Engine, open_engine
from hanmo.serve.prompt import PromptTooLong
from hanmo.serve.sampling import Sampling
from hanmo.serve.text import for_terminal, whole_text

if TYPE_CHECKING:
    from hanmo.serve.gaps import GapFiller


def run(
    model: Path | str,
    prompts: Sequence[str],
    *,
    input: Path | None,
    output: Path | None,
    as_chat: bool,
    prefix: str,
    suffix: str,
    batch_size: int,
    sampling: Sampling,
    context: int | None,
    device: str,
    threads: int | None,
) -> list[Completion]:
    """See `hanmo.serve.generate`."""
    given = [*prompts, *(read_prompts(input) if input is not None else [])]
    texts = [prefix + text + suffix for text in given]
    if not texts:
        raise HanmoError("nothing to complete: give a prompt, or a file of prompts with --input")
    if is_encoder_decoder(model):
        if as_chat or sampling.stop:
            raise HanmoError(f"{model}: an encoder-decoder fills gaps; --as-chat and --stop are for others")
        from hanmo.serve.gaps import GapFiller

        return _filled(GapFiller(model, device, threads), texts, output, batch_size, sampling)
    engine = open_engine(model, context=context, device=device, threads=threads)
    try:
        encoded = [_encode(engine, text, as_chat, number) for number, text in enumerate(texts, 1)]
        if output is None and len(texts) == 1:
            return [_print_one(engine, texts[0], encoded[0], as_chat, sampling)]
        answers = list(_batches(engine, encoded, batch_size, sampling))
        if output is None:
            for text, answer in zip(texts, answers, strict=True):
                print(for_terminal(_whole(engine, "" if as_chat else text, answer.text)), end="\n\n")
        else:
            _write(output, given, answers)
        return answers
    finally:
        engine.close()


def _filled(
    filler: GapFiller, texts: Sequence[str], output: Path | None, batch_size: int, sampling: Sampling
) -> list[Completion]:
    for number, text in enumerate(texts, 1):
        _check(text, number)
    answers = []
    for start in range(0, len(texts), batch_size):
        answers += filler.complete(texts[start : start + batch_size], sampling, first=start)
    if output is not None:
        _write(output, texts, answers)
    else:
        for answer in answers:
            print(for_terminal(answer.text))
    return answers


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


def _encode(engine: Engine, text: str, as_chat: bool, number: int) -> list[int]:
    _check(text, number)
    ids = engine.encode_chat([{"role": "user", "content": text}]) if as_chat else engine.encode(text)
    try:
        engine.check_room(ids)
    except PromptTooLong as error:
        raise HanmoError(f"prompt {number}: {error}") from None
    return ids


def _check(text: str, number: int) -> None:
    if not whole_text(text):
        raise HanmoError(f"prompt {number}: not valid text (is the terminal's encoding UTF-8?)")


def _print_one(engine: Engine, text: str, ids: list[int], as_chat: bool, sampling: Sampling) -> Completion:
    before, behind = ("", "") if as_chat else ("", text) if engine.backward else (text, "")
    sys.stdout.write(for_terminal(before))
    parts = []
    for delta in engine.stream(ids, sampling):
        parts.append(delta.text)
        sys.stdout.write(for_terminal(delta.text))
        sys.stdout.flush()
        last = delta
    sys.stdout.write(for_terminal(behind) + "\n")
    assert last.finish is not None
    return Completion("".join(parts), len(ids), last.tokens, last.finish)


def _whole(engine: Engine, text: str, new: str) -> str:
    """Prompt and answer as they stand on the page."""
    return new + text if engine.backward else text + new


def _batches(
    engine: Engine, encoded: Sequence[Sequence[int]], batch_size: int, sampling: Sampling
) -> Iterator[Completion]:
    with progress() as bar:
        task = bar.add_task("prompts", total=len(encoded), info="")
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            yield from engine.complete(batch, sampling, first=start)
            bar.advance(task, len(batch))


def _write(path: Path, texts: Sequence[str], answers: Sequence[Completion]) -> None:
    with atomic_write(path, "wb") as file:
        for text, answer in zip(texts, answers, strict=True):
            record = {
                "prompt": text,
                "completion": answer.text,
                "tokens": answer.completion_tokens,
                "finish_reason": answer.finish,
            }
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
