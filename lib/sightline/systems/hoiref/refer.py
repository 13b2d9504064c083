"""One picture, now: a question answered by the code that evaluates datasets, printed, as JSON and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sightline.config.plan import RoomPlan
from sightline.errors import InputError
from sightline.llm.base import Sampling
from sightline.records.files import whole_file, write_json
from sightline.systems.hoiref.boxes import kind_of_answer, parse_boxes, spell_box
from sightline.systems.hoiref.grounding import draw, ground
from sightline.systems.hoiref.opening import Device, open_asker
from sightline.systems.hoiref.pixels import load_rgb

TAGS = ("grounding", "refer", "detection", "identify", "vqa")
_GRID = 100


def asked_text(question: str, task: str | None, box: Sequence[float] | None, size: tuple[int, int]) -> str:
    """Returns what the model is asked: tag, question and box, as far as they are given.

    Args:
        question: May be empty where a box is given.
        task: One of `TAGS`; None asks without a tag, as the published numbers were made.
        box: xyxy in pixels of the picture, put behind the question.
        size: Width and height of the picture.

    Raises:
        InputError: There is nothing to ask, or the box is outside the picture.
    """
    if box is not None:
        x1, y1, x2, y2 = box
        if not (0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]):
            raise InputError(
                f"the box does not lie in a picture of {size[0]}x{size[1]}",
                field="box", mend="give x1 y1 x2 y2 in pixels, the upper left corner first",
            )  # fmt: skip
    parts = [f"[{task}]" if task else "", question.strip(), spell_box(box, size) if box is not None else ""]
    text = " ".join(part for part in parts if part)
    if not question.strip() and box is None and task != "grounding":
        raise InputError("there is no question", field="question", mend='ask for e.g. "Where is the left hand"')
    return text


def refer_image(
    plan: RoomPlan,
    image: Path,
    question: str,
    *,
    variant: str,
    results: Path,
    task: str | None = None,
    box: Sequence[float] | None = None,
    device: Device = "auto",
    json_target: Path | None = None,
    picture_target: Path | None = None,
) -> Iterator[str]:
    """Yields the answer, and one line per box in it in pixels of the picture.

    Args:
        plan: The configuration as the room sees it.
        image: The picture.
        question: The question.
        variant: Which model.
        results: The workflow's folder.
        task: One of `TAGS`, put in front as a tag; None asks without.
        box: xyxy in pixels, put behind the question.
        device: `auto` takes a GPU if there is one.
        json_target: File to write: question, answer and boxes.
        picture_target: File to write: the picture with the answer's boxes.

    Raises:
        InputError: The picture, the question or the variant does not allow it.
        AssetError: Weights are not there; says how to get them.
    """
    pixels = load_rgb(image)
    size = (pixels.shape[1], pixels.shape[0])
    text = asked_text(question, task, box, size)
    asker = open_asker(plan, variant, results=results, device=device)
    longest = plan.plan.card(plan.system).variants[variant].max_new_tokens
    answer = asker.ask([(asker.look(pixels), text)], Sampling(max_new_tokens=longest))[0]
    found = [[value / _GRID * size[place % 2] for place, value in enumerate(one)] for one in parse_boxes(answer.text)]
    yield answer.text
    for x1, y1, x2, y2 in found:
        yield f"box {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f} of {size[0]}x{size[1]}"
    if json_target:
        write_json(json_target, _document(image, variant, text, answer.text, found, size))
    if picture_target:
        _write_picture(pixels, answer.text, picture_target)


def _document(
    image: Path, variant: str, asked: str, said: str, boxes: Sequence[Sequence[float]], size: tuple[int, int]
) -> dict[str, Any]:
    return {
        "image": image.name,
        "variant": variant,
        "width": size[0],
        "height": size[1],
        "asked": asked,
        "answer": said,
        "kind": kind_of_answer(said),
        "boxes": [list(one) for one in boxes],
    }


def _write_picture(pixels: Any, answer: str, target: Path) -> None:
    from PIL import Image

    drawn = draw(pixels, ground(answer))
    with whole_file(target) as temporary:
        Image.fromarray(pixels if drawn is None else drawn).save(temporary, format="PNG")
