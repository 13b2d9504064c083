"""Preference pairs: which revisions are worth training on, and the file that others can load.

The filter of the paper is not published; these rules are ours, every one a setting, and every drop has a reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sightline.errors import ConfigError, InputError, StoreError
from sightline.records.files import from_json, to_json, whole_file, write_text
from sightline.records.types import PreferencePair

IDENTICAL, TOO_SHORT, BROKEN_TEXT = "identical", "too short", "broken text"
NO_ERROR, QUOTES_CRITIQUE, REPEATS = "no error found", "speaks of the critique", "repeats itself"
LENGTHS_DIFFER, WORSE, NEAR_DUPLICATE = "lengths differ", "revision worse by the model's own vote", "near-duplicate"
# In the order in which they are looked for: a pair is dropped for the first that holds.
REASONS = (
    BROKEN_TEXT, IDENTICAL, TOO_SHORT, NO_ERROR, QUOTES_CRITIQUE, REPEATS, LENGTHS_DIFFER, WORSE, NEAR_DUPLICATE,
)  # fmt: skip
_WORD = re.compile(r"\w+")
_ROW_GROUP = 1000
_JSON_COLUMN = "provenance"
_COLUMNS = ("id", "prompt", "chosen", "rejected", "video", "critique", _JSON_COLUMN)


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What a pair must be to be kept.

    Attributes:
        min_words: Fewest words of either answer.
        max_length_ratio: Longer answer over shorter one, in words.
        max_similarity: Questions about one video that share more of their words are near-duplicates (Jaccard).
        repeat_words: Length in words of what may not repeat.
        max_repeats: How often such a run of words may occur in one answer.
        min_vote: Least probability, by the model itself, that the revision is the better answer.
        no_error_phrases: A critique that holds one of these, in small letters, found nothing.
        critique_phrases: A revision that holds one of these speaks of the critique and not of the video.
    """

    min_words: int = 3
    max_length_ratio: float = 3.0
    max_similarity: float = 0.8
    repeat_words: int = 4
    max_repeats: int = 3
    min_vote: float = 0.5
    no_error_phrases: tuple[str, ...] = (
        "no error", "no mistake", "no inaccurac", "no inconsistenc", "no hallucination", "no omission", "no issue",
        "nothing to correct", "nothing is wrong", "answer is correct", "answer is accurate", "fully accurate",
    )  # fmt: skip
    critique_phrases: tuple[str, ...] = (
        "the critique", "the feedback", "initial answer", "original answer", "previous answer", "revised answer",
    )  # fmt: skip

    def __post_init__(self) -> None:
        bounds = {
            "min_words": self.min_words >= 0,
            "max_length_ratio": self.max_length_ratio >= 1,
            "max_similarity": 0 <= self.max_similarity <= 1,
            "repeat_words": self.repeat_words >= 1,
            "max_repeats": self.max_repeats >= 1,
            "min_vote": 0 <= self.min_vote <= 1,
        }
        problems = [f"{name} {getattr(self, name)} is out of range" for name, fits in bounds.items() if not fits]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair before the filter.

    Attributes:
        pair: Revision as chosen, first answer as rejected.
        vote: Probability, by the model itself, that the revision is better; None if it was not asked.
    """

    pair: PreferencePair
    vote: float | None = None


@dataclass
class Filtered:
    """What the filter left.

    Attributes:
        kept: Pairs to train on, sorted by id.
        dropped: Pair id to the reason it was dropped for.
    """

    kept: list[PreferencePair] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    def funnel(self) -> dict[str, int]:
        """Returns the number of candidates, of drops by reason in the filter's order, and of pairs kept."""
        counted = Counter(self.dropped.values())
        made = {"made": len(self.kept) + len(self.dropped)}
        return made | {reason: counted[reason] for reason in REASONS} | {"kept": len(self.kept)}


def words_of(text: str) -> list[str]:
    """Returns the words of a text in small letters."""
    return _WORD.findall(text.lower())


def similarity(first: str, second: str) -> float:
    """Returns the share of their distinct words that two texts have in common (Jaccard); 1 for two without words."""
    one, other = set(words_of(first)), set(words_of(second))
    return len(one & other) / len(one | other) if one | other else 1.0


def _most_repeated(words: Sequence[str], length: int) -> int:
    runs = Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))
    return max(runs.values(), default=0)


def _has_phrase(text: str, phrases: Iterable[str]) -> bool:
    plain = " ".join(text.lower().split())
    return any(phrase in plain for phrase in phrases)


def _is_broken(text: str) -> bool:
    return "\ufffd" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def drop_reason(candidate: Candidate, settings: FilterSettings | None = None) -> str | None:
    """Returns the first reason, in the order of `REASONS`, against a pair taken by itself; None if it may stay."""
    rules, pair = settings or FilterSettings(), candidate.pair
    answers = (pair.chosen, pair.rejected)
    words = [words_of(answer) for answer in answers]
    lengths = sorted(len(one) for one in words)
    tests: dict[str, Callable[[], bool]] = {
        BROKEN_TEXT: lambda: any(_is_broken(text) for text in (*answers, pair.prompt)),
        IDENTICAL: lambda: words[0] == words[1],
        TOO_SHORT: lambda: lengths[0] < rules.min_words,
        NO_ERROR: lambda: _has_phrase(pair.critique, rules.no_error_phrases),
        QUOTES_CRITIQUE: lambda: _has_phrase(pair.chosen, rules.critique_phrases),
        REPEATS: lambda: any(_most_repeated(one, rules.repeat_words) > rules.max_repeats for one in words),
        LENGTHS_DIFFER: lambda: lengths[1] > rules.max_length_ratio * lengths[0],
        WORSE: lambda: candidate.vote is not None and candidate.vote < rules.min_vote,
    }
    return next((reason for reason, holds in tests.items() if holds()), None)


def filter_pairs(candidates: Iterable[Candidate], settings: FilterSettings | None = None) -> Filtered:
    """Keeps the pairs worth training on; the result depends on the candidates alone, not on their order.

    Raises:
        InputError: Two candidates have one id.
    """
    rules, found = settings or FilterSettings(), Filtered()
    questions: dict[tuple[str, ...], list[str]] = {}
    ordered = sorted(candidates, key=lambda one: one.pair.id)
    for before, after in pairwise(ordered):
        if before.pair.id == after.pair.id:
            raise InputError("two pairs have one id", item=after.pair.id, mend="make the pairs again")
    for candidate in ordered:
        pair, reason = candidate.pair, drop_reason(candidate, rules)
        asked = questions.setdefault(tuple(pair.media), [])
        if reason is None and any(similarity(pair.prompt, other) > rules.max_similarity for other in asked):
            reason = NEAR_DUPLICATE
        if reason is None:
            asked.append(pair.prompt)
            found.kept.append(pair)
        else:
            found.dropped[pair.id] = reason
    return found


# ------------------------------------------------------------------------------------------------- files
def _schema() -> Any:
    import pyarrow as pa

    kinds = {name: pa.string() for name in _COLUMNS} | {"video": pa.list_(pa.string())}
    return pa.schema([pa.field(name, kinds[name], nullable=False) for name in _COLUMNS])


def write_pairs(target: str | Path, pairs: Iterable[PreferencePair]) -> None:
    """Writes pairs as Parquet in the preference format of the Hugging Face libraries, sorted by id.

    Columns `prompt`, `chosen` and `rejected` are plain text, as `datasets` and preference trainers take them;
    `video` is a list of paths, `provenance` JSON text. Equal pairs give equal bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {**pair.to_json(), "video": pair.media, _JSON_COLUMN: to_json(pair.provenance)}
        for pair in sorted(pairs, key=lambda pair: pair.id)
    ]
    columns = {name: [row[name] for row in rows] for name in _COLUMNS}
    with whole_file(target) as temporary:
        table = pa.Table.from_pydict(columns, schema=_schema())
        pq.write_table(table, temporary, row_group_size=_ROW_GROUP, compression="zstd", version="2.6")


def read_pairs(path: str | Path) -> list[PreferencePair]:
    """Reads pairs written by `write_pairs`.

    Raises:
        StoreError: The file is missing, damaged, or has other columns.
        InputError: A pair is malformed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise StoreError("file not found", file=path, mend="run the stage that writes it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"not a readable Parquet file ({error})", file=path, mend="delete it and run again") from None
    if table.schema.names != list(_COLUMNS):
        raise StoreError("columns are not those of preference pairs", file=path, mend="delete it and run again")
    found = []
    for row in table.to_pylist():
        media, provenance = row.pop("video"), row.pop(_JSON_COLUMN)
        pair = {**row, "media": media, "provenance": from_json(provenance)}
        found.append(PreferencePair.from_json(pair, file=str(path)))
    return found


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a data set's card says beside its columns.

    Attributes:
        title: Heading.
        summary: One sentence: whose pairs, from which model and videos.
        licence: SPDX identifier of the texts, or `other`.
        provenance: Facts to list, e.g. model, weights, prompts, iteration.
        demo: The pairs are made by a demonstration model.
    """

    title: str
    summary: str
    licence: str
    provenance: Mapping[str, str]
    demo: bool = False


def dataset_card(facts: CardFacts, file_name: str, funnel: Mapping[str, int], settings: FilterSettings) -> str:
    """Returns the README of a folder of pairs: metadata that `datasets` reads, columns, origin, filter and counts."""
    head = ["license: " + facts.licence, "task_categories:", "- video-text-to-text", "tags:", "- preference", "- dpo"]
    head += ["configs:", "- config_name: default", "  data_files:", "  - split: train", f"    path: {file_name}"]
    lines = ["---", *head, "---", "", f"# {facts.title}", "", facts.summary, ""]
    if facts.demo:
        lines += ["The pairs are made by a demonstration model and show the format, not a quality.", ""]
    lines += ["The videos are not part of this data set; they keep their own terms.", "", "## Columns", ""]
    lines += ["| column | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {what} |" for name, what in _MEANINGS.items()]
    lines += ["", "## Origin", ""]
    lines += [f"- {name}: {value}" for name, value in facts.provenance.items()]
    lines += ["", "## Filter", "", "| step | pairs |", "|---|---|"]
    lines += [f"| {step} | {count} |" for step, count in funnel.items()]
    numbers = ("min_words", "max_length_ratio", "max_similarity", "repeat_words", "max_repeats", "min_vote")
    lines += ["", "Settings: " + ", ".join(f"`{name}` {getattr(settings, name):g}" for name in numbers) + ".", ""]
    return "\n".join(lines)


_MEANINGS = {
    "id": "unique name",
    "prompt": "the question",
    "chosen": "the answer revised after a critique",
    "rejected": "the first answer",
    "video": "paths of the videos asked about",
    "critique": "what the model found wrong with the first answer",
    _JSON_COLUMN: "where the pair comes from, as JSON",
}


def write_dataset(
    folder: str | Path,
    filtered: Filtered,
    facts: CardFacts,
    settings: FilterSettings,
    *,
    file_name: str = "pairs.parquet",
) -> None:
    """Writes a folder that `datasets.load_dataset` reads: the kept pairs, and a card with the counts."""
    folder = Path(folder)
    write_pairs(folder / file_name, filtered.kept)
    write_text(folder / "README.md", dataset_card(facts, file_name, filtered.funnel(), settings))
