"""HOI-QA's test split in its genuine layout, one sample per question, grouped by picture."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.types import Sample, is_slug
from sightline.systems.hoiref.annotations import (
    TEST_FILES,
    Interaction,
    Referral,
    read_interactions,
    read_referrals,
    video_of,
)
from sightline.systems.hoiref.boxes import parse_boxes
from sightline.systems.hoiref.questions import HoiQaQuirks, identify_question, refer_question, strip_tags
from sightline.systems.hoiref.records import FRAME_SIZES, HOI, IDEN, REF, VISOR, Question

__all__ = [
    "Dropped",
    "HoiQaQuirks",
    "Question",
    "SampleSet",
    "build_samples",
    "interaction_question",
    "read_test_split",
    "referral_questions",
    "sample_id",
]


@dataclass(frozen=True)
class Dropped:
    """A record that gives no sample, or one that cannot be scored, and why.

    Attributes:
        part: `epic`, `ego4d` or `visor`.
        item: Key of the record.
        reason: What the report says.
    """

    part: str
    item: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class SampleSet:
    """Samples of a split, and what was left out on the way."""

    samples: list[Sample]
    dropped: list[Dropped]


TestSplit = Mapping[str, Sequence[Referral] | Sequence[Interaction]]
"""Part -> its records."""


def read_test_split(folder: str | Path) -> dict[str, list[Any]]:
    """Reads the test files of a folder; any of the three may be absent.

    Raises:
        InputError: None is there, or one is malformed.
    """
    folder = Path(folder)
    found: dict[str, list[Any]] = {}
    for part, name in TEST_FILES.items():
        if (folder / name).exists():
            found[part] = read_interactions(folder / name) if part == VISOR else read_referrals(folder / name)
    if not found:
        raise InputError("no test file of HOI-QA here", file=folder, mend=f"put {', '.join(TEST_FILES.values())} there")
    return found


def sample_id(part: str, key: str, task: str) -> str:
    """Returns a slug `<part>-<key>-<task>`; a key that is none keeps its readable part and gets a digest."""
    plain = f"{part}-{key}-{task}"
    if is_slug(plain):
        return plain
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return f"{part}-{re.sub(r'[^A-Za-z0-9._-]+', '_', key)[:120]}-{digest}-{task}"


def referral_questions(record: Referral, part: str, quirks: HoiQaQuirks | None = None) -> tuple[Question, Question]:
    """Returns the two questions of a referral record: where it is, and what is in its box."""
    size = FRAME_SIZES[part]
    asked = Question(
        part=part,
        task=REF,
        key=record.key,
        image=record.image,
        question=refer_question(record.noun, quirks),
        noun=record.noun,
        boxes=[record.box],
        width=size[0],
        height=size[1],
    )
    return asked, replace(asked, task=IDEN, question=identify_question(record.box, size, quirks))


def interaction_question(record: Interaction, quirks: HoiQaQuirks | None = None) -> Question:
    """Returns the question of an interaction record; a record that cannot be scored says why in `problem`."""
    quirks = quirks or HoiQaQuirks()
    width, height = FRAME_SIZES[VISOR]
    text = record.answer if isinstance(record.answer, str) else ""
    boxes = [record.answer] if isinstance(record.answer, list) else []
    problem = ""
    if "[refer]" in record.question and text:
        boxes = parse_boxes(text)
        if len(boxes) != 2:
            problem = f"the answer is text with {len(boxes)} boxes; text must hold two"
    elif "[refer]" not in record.question and "[vqa]" not in record.question:
        problem = "the question has neither [refer] nor [vqa]"
    elif "[refer]" not in record.question and not text:
        problem = "the answer to a [vqa] question is no text"
    return Question(
        part=VISOR,
        task=HOI,
        key=record.key,
        image=record.image,
        question=strip_tags(record.question) if quirks.strip_tags else record.question,
        tagged=record.question,
        boxes=boxes,
        answer=text,
        width=width,
        height=height,
        problem=problem,
    )


def build_samples(
    split: TestSplit, *, seconds_per_question: float = 1.0, quirks: HoiQaQuirks | None = None
) -> SampleSet:
    """Turns the records of a test split into samples, in the order of the files.

    A sample's group is its picture, which is decoded and encoded once for all its questions, and its cluster
    the video.

    Args:
        split: What `read_test_split` returned.
        seconds_per_question: Estimated model time; gives the samples' cost.
        quirks: Switches; the defaults when None.

    Returns:
        The samples; and a row for each doubled id (the first counts, as in the original) and for each question
        that cannot be scored.
    """
    samples: list[Sample] = []
    dropped: list[Dropped] = []
    for part, records in split.items():
        seen: set[str] = set()
        for record in records:
            if record.key in seen:
                dropped.append(Dropped(part, record.key, "the id is doubled; the first record counts"))
                continue
            seen.add(record.key)
            if isinstance(record, Referral):
                questions: Sequence[Question] = referral_questions(record, part, quirks)
            else:
                questions = [interaction_question(record, quirks)]
            for question in questions:
                if question.problem:
                    dropped.append(Dropped(part, record.key, f"kept, but not scored: {question.problem}"))
                elif question.task != IDEN and (odd := _odd_boxes(question)):
                    dropped.append(Dropped(part, record.key, f"kept, but {odd}"))
                samples.append(_sample(question, seconds_per_question))
    return SampleSet(samples, dropped)


def _odd_boxes(question: Question) -> str:
    """Says what is odd about the true boxes, or nothing."""
    if any(x1 >= x2 or y1 >= y2 for x1, y1, x2, y2 in question.boxes):
        return "a true box is reversed or empty"
    width, height = question.size
    if any(x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0 for x1, y1, x2, y2 in question.boxes):
        return f"a true box lies outside {width}x{height}"
    return ""


def _sample(question: Question, seconds: float) -> Sample:
    sample = Sample(
        id=sample_id(question.part, question.key, question.task),
        group=question.image,
        cluster=video_of(question.image),
        media=[question.image],
        cost=seconds,
        payload=question.to_json(),
    )
    sample.check()
    return sample
