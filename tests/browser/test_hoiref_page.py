"""The demo page as a visitor has it: upload, ask, see a box, in Chromium, with a model that really computes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sightline.systems.hoiref.grounding import corners, drawn_size

from tests.browser.conftest import LOOPBACK
from tests.browser.taught import CUP

SIZE = (640, 480)
STATUS = "#status .html-container"
"""Says something else after every question."""


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "cup.png"
    drawn = Image.new("RGB", SIZE, (120, 90, 60))
    ImageDraw.Draw(drawn).rectangle((128, 144, 384, 336), fill=(90, 90, 140))
    drawn.save(path)
    return path


def upload(page: Any, picture: Path) -> None:
    page.set_input_files("#picture input[type=file]", picture)
    page.wait_for_selector("#picture [aria-label='Brush Size']")  # the editor has it


def ask(page: Any, question: str, *, drawn: bool = True) -> str:
    """Asks and returns what the status line says at the end."""
    before = page.inner_text(STATUS)
    page.fill("#question textarea", question)
    page.click("#ask")
    page.wait_for_function(
        """([place, before]) => {
            const now = document.querySelector(place).innerText;
            return now !== before && /question \\d+: |->/.test(now) && !document.querySelector('#talk .pen');
        }""",
        arg=[STATUS, before],
    )
    if drawn:
        page.wait_for_selector("#boxes img")
    return str(page.inner_text(STATUS))


def likeliest(page: Any) -> None:
    """Sets temperature 0 and no penalty: the answers taught are then those given."""
    page.click("#drawing button")
    for number, value in ((0, "0"), (1, "1")):
        page.locator("#drawing input[type=number]").nth(number).fill(value)
        page.keyboard.press("Tab")


def pixels(page: Any) -> np.ndarray:
    """Returns the picture with boxes, as the page got it."""
    answer = page.request.get(page.get_attribute("#boxes img", "src"))
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))


def frame_colours(shown: np.ndarray, box: tuple[int, int, int, int]) -> set[tuple[int, ...]]:
    """Returns the colours at the middles of a box's four sides."""
    x1, y1, x2, y2 = corners(box, drawn_size(*SIZE))
    middle_x, middle_y = (x1 + x2) // 2, (y1 + y2) // 2
    spots = ((y1, middle_x), (y2, middle_x), (middle_y, x1), (middle_y, x2))
    return {tuple(int(part) for part in shown[spot]) for spot in spots}


def test_upload_ask_see_a_box_and_ask_again(page: Any, picture: Path, outside: list[Any]) -> None:
    upload(page, picture)
    likeliest(page)
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
            const said = document.querySelector('#talk .said'); if (said) window.seen.add(said.innerText);
        }).observe(document.querySelector('#talk'), {childList: true, subtree: true, characterData: true}); }"""
    )
    assert "1 box" in ask(page, "[refer] cup")
    assert page.inner_text("#talk .said") == CUP
    written = page.evaluate("[...window.seen]")
    assert len(written) > 2, "the answer came at once"
    assert all(CUP.startswith(part.strip()) for part in written)
    assert pixels(page).shape == (drawn_size(*SIZE)[1], drawn_size(*SIZE)[0], 3)
    assert frame_colours(pixels(page), (20, 30, 60, 70)) == {(255, 0, 0)}

    ask(page, "[vqa] Which hand?")
    assert page.locator("#talk .asked").all_inner_texts() == ["[refer] cup", "[vqa] Which hand?"]
    page.click("#new")
    page.wait_for_selector("#talk .asked", state="detached")
    assert "no box" in ask(page, "[vqa] Which hand?")
    assert page.inner_text("#talk .said").strip() == "the left one"

    assert {urlsplit(url).hostname for url in page.asked if url.startswith("http")} <= LOOPBACK
    assert outside == []
    assert page.troubles == []


def test_phrases_have_the_colours_of_their_boxes(page: Any, picture: Path) -> None:
    upload(page, picture)
    likeliest(page)
    page.click("#task label:has-text('grounding')")
    page.wait_for_function("document.querySelector('#question textarea').value.startsWith('[grounding] Desc')")
    assert "3 boxes" in ask(page, page.input_value("#question textarea"))
    spans = page.locator("#talk .phrases span")
    assert [text.strip() for text in spans.all_inner_texts()] == ["A person", "two cans"]
    colours = [
        tuple(map(int, re.findall(r"\d+", spans.nth(number).evaluate("span => getComputedStyle(span).color"))))
        for number in range(2)
    ]
    shown = pixels(page)
    assert frame_colours(shown, (5, 10, 95, 90)) == {colours[0]}
    assert frame_colours(shown, (10, 20, 30, 50)) == frame_colours(shown, (60, 20, 80, 50)) == {colours[1]}


def test_the_brush_says_what_to_identify(page: Any, picture: Path) -> None:
    upload(page, picture)
    page.click("#task label:has-text('identify')")
    page.wait_for_function("document.querySelector('#question textarea').value.startsWith('[identify]')")
    assert "nothing is marked" in ask(page, "[identify] what is this ", drawn=False)
    page.locator("#picture canvas").first.scroll_into_view_if_needed()
    canvas = page.locator("#picture canvas").first.bounding_box()
    middle = (canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 45, steps=12)
    page.mouse.up()
    page.wait_for_timeout(500)
    ask(page, "[identify] what is this ")
    asked = page.inner_text("#talk .asked")
    found = re.fullmatch(r"\[identify\] what is this \{<(\d+)><(\d+)><(\d+)><(\d+)>\}", asked)
    assert found, asked
    left, top, right, bottom = map(int, found.groups())
    assert 25 < left < right < 90
    assert 25 < top < bottom < 90


def test_nothing_written_becomes_part_of_the_page(page: Any, picture: Path) -> None:
    upload(page, picture)
    likeliest(page)
    ask(page, f"[identify] what is this {CUP}")
    assert "<b>bold</b> &" in page.inner_text("#talk .said")
    nasty = "[vqa] <img src=x onerror='window.broken=1'> ${1+1} {{value}} *a*"
    ask(page, nasty)
    assert page.locator("#talk .asked").all_inner_texts()[-1] == nasty
    assert page.locator("#talk .said b, #talk .asked img").count() == 0
    assert page.evaluate("window.broken") is None


def test_what_cannot_be_asked_is_said_in_a_line(page: Any, picture: Path) -> None:
    assert "there is no picture" in ask(page, "[refer] cup", drawn=False)
    upload(page, picture)
    assert "there is no question" in ask(page, " ", drawn=False)
    page.click("#precision label:has-text('8-bit')")
    page.wait_for_function("document.querySelector('#status').innerText.includes('bitsandbytes is not installed')")
    page.wait_for_selector("#precision label.selected:has-text('32-bit')")
    ask(page, "[refer] cup")
