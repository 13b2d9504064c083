"""Drawn scenes for the demo: two hands and a few objects on a table, near the cells of a 4x4 grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from sightline.systems.hoiref.builder import HANDS, Entity, Scene
from sightline.systems.hoiref.records import EGO4D, FRAME_SIZES

GRID = 4
_HALF = GRID // 2
OBJECTS = ("cup", "plate", "carrot", "chopping board")
"""Names of the objects; the last has two words, which the released evaluator can never count as right."""
FRAME_HEIGHT = 63
"""Pixels; frames of the EPIC parts are 112 wide, those of Ego4D 84, in the proportions of the annotations."""
_COLOURS = {
    "left hand": (214, 158, 128), "right hand": (214, 158, 128), "cup": (40, 90, 200), "plate": (245, 245, 240),
    "carrot": (235, 125, 30), "chopping board": (120, 70, 35),
}  # fmt: skip
_SLEEVES = {"left hand": (60, 110, 60), "right hand": (150, 45, 45)}
_TABLES = ((176, 164, 150), (150, 170, 176), (168, 178, 150), (182, 160, 168))
Shape = Callable[[np.ndarray, np.ndarray, tuple[int, int, int]], None]
_JITTER, _LEAST_SIDE, _MOST_SIDE = 0.025, 0.17, 0.23
_SUBPIXEL = 4


@dataclass(frozen=True)
class DrawnVideo:
    """A few frames that share a table, as frames of one video do.

    Attributes:
        part: `epic`, `ego4d` or `visor`.
        name: Of the video.
        table: Colour of the table.
        scenes: Its annotated frames.
    """

    part: str
    name: str
    table: tuple[int, int, int]
    scenes: list[Scene]


def draw_video(part: str, name: str, folder: str, frames: int, generator: np.random.Generator) -> DrawnVideo:
    """Makes up the frames of one video.

    Args:
        part: Decides the size that boxes are in.
        name: Of the video.
        folder: Folder of all videos of this part, as paths of the annotations have it.
        frames: Number of frames.
        generator: Decides everything.
    """
    numbers = np.sort(generator.choice(90000, size=frames, replace=False)) + 1
    scenes = [
        _scene(f"{folder}/{name}/frame_{number:010d}.jpg", FRAME_SIZES[part], generator) for number in numbers.tolist()
    ]
    return DrawnVideo(part, name, _TABLES[int(generator.integers(len(_TABLES)))], scenes)


def _scene(image: str, size: tuple[int, int], generator: np.random.Generator) -> Scene:
    """The left hand in the left half, the right one in the right; what a hand holds is in the cell above it.

    Of two cells beside each other in a half, one at most shows something: a token of the model sees both.
    """
    cells = [(int(generator.integers(1, GRID)), half * _HALF + int(generator.integers(_HALF))) for half in (0, 1)]
    names = generator.permutation(OBJECTS).tolist()
    entities = [Entity(name, _box(cell, size, generator)) for name, cell in zip(HANDS, cells, strict=True)]
    above = [(row - 1, column) for row, column in cells]
    taken = {(row, column // _HALF) for row, column in [*cells, *above]}
    for place in range(len(HANDS)):
        if generator.random() < 0.7:
            entities[place] = Entity(HANDS[place], entities[place].box, holds=len(entities))
            entities.append(Entity(names.pop(), _box(above[place], size, generator)))
    free = [(row, half) for row in range(GRID) for half in (0, 1) if (row, half) not in taken]
    for choice in generator.choice(len(free), size=int(generator.integers(1, 3)), replace=False).tolist():
        row, half = free[choice]
        cell = (row, half * _HALF + int(generator.integers(_HALF)))
        entities.append(Entity(names.pop(), _box(cell, size, generator)))
    return Scene(image, size, entities)


def _box(cell: tuple[int, int], size: tuple[int, int], generator: np.random.Generator) -> list[float]:
    """Returns a box near a cell (row, column), xyxy in whole pixels of `size`."""
    middle = (np.array(cell[::-1]) + 0.5) / GRID + generator.uniform(-_JITTER, _JITTER, 2)
    half = generator.uniform(_LEAST_SIDE, _MOST_SIDE, 2) / 2
    corners = np.clip(np.concatenate([middle - half, middle + half]), 0, 1) * np.tile(np.array(size), 2)
    return [float(value) for value in np.rint(corners)]


def cells_of(scene: Scene) -> list[int]:
    """Returns for each entity its cell of the grid, row by row."""
    middles = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (one.box for one in scene.entities)]
    width, height = scene.size
    return [int(y / height * GRID) * GRID + int(x / width * GRID) for x, y in middles]


def paint(scene: Scene, part: str, table: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    """Returns the picture of a scene, uint8 RGB [63, 112 or 84, 3]."""
    width = FRAME_HEIGHT * (4 if part == EGO4D else 16) // (3 if part == EGO4D else 9)
    shade = np.linspace(0.85, 1.05, FRAME_HEIGHT)[:, None, None] * np.array(table)
    canvas = np.ascontiguousarray(np.broadcast_to(shade, (FRAME_HEIGHT, width, 3)), dtype=np.float64)
    canvas += generator.normal(0, 3, canvas.shape)
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    scale = np.tile(np.array([width, FRAME_HEIGHT]) / np.array(scene.size), 2)
    boxes = [np.array(entity.box) * scale for entity in scene.entities]
    for entity, box in zip(scene.entities, boxes, strict=True):
        if entity.is_hand:
            _arm(picture, box, _SLEEVES[entity.name])
    for entity, box in zip(scene.entities, boxes, strict=True):
        _SHAPES[entity.name](picture, box, _COLOURS[entity.name])
    return picture


def _fixed(x: float, y: float) -> tuple[int, int]:
    return round(x * (1 << _SUBPIXEL)), round(y * (1 << _SUBPIXEL))


def _arm(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    middle, bottom = (box[0] + box[2]) / 2, picture.shape[0]
    thick = max(2, round((box[2] - box[0]) * 0.45))
    start, end = _fixed(middle, box[3]), _fixed(middle, bottom)
    cv2.line(picture, start, end, colour, thick, cv2.LINE_AA, _SUBPIXEL)


def _ellipse(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int = -1) -> None:
    centre = _fixed((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    axes = _fixed((box[2] - box[0]) / 2, (box[3] - box[1]) / 2)
    cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, thickness, cv2.LINE_AA, _SUBPIXEL)


def _rectangle(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    cv2.rectangle(picture, _fixed(box[0], box[1]), _fixed(box[2], box[3]), colour, -1, cv2.LINE_AA, _SUBPIXEL)


def _polygon(*corners: tuple[float, float]) -> Shape:
    def draw(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
        sides = box[2] - box[0], box[3] - box[1]
        points = np.array([_fixed(box[0] + x * sides[0], box[1] + y * sides[1]) for x, y in corners], dtype=np.int32)
        cv2.fillPoly(picture, [points], colour, cv2.LINE_AA, _SUBPIXEL)

    return draw


def _hand(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    palm = np.array([box[0], box[1] + 0.4 * (box[3] - box[1]), box[2], box[3]])
    _ellipse(picture, palm, colour)
    for place in (0.15, 0.4, 0.65, 0.9):
        x = box[0] + place * (box[2] - box[0])
        cv2.line(picture, _fixed(x, box[1]), _fixed(x, palm[3] - 3), colour, 2, cv2.LINE_AA, _SUBPIXEL)


def _ring(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    _ellipse(picture, box, colour)
    inner = np.array([0.75 * box[:2] + 0.25 * box[2:], 0.25 * box[:2] + 0.75 * box[2:]]).reshape(4)
    _ellipse(picture, inner, (210, 210, 205))


_SHAPES: dict[str, Shape] = {
    "left hand": _hand, "right hand": _hand, "cup": _polygon((0, 0), (1, 0), (0.8, 1), (0.2, 1)), "plate": _ring,
    "carrot": _polygon((0, 0), (1, 0.1), (0.5, 1)), "chopping board": _rectangle,
}  # fmt: skip
