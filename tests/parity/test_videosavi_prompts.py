"""Chat prompts against those of the original template."""

from __future__ import annotations

import pytest
from golden import load_json
from sightline.systems.videosavi.prompts import chat_prompt, with_pictures

SYSTEM = "videosavi"
CASES = load_json(SYSTEM, "model", "chat_prompts.json") or []


@pytest.mark.parametrize("number", [pytest.param(n, id=f"{SYSTEM}-{n}") for n in range(len(CASES))])
def test_chat_prompts(number):
    case = CASES[number]
    prompt = chat_prompt(case["messages"])
    assert prompt == case["prompt_before_image"]
    assert with_pictures(prompt, case["num_patches_list"], case["num_image_token"]) == case["prompt"]
