"""Token rows of VLM4HOI: prompts around a picture, training conversations with their targets, and answers back.

Each piece of text around the picture is encoded on its own, as the original does, so that Llama's tokenizer puts
its leading space before each. At test time two BOS stand in front, in training one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.errors import CheckpointError, InputError
from sightline.llm.tokens import TextTokenizer
from sightline.systems.hoiref.model.vlm4hoi import IMAGE_TOKEN
from sightline.systems.hoiref.questions import (
    BOS,
    CONNECT,
    EOS,
    PAD,
    TRAIN_TEMPLATE,
    Conversation,
    evaluation_prompt,
    prompt_segments,
)

IGNORED = -100
UNK = "<unk>"


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that are no text.

    Attributes:
        bos, eos: Begin and end of a turn.
        pad: Fills rows up; masked everywhere.
        dropped: Ids that never show in an answer.
    """

    bos: int
    eos: int
    pad: int
    dropped: frozenset[int]


def marks_of(tokenizer: TextTokenizer) -> Marks:
    """Returns the special ids of a tokenizer; without a token `$$` the unknown token fills rows up.

    Raises:
        CheckpointError: It has no BOS, EOS or unknown token.
    """
    bos, eos, unknown = (tokenizer.token_id(token) for token in (BOS, EOS, UNK))
    try:
        pad = tokenizer.token_id(PAD)
    except CheckpointError:
        pad = unknown
    return Marks(bos, eos, pad, frozenset((bos, eos, unknown, pad)))


def segment_ids(tokenizer: TextTokenizer, prompt: str, *, bos: bool = True) -> tuple[list[int], list[int]]:
    """Returns the ids before and behind the picture; the tokenizer's own BOS stands before the first alone."""
    before, after = prompt_segments(prompt)
    return tokenizer.encode(before, bos=bos), tokenizer.encode(after, bos=False)


def question_ids(tokenizer: TextTokenizer, question: str, image_tokens: int) -> tuple[list[int], list[int]]:
    """Returns (what all questions about a picture begin with, what is this question's own) at test time."""
    before, after = segment_ids(tokenizer, evaluation_prompt(question))
    return [*before, *[IMAGE_TOKEN] * image_tokens], after


def answer_text(tokenizer: TextTokenizer, marks: Marks, ids: Sequence[int]) -> str:
    """Returns what an answer says: special tokens dropped, cut as the original cuts it, stripped."""
    text = tokenizer.decode([number for number in ids if number not in marks.dropped])
    return text.split(EOS)[0].replace(BOS, "").split("[/INST]")[-1].strip()


@dataclass(frozen=True)
class Turns:
    """A training conversation as ids.

    Attributes:
        prompt: The first question with the picture's places.
        answer: Answers, and the later questions between them.
        targets: The same, `IGNORED` where nothing is learnt.
    """

    prompt: list[int]
    answer: list[int]
    targets: list[int]


@dataclass(frozen=True)
class RowLimits:
    """Longest parts of a row.

    Attributes:
        answer: Most tokens of answers and later questions.
        prompt: Most tokens of the first question, the picture's among them.
    """

    answer: int = 1024
    prompt: int = 3800


def turn_ids(tokenizer: TextTokenizer, talk: Conversation, image_tokens: int, limits: RowLimits | None = None) -> Turns:
    """Returns the ids of a conversation.

    Where the cut at so many characters left fewer questions than answers, the answers between the last question
    but one and the last answer vanish, as in the original.

    Raises:
        InputError: There are more questions than answers; the original stops with an IndexError.
    """
    limits = limits or RowLimits()
    questions, answers = talk.questions.split(CONNECT), talk.answers.split(CONNECT)
    if len(questions) - 1 > len(answers):
        raise InputError(
            f"{len(questions)} questions but {len(answers)} answers",
            item=str(talk.image_id), field="conversations", mend="use long_turns: turns, or a higher max_characters",
        )  # fmt: skip
    before, after = segment_ids(tokenizer, TRAIN_TEMPLATE.format(questions[0]), bos=False)
    prompt = [*before, *[IMAGE_TOKEN] * image_tokens, *after]
    answer: list[int] = []
    targets: list[int] = []
    for said, asked in zip(answers, questions[1:], strict=False):
        spoken = tokenizer.encode(said + EOS, bos=False)
        following = tokenizer.encode(TRAIN_TEMPLATE.format(asked), bos=True)
        answer += spoken + following
        targets += spoken + [IGNORED] * len(following)
    last = tokenizer.encode(answers[-1] + EOS, bos=False)
    return Turns(prompt[: limits.prompt], (answer + last)[: limits.answer], (targets + last)[: limits.answer])


def collate_turns(rows: Sequence[Turns], marks: Marks) -> dict[str, Tensor]:
    """Returns a batch: BOS, prompt, answer, then padding.

    Returns:
        `ids`, `mask` and `labels`, int64 [B, N]. The answer is filled up before the prompt is, as in the
        original; padding is masked, so that it decides nothing.
    """
    longest = max(len(row.answer) for row in rows)
    width = 1 + longest + max(len(row.prompt) for row in rows)
    ids = torch.full((len(rows), width), marks.pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for number, row in enumerate(rows):
        start = 1 + len(row.prompt)
        stop = start + len(row.answer)
        ids[number, :stop] = torch.tensor([marks.bos, *row.prompt, *row.answer])
        mask[number, :stop] = 1
        labels[number, start:stop] = torch.tensor(row.targets)
    return {"ids": ids, "mask": mask, "labels": labels}
