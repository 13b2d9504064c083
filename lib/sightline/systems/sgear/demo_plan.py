"""What happens in the demo's videos, and the annotation files that say so, in the layout of EPIC-Kitchens-100.

The next action depends on the last two: its verb on the last verb and on the noun before it, its noun on the last
noun and on the verb before it. One time in ten it is drawn instead. A table of what follows an action can
therefore not keep up with a model that looks back further.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.errors import InputError
from sightline.records.files import write_text
from sightline.systems.sgear.classes import CLASS_FILES, SUBSET_FILES
from sightline.systems.sgear.windows import FEATURE_FPS

VERBS = ("take", "put", "wash", "open", "cut", "stir", "pour-in")
NOUNS = ("knife", "pan", "board:chopping", "tomato", "cupboard", "oil:olive:bottle")
DRAWN = 0.1
"""Share of actions that do not follow from what came before."""
_SHORTEST_S, _LONGEST_S, _LONGEST_GAP_S = 1.7, 2.7, 0.25
_TAIL_SHARE = 0.2
_HEADER = (
    "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp",
    "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns",
    "all_noun_classes",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How large the demo is.

    Attributes:
        verbs, nouns: Classes of each; every pair is an action.
        train_videos, validation_videos, test_videos: Videos of each split.
        actions: Actions in a video.
    """

    verbs: int = 6
    nouns: int = 5
    train_videos: int = 96
    validation_videos: int = 24
    test_videos: int = 4
    actions: int = 60

    def check(self) -> None:
        """Refuses sizes that make no dataset.

        Raises:
            InputError: As said.
        """
        if not (2 <= self.verbs <= len(VERBS) and 2 <= self.nouns <= len(NOUNS)):
            raise InputError(
                f"{self.verbs} verbs and {self.nouns} nouns", field="verbs",
                mend=f"ask for 2 to {len(VERBS)} verbs and 2 to {len(NOUNS)} nouns",
            )  # fmt: skip
        if min(self.train_videos, self.validation_videos, self.test_videos) < 1 or self.actions < 4:
            raise InputError(
                "too few videos or actions", field="actions", mend="ask for 1 video and 4 actions at least"
            )


@dataclass(frozen=True)
class DemoAction:
    """One action: hundredths of seconds in its video, and its classes."""

    start_cs: int
    stop_cs: int
    verb: int
    noun: int


@dataclass(frozen=True)
class DemoVideo:
    """One video of a split (`train`, `validation`, `test`)."""

    split: str
    participant: str
    name: str
    actions: tuple[DemoAction, ...]

    @property
    def seconds(self) -> float:
        """Length, a moment after the last action."""
        return self.actions[-1].stop_cs / 100 + 1.0


def plan_videos(seed: int, sizes: Sizes) -> list[DemoVideo]:
    """Draws what happens; equal arguments, equal plan.

    Two thirds of the validation videos are of participants seen in training, the others of new ones.

    Raises:
        InputError: The sizes make no dataset.
    """
    sizes.check()
    generator = np.random.default_rng(seed)
    next_verb = np.stack([generator.permutation(max(sizes.verbs, sizes.nouns)) for _ in range(sizes.verbs)])
    next_noun = np.stack([generator.permutation(max(sizes.verbs, sizes.nouns)) for _ in range(sizes.nouns)])
    tables = next_verb % sizes.verbs, next_noun % sizes.nouns
    seen = max(1, sizes.train_videos // 12)
    videos, counts = [], Counter[str]()
    plan = (("train", sizes.train_videos), ("validation", sizes.validation_videos), ("test", sizes.test_videos))
    for split, count in plan:
        for number in range(count):
            new = split != "train" and number % 3 == 2
            participant = f"P{(seen + 1 + number // 3 % 4) if new else (1 + number % seen):02d}"
            counts[participant] += 1
            name = f"{participant}_{100 + counts[participant]}"
            videos.append(DemoVideo(split, participant, name, _actions(generator, tables, sizes)))
    return videos


def _actions(
    generator: np.random.Generator, tables: tuple[np.ndarray, np.ndarray], sizes: Sizes
) -> tuple[DemoAction, ...]:
    next_verb, next_noun = tables
    found: list[DemoAction] = []
    clock = 0.5
    for number in range(sizes.actions):
        verb, noun = int(generator.integers(sizes.verbs)), int(generator.integers(sizes.nouns))
        if number >= 2 and generator.random() >= DRAWN:
            last, before = found[-1], found[-2]
            verb = int(next_verb[last.verb, before.noun])
            noun = int(next_noun[last.noun, before.verb])
        start = clock + generator.uniform(0, _LONGEST_GAP_S)
        clock = start + generator.uniform(_SHORTEST_S, _LONGEST_S)
        found.append(DemoAction(round(100 * start), round(100 * clock), verb, noun))
    return tuple(found)


def action_of(action: DemoAction, sizes: Sizes) -> int:
    """Returns the class of an action: every pair is one, counted verb by verb."""
    return action.verb * sizes.nouns + action.noun


def write_annotations(folder: str | Path, videos: Sequence[DemoVideo], sizes: Sizes) -> None:
    """Writes EPIC's annotations, RULSTM's csv files and the evaluation lists into one folder."""
    target = Path(folder)
    verbs, nouns = VERBS[: sizes.verbs], NOUNS[: sizes.nouns]
    for name, keys in zip(CLASS_FILES["ek100"], (verbs, nouns), strict=True):
        _write(
            target / name, [("id", "key", "instances", "category"), *((n, k, [k], "demo") for n, k in enumerate(keys))]
        )
    pairs = [(verb, noun) for verb in range(sizes.verbs) for noun in range(sizes.nouns)]
    table = [(number, v, n, f"{verbs[v]} {nouns[n]}") for number, (v, n) in enumerate(pairs)]
    _write(target / "actions.csv", [("id", "verb", "noun", "action"), *table])
    for split in ("train", "validation"):
        rows = [row for video in videos if video.split == split for row in _rows(video, verbs, nouns)]
        _write(target / f"EPIC_100_{split}.csv", [_HEADER, *rows])
    tests = [row[:8] for video in videos if video.split == "test" for row in _rows(video, verbs, nouns)]
    _write(target / "EPIC_100_test_timestamps.csv", [_HEADER[:8], *tests])
    for split, name in (("train", "training.csv"), ("validation", "validation.csv")):
        _write(target / name, _rulstm_rows([video for video in videos if video.split == split], sizes))
    _write_lists(target, videos, sizes)


def _write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _stamp(hundredths: int) -> str:
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 100:02d}.{rest % 100:02d}"


def _rows(video: DemoVideo, verbs: Sequence[str], nouns: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (
            f"{video.name}_{number}", video.participant, video.name, _stamp(action.start_cs), _stamp(action.start_cs),
            _stamp(action.stop_cs), *(round(cs / 100 * FEATURE_FPS) for cs in (action.start_cs, action.stop_cs)),
            f"{verbs[action.verb]} {nouns[action.noun].split(':')[0]}", verbs[action.verb], action.verb,
            nouns[action.noun], action.noun, [nouns[action.noun]], [action.noun],
        )
        for number, action in enumerate(video.actions)
    ]  # fmt: skip


def _rulstm_rows(videos: Sequence[DemoVideo], sizes: Sizes) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for video in videos:
        for action in video.actions:
            frames = (round(cs / 100 * FEATURE_FPS) for cs in (action.start_cs, action.stop_cs))
            rows.append((len(rows), video.name, *frames, action.verb, action.noun, action_of(action, sizes)))
    return rows


def _write_lists(target: Path, videos: Sequence[DemoVideo], sizes: Sizes) -> None:
    """Writes the lists of unseen participants and of tail classes, those that make the rarest fifth of training."""
    trained = [action for video in videos if video.split == "train" for action in video.actions]
    known = {video.participant for video in videos if video.split == "train"}
    kinds = {
        "tail_verb": lambda action: action.verb,
        "tail_noun": lambda action: action.noun,
        "tail_action": lambda action: action_of(action, sizes),
    }
    sizes_of = {"tail_verb": sizes.verbs, "tail_noun": sizes.nouns, "tail_action": sizes.verbs * sizes.nouns}
    tails = {name: _tail([kind(action) for action in trained], sizes_of[name]) for name, kind in kinds.items()}
    found: dict[str, list[str]] = {name: [] for name in SUBSET_FILES}
    for video in videos:
        if video.split != "validation":
            continue
        for number, action in enumerate(video.actions):
            names = [name for name, kind in kinds.items() if kind(action) in tails[name]]
            names += [] if video.participant in known else ["unseen"]
            for name in names:
                found[name].append(f"{video.name}_{number}")
    for name, ids in found.items():
        write_text(target / SUBSET_FILES[name], "".join(f"{identifier}\n" for identifier in ids))


def _tail(labels: Sequence[int], classes: int) -> set[int]:
    counts = Counter(labels)
    tail: set[int] = set()
    left = _TAIL_SHARE * len(labels)
    for label in sorted(range(classes), key=lambda one: (counts[one], one)):
        left -= counts[label]
        if left < 0 and tail:
            break
        tail.add(label)
    return tail
