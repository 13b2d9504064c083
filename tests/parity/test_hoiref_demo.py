"""Grounded answers, colours, brush marks and prompts against the functions of the released demo."""

from __future__ import annotations

import numpy as np
import pytest
from golden import load_json
from hoiref_data import SYSTEM, arrays
from sightline.systems.hoiref.grounding import (
    COLOURS,
    TASK_PROMPTS,
    colour_hex,
    coloured_html,
    draw,
    ground,
    grounded_pieces,
    mask_box,
)

DEMO = load_json(SYSTEM, "demo", "demo_cases.json") or {}
CASES = list(range(len(DEMO.get("visualize", []))))
MASKS = DEMO.get("mask2bbox", [])
LISTS = pytest.mark.parametrize("demo", [pytest.param(DEMO, id="hoiref-demo")] if DEMO else [])


@pytest.mark.parametrize("number", CASES, ids=lambda number: f"hoiref-answer{number}")
def test_grounded_answers(number):
    case, base = DEMO["visualize"][number], DEMO["base_image"]
    width, height = base["size"]
    pixels = np.broadcast_to(np.array(base["colour"], np.uint8), (height, width, 3)).copy()
    found = ground(case["generation"])
    assert grounded_pieces(found.text) == case["substrings"]
    drawn = draw(pixels, found)
    assert (drawn is not None) == case["has_image"]
    assert coloured_html(found, published=True) == case["colored_html"]
    assert (found.mode or None) == case["mode"]
    if drawn is not None:
        assert [drawn.shape[1], drawn.shape[0]] == case["size"]
    wanted = arrays("demo", "single_box_images.npz").get(f"case{number}")
    if wanted is not None:
        assert (drawn == wanted).all()


@pytest.mark.parametrize("number", range(len(MASKS)), ids=lambda number: f"hoiref-mask{number}")
def test_brush_marks(number):
    case = MASKS[number]
    mask = None
    if "width" in case:
        mask = np.zeros((case["height"], case["width"], 3), np.uint8)
        if case["filled_rect_x0y0x1y1_exclusive"]:
            x0, y0, x1, y1 = case["filled_rect_x0y0x1y1_exclusive"]
            mask[y0:y1, x0:x1] = 255
    assert mask_box(mask) == case["bbox_string"]


@LISTS
def test_colours_and_prompts(demo):
    assert [list(colour) for colour in COLOURS] == demo["colors"]
    assert {str(number): colour_hex(number) for number in range(len(COLOURS))} == demo["color_map"]
    assert list(TASK_PROMPTS) == demo["task_select"]
