"""The embedded demo of HOI-Ref: drawn frames with annotations in HOI-QA's layout, small weights, as one archive."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sightline.assets.packing import pack_parts
from sightline.errors import VideoError
from sightline.records.files import to_json, write_text
from sightline.systems.hoiref.annotations import EPIC_FRAMES, TEST_FILES, TRAIN_FILES
from sightline.systems.hoiref.boxes import parse_boxes, spell_box
from sightline.systems.hoiref.builder import Scene, conversations_of, interaction_rows, referral_rows
from sightline.systems.hoiref.demo_scenes import DrawnVideo, draw_video, paint
from sightline.systems.hoiref.questions import HoiQaQuirks, identify_question, refer_question, strip_tags
from sightline.systems.hoiref.records import EGO4D, EPIC, PARTS, VISOR

ARCHIVE_NAME = "hoiref_demo.tar"
ANNOTATIONS = "hoiqa_dataset"
FOLDERS = {EPIC: EPIC_FRAMES, VISOR: EPIC_FRAMES, EGO4D: "Ego4D/v2/frames"}
_QUALITY = 95
_TAGGED = ("[grounding]", "[detection]", "[identify]")


@dataclass(frozen=True)
class Sizes:
    """How much is drawn.

    Attributes:
        train_videos: Videos of the training split, of which every third is Ego4D's.
        train_frames: Frames of each.
        test_videos: Videos of each of the three test parts.
        test_frames: Frames of each.
    """

    train_videos: int = 60
    train_frames: int = 20
    test_videos: int = 12
    test_frames: int = 2


def draw_splits(seed: int, sizes: Sizes) -> tuple[list[DrawnVideo], list[DrawnVideo]]:
    """Makes up the videos of training and test; equal arguments, equal scenes."""
    generator = np.random.default_rng(seed)
    train, test = [], []
    for number in range(sizes.train_videos):
        part = EGO4D if number % 3 == 2 else EPIC
        train.append(draw_video(part, _name(part, number), FOLDERS[part], sizes.train_frames, generator))
    for place, part in enumerate(PARTS):
        for number in range(sizes.test_videos):
            name = _name(part, sizes.train_videos + place * sizes.test_videos + number)
            test.append(draw_video(part, name, FOLDERS[part], sizes.test_frames, generator))
    return train, test


def _name(part: str, number: int) -> str:
    if part == EGO4D:
        return f"{number:08x}-0000-4000-8000-{number:012x}"
    return f"P{number // 4 + 1:02d}_{number % 4 + 1:02d}"


def write_demo_dataset(root: str | Path, *, seed: int, sizes: Sizes) -> None:
    """Writes frames and annotations in the released layout; equal arguments, equal dataset.

    Args:
        root: Gets `hoiqa_dataset`, `EPIC_Kitchens/frames` and `Ego4D/v2/frames`.
        seed: Decides everything.
        sizes: How much.
    """
    root = Path(root)
    train, test = draw_splits(seed, sizes)
    for number, video in enumerate([*train, *test]):
        painted = np.random.default_rng([seed, number])
        for scene in video.scenes:
            path = root / scene.image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_jpeg(paint(scene, video.part, video.table, painted)))  # a thousand fsyncs take long
    folder = root / ANNOTATIONS
    for part, name in TRAIN_FILES.items():
        scenes = [scene for video in train if video.part == part for scene in video.scenes]
        write_text(folder / name, to_json(training_rows(scenes, part)))
    for part, name in TEST_FILES.items():
        scenes = [scene for video in test if video.part == part for scene in video.scenes]
        write_text(folder / name, to_json(interaction_rows(scenes) if part == VISOR else referral_rows(scenes)))


def training_rows(scenes: Sequence[Scene], part: str) -> list[dict[str, Any]]:
    """Returns the rows of a training file, one question each, in the layout of `epic` or `ego4d`.

    Beside what `conversations_of` asks with a tag, they hold the test's own forms, which have none: so few
    pictures do not teach a small model that both mean the same.
    """
    rows: list[dict[str, Any]] = []
    for scene in scenes:
        shown = (
            {"image": "/".join(scene.image.rsplit("/", 2)[-2:]).rpartition(".")[0]}
            if part == EPIC
            else {"image_path": scene.image}
        )
        for asked, said in _pairs(scene):
            turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": said}]
            rows.append({"id": f"{part}_{len(rows):06d}", **shown, "conversations": turns})
    return rows


def _pairs(scene: Scene) -> Iterator[tuple[str, str]]:
    for entity in scene.entities:
        box = spell_box(entity.box, scene.size)
        yield refer_question(entity.name), box
        yield identify_question(entity.box, scene.size), entity.name
    for row in interaction_rows([scene]):
        answer = row["answer"]
        if isinstance(answer, list):
            answer = spell_box(answer, scene.size)
        elif boxes := parse_boxes(answer):
            answer = "<delim>".join(spell_box(box, scene.size) for box in boxes)
        yield strip_tags(row["question"]), answer
    quirks = HoiQaQuirks()
    yield from (pair for pair in conversations_of(scene, quirks) if pair[0].startswith(_TAGGED))


def _jpeg(picture: np.ndarray) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise VideoError("a frame could not be written as JPEG")
    return data.tobytes()


def write_demo_archive(
    folder: str | Path, *, seed: int, sizes: Sizes, tower_steps: int, part_bytes: int
) -> list[dict[str, Any]]:
    """Writes dataset and weights as one plain tar in parts, as large releases are published.

    Args:
        folder: Gets the parts and `parts.json`; older parts there are replaced.
        seed: Decides everything.
        sizes: How much is drawn.
        tower_steps: Steps the tower is trained for on the cells of the training frames.
        part_bytes: Size of every part but the last.

    Returns:
        Name, size in bytes and sha256 of each part, in order.
    """
    from sightline.systems.hoiref.demo_weights import write_demo_weights

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target) as scratch:
        write_demo_dataset(scratch, seed=seed, sizes=sizes)
        write_demo_weights(scratch, draw_splits(seed, sizes)[0], seed=seed, tower_steps=tower_steps)
        return pack_parts(scratch, target, ARCHIVE_NAME, part_bytes)
