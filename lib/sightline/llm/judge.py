"""A language model as judge: pairs in, scores out, every reply kept.

A reply is durable before it counts, under a key made of the judge, the prompt and the pair, so that nothing is ever
judged twice. What cannot be read as a score is unscored and counted, never a zero and never an error of the run.
"""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from sightline.errors import BackendError
from sightline.llm.base import Backend, Reply, Request, Sampling
from sightline.llm.prompts import Prompt
from sightline.records.files import content_key
from sightline.records.lease import lease
from sightline.records.rows import Journal
from sightline.records.types import Record

log = logging.getLogger(__name__)
ParseRule = Literal["strict", "published"]
LOWEST, HIGHEST = 1, 5
_FLAT_OBJECT = re.compile(r"\{[^{}]*\}")
_PUBLISHED_OBJECT = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True)
class Verdict:
    """What a reply says: a score, or why it says none."""

    score: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judgement(Record):
    """One reply of a judge, as it is kept.

    Attributes:
        id: Key of the pair, `-`, number of the repeat.
        text: What the judge wrote.
        finish: `stop`, `length` or `failed`; failed ones are never kept.
        prompt_tokens, new_tokens, near_ties: As in `Reply`.
        reason: Why it failed.
    """

    id: str
    text: str
    finish: str
    prompt_tokens: int = 0
    new_tokens: int = 0
    near_ties: int = 0
    reason: str = ""


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge is asked.

    Attributes:
        sampling: How answers are drawn; its seed is the seed of all draws.
        repeats: Answers per pair.
        batch_size: Pairs handed over at once.
        failed_replies: Requests that may stay without an answer before the judge stops.
    """

    sampling: Sampling = field(default_factory=Sampling)
    repeats: int = 1
    batch_size: int = 8
    failed_replies: int = 0


def parse_reply(text: str, rule: ParseRule) -> Verdict:
    """Reads a score from a judge's answer.

    Args:
        text: The answer.
        rule: `strict`: exactly one JSON object, whose `score` is a whole number from 1 to 5. `published`: the
            rule of Stream-VLM's script, which takes a Python dictionary and any number in it; where that script
            stops for want of the key, the pair is unscored here.
    """
    return _strict(text) if rule == "strict" else _published(text)


def _strict(text: str) -> Verdict:
    objects = _FLAT_OBJECT.findall(text)
    if len(objects) != 1:
        return Verdict(None, f"{len(objects) or 'no'} JSON object{'s' if len(objects) > 1 else ''} in the answer")
    try:
        pairs = json.loads(objects[0], object_pairs_hook=list)
    except (ValueError, RecursionError):
        return Verdict(None, "the object in the answer is not JSON")
    scores = [value for name, value in pairs if name == "score"]
    if len(scores) != 1:
        return Verdict(None, "no `score` in the answer" if not scores else "several scores in the answer")
    score = scores[0]
    if isinstance(score, bool) or not isinstance(score, int):
        return Verdict(None, "the score is not a whole number")
    if not LOWEST <= score <= HIGHEST:
        return Verdict(None, f"the score is not from {LOWEST} to {HIGHEST}")
    return Verdict(float(score))


def _published(text: str) -> Verdict:
    objects = _PUBLISHED_OBJECT.findall(text)
    if len(objects) != 1:
        return Verdict(None, f"{len(objects) or 'no'} dictionar{'ies' if len(objects) > 1 else 'y'} in the answer")
    try:
        score = float(ast.literal_eval("{" + objects[0] + "}")["score"])
    except KeyError:
        return Verdict(None, "no `score` in the answer (the original stops here)")
    except (OverflowError, MemoryError, RecursionError):
        return Verdict(None, "the score is too large or too deep to be read (the original stops here)")
    except (SyntaxError, TypeError, ValueError):
        return Verdict(None, "the dictionary in the answer cannot be read")
    if score != score or score in (float("inf"), float("-inf")):
        return Verdict(None, "the score is not finite")
    return Verdict(score)


def judge_key(fingerprint: str, prompt: Prompt, sampling: Sampling, stage_version: int) -> str:
    """Returns what decides a judge's answer besides the pair: model, prompt, decoding, stage version."""
    drawn = [sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed] if sampling.temperature > 0 else []
    return content_key("judge", fingerprint, prompt.sha256, sampling.max_new_tokens, drawn, stage_version)


def pair_key(fields: Mapping[str, str], prompt: Prompt) -> str:
    """Returns the content key of a pair: only fields that the prompt shows count."""
    return content_key({name: fields[name] for name in prompt.placeholders})[:24]


def ask(
    pairs: Iterable[Mapping[str, str]],
    *,
    prompt: Prompt,
    settings: JudgeSettings,
    key: str,
    work: str | Path,
    writer: str,
    open_judge: Callable[[], Backend],
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    check_stop: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Judgement], int]:
    """Asks the judge about every pair that has no durable answer yet.

    Args:
        pairs: Fields of each pair; equal pairs are asked about once.
        prompt, settings: What is asked and how.
        key: From `judge_key`.
        work: Folder of durable answers, shared by all runs of all systems.
        writer: Name of this job's file in it.
        open_judge: Opens the backend; called only if an answer is missing.
        progress: Wraps the list of batches.
        check_stop: Called between batches with what is done and what there is; may raise.

    Returns:
        Judgements by id (`<pair key>-<repeat>`), failed ones among them, and how many answers were computed.

    Raises:
        BackendError: More requests stay without answer than `failed_replies`; what was answered is kept.
    """
    wanted: dict[str, Mapping[str, str]] = {}
    for fields in pairs:
        wanted.setdefault(pair_key(fields, prompt), fields)
    names = [f"{name}-{repeat}" for name in sorted(wanted) for repeat in range(1, settings.repeats + 1)]
    folder = Path(work) / key[:16]
    failed: dict[str, Judgement] = {}
    with lease(folder / "judge.lock"), Journal(folder, writer) as journal:
        missing = [name for name in names if name not in journal]
        if missing:
            with closing(open_judge()) as judge:
                for start in progress(range(0, len(missing), settings.batch_size)):
                    check_stop(len(names) - len(missing) + start, len(names))
                    batch = missing[start : start + settings.batch_size]
                    asked = [_request(name, wanted, prompt, settings.sampling) for name in batch]
                    failed |= _keep(judge.generate(asked), journal)
                    _refuse_silence(failed, settings, len(names))
        answers = {name: Judgement(**journal.rows(name)[0]) for name in names if name in journal}
    return {**failed, **answers}, len(missing) - len(failed)


def _keep(replies: Sequence[Reply], journal: Journal) -> dict[str, Judgement]:
    """Makes answers durable; returns the requests that got none."""
    failed = {}
    for reply in replies:
        found = _judgement(reply)
        if reply.finish == "failed":
            failed[found.id] = found
        else:
            journal.append(found.id, [found])
    return failed


def _request(name: str, wanted: Mapping[str, Mapping[str, str]], prompt: Prompt, sampling: Sampling) -> Request:
    messages = prompt.messages(wanted[name.rpartition("-")[0]])
    seed = int(content_key(sampling.seed, name)[:15], 16) if sampling.temperature > 0 else 0
    return Request(name, messages, replace(sampling, seed=seed % 2**31))


def _judgement(reply: Reply) -> Judgement:
    text = reply.text.encode("utf-8", "replace").decode("utf-8")  # JSON may smuggle in half a surrogate pair
    return Judgement(reply.id, text, reply.finish, reply.prompt_tokens, reply.new_tokens, reply.near_ties, reply.reason)


def _refuse_silence(failed: Mapping[str, Judgement], settings: JudgeSettings, total: int) -> None:
    if len(failed) <= settings.failed_replies:
        return
    first = next(iter(failed.values()))
    raise BackendError(
        f"the judge did not answer {len(failed)} of {total} requests: {first.reason}",
        item=first.id,
        mend="see that it runs and start again: answers that came are kept; or tolerate it with failed_replies",
    )
