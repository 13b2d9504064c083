"""HOI-QA from VISOR-style annotations: which hands and objects are where, and who holds what.

One picture's entities are read from VISOR's sparse JSON (`video_annotations`), or given as `Scene`. The question
types are the eight of the paper (arXiv 2404.09933, figure of the dataset).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json
from sightline.systems.hoiref.questions import HoiQaQuirks, identify_question

HANDS = ("left hand", "right hand")
NO_CONTACT = ("hand-not-in-contact", "inconclusive", "none-of-the-above", None)
"""Values of VISOR's `in_contact_object` that name no object."""


@dataclass(frozen=True)
class Entity:
    """A hand or an object in a picture.

    Attributes:
        name: `left hand`, `right hand` or an object's name, in lower case.
        box: xyxy in pixels.
        holds: Place of the object a hand touches in the scene's list, or None.
    """

    name: str
    box: list[float]
    holds: int | None = None

    @property
    def is_hand(self) -> bool:
        """Whether it is one of the two hands."""
        return self.name in HANDS


@dataclass(frozen=True)
class Scene:
    """One annotated picture.

    Attributes:
        image: Path below the frame roots, with its ending.
        size: Width and height the boxes are in.
        entities: Hands and objects.
        narration: What happens, or empty.
    """

    image: str
    size: tuple[int, int]
    entities: list[Entity] = field(default_factory=list)
    narration: str = ""


def read_visor(
    path: str | Path,
    *,
    size: tuple[int, int] = (1920, 1080),
    frames: str = "EPIC_Kitchens/frames",
    narrations: Mapping[str, str] | None = None,
) -> list[Scene]:
    """Reads a VISOR annotation file (`video_annotations`: one entry per picture, polygons under `segments`).

    Args:
        path: The JSON file.
        size: Width and height of the annotation's pixels.
        frames: Folder put in front of `<video>/<frame>`.
        narrations: Picture name -> what happens.

    Raises:
        InputError: The file is no such file, or a picture, name or polygon is malformed.
    """
    table = read_json(path)
    rows = table.get("video_annotations") if isinstance(table, dict) else None
    if not isinstance(rows, list):
        raise InputError("no list video_annotations", file=path, mend="give a sparse annotation file of VISOR")
    scenes = []
    for number, row in enumerate(rows):
        where: dict[str, Any] = {"file": path, "item": f"picture {number}"}
        picture = row.get("image") if isinstance(row, dict) else None
        if not isinstance(picture, dict) or not isinstance(picture.get("name"), str):
            raise InputError("the picture has no name", field="image.name", mend="correct the file", **where)
        where["item"] = name = picture["name"]
        video = picture.get("video") or name.rpartition("_frame_")[0]
        shown = f"{frames}/{video}/{name[name.find('frame_') :] if 'frame_' in name else name}"
        entities = _entities(row.get("annotations"), where)
        scenes.append(Scene(shown, size, entities, (narrations or {}).get(name, "")))
    return scenes


def _entities(rows: Any, where: Mapping[str, Any]) -> list[Entity]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("annotations are no list of objects", field="annotations", mend="correct the file", **where)
    usable = [row for row in rows if row.get("segments")]
    places = {row.get("id"): place for place, row in enumerate(usable)}
    found = []
    for row in usable:
        name = row.get("name")
        if not isinstance(name, str) or not name:
            raise InputError("an entity has no name", field="annotations.name", mend="correct the file", **where)
        held = row.get("in_contact_object")
        place = None if held in NO_CONTACT else places.get(held)
        found.append(Entity(name.lower(), _box_of(row["segments"], where), place))
    return found


def _box_of(segments: Any, where: Mapping[str, Any]) -> list[float]:
    """Returns the box around an entity's polygons."""
    try:
        points = [(float(x), float(y)) for polygon in segments for x, y in polygon]
    except (TypeError, ValueError):
        points = []
    if not points:
        raise InputError("a polygon is malformed", field="annotations.segments", mend="correct the file", **where)
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def _spelled(entity: Entity, scene: Scene, quirks: HoiQaQuirks) -> str:
    return identify_question(entity.box, scene.size, quirks)


def conversations_of(scene: Scene, quirks: HoiQaQuirks | None = None) -> list[tuple[str, str]]:
    """Returns the questions and answers a picture gives, tags in front, in the order of the entities.

    Args:
        scene: The picture.
        quirks: Says how boxes are rounded; by default as the original's question builder does.
    """
    quirks = quirks or HoiQaQuirks()
    pairs: list[tuple[str, str]] = []
    if scene.narration:
        pairs.append(("[vqa] What is happening in the photo?", scene.narration))
    for entity in scene.entities:
        box = _spelled(entity, scene, quirks)
        called = f"{entity.name.capitalize()} of the person" if entity.is_hand else entity.name
        pairs.append((f"[identify] {box}", called))
        asked = f"{entity.name} of the person" if entity.is_hand else entity.name
        pairs.append((f"[refer] Where is the {asked}?", box))
        pairs.append((f"[detection] {asked}", f"<p>{asked}</p> {box}"))
        held = scene.entities[entity.holds] if entity.holds is not None else None
        if entity.is_hand and held is not None and not held.is_hand:
            pairs += _contact(entity, held, _spelled(held, scene, quirks))
        elif entity.is_hand:
            pairs.append((f"[vqa] Is the {entity.name} holding or touching an object?", f"The {entity.name} is free."))
    hands = [entity for entity in scene.entities if entity.is_hand]
    if len(hands) == len(HANDS):
        both = "<delim>".join(_spelled(hand, scene, quirks) for hand in sorted(hands, key=lambda hand: hand.name))
        pairs.append(("[refer] Where are the hands of the person?", both))
    return pairs


def _contact(hand: Entity, held: Entity, box: str) -> list[tuple[str, str]]:
    return [
        (f"[refer] Where is the object being manipulated by the {hand.name}?", box),
        (f"[vqa] What is the person holding in their {hand.name}?", held.name),
        (
            f"[vqa] Is the {hand.name} holding or touching an object?",
            f"The object in the {hand.name} is a {held.name}.",
        ),
        (
            "[grounding] Describe the ongoing action in this image.",
            f"The person holds the <p>{held.name}</p> {box} in the {hand.name}.",
        ),
    ]


def training_rows(scenes: Sequence[Scene], *, layout: str, quirks: HoiQaQuirks | None = None) -> list[dict[str, Any]]:
    """Returns the rows of a training file, one question each, in the layout of `epic` or `ego4d`."""
    rows: list[dict[str, Any]] = []
    for scene in scenes:
        for asked, said in conversations_of(scene, quirks):
            turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": said}]
            shown = (
                {"image": "/".join(scene.image.rsplit("/", 2)[-2:]).rpartition(".")[0]}
                if layout == "epic"
                else {"image_path": scene.image}
            )
            rows.append({"id": f"qa_{len(rows):06d}", **shown, "conversations": turns})
    return rows


def referral_rows(scenes: Sequence[Scene]) -> dict[str, dict[str, Any]]:
    """Returns the table of a referral test file: every entity with its noun and its box in pixels."""
    entries = [(scene, entity) for scene in scenes for entity in scene.entities]
    return {
        f"{scene.image.split('/')[-2] if '/' in scene.image else 'image'}_{number:05d}": {
            "image_path": scene.image,
            "noun": entity.name,
            "bbox": list(entity.box),
        }
        for number, (scene, entity) in enumerate(entries)
    }


def interaction_rows(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """Returns the rows of an interaction test file: hands, what they hold, and which hand has what."""
    rows: list[dict[str, Any]] = []

    def add(scene: Scene, question: str, answer: str | list[float]) -> None:
        row = {"id": f"hoi_{len(rows):06d}", "image_path": scene.image, "question": question, "answer": answer}
        rows.append(row)

    for scene in scenes:
        hands = sorted((entity for entity in scene.entities if entity.is_hand), key=lambda hand: hand.name)
        for hand in hands:
            add(scene, f"[refer] Where is the {hand.name} of the person?", list(hand.box))
        if len(hands) == len(HANDS):
            spelled = "<delim>".join("{" + "".join(f"<{value:g}>" for value in hand.box) + "}" for hand in hands)
            add(scene, "[refer] Where are the hands of the person?", spelled)
        for hand in hands:
            held = scene.entities[hand.holds] if hand.holds is not None else None
            if held is None or held.is_hand:
                continue
            add(scene, f"[refer] Locate the object being manipulated by the {hand.name} of the person", list(held.box))
            add(scene, f"[refer] Which hand has the {held.name}?", list(hand.box))
            add(scene, f"[vqa] What hand is holding the {held.name}?", hand.name)
            add(scene, f"[vqa] What is the object in the {hand.name} of the person?", held.name)
    return rows
