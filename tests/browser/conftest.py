"""The demo page in Debian's Chromium, headless: `make test-browser` installs it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from sightline.errors import DeviceError
from sightline.systems.hoiref.page import Desk
from sightline.systems.hoiref.serve import serve

from tests.browser.taught import taught_asker

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="session")
def outside() -> Iterator[list[Any]]:
    """Collects every address off this machine that the server's process connects to."""
    found: list[Any] = []
    plain = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            found.append(address)
        plain(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", watched)
    yield found
    patch.undo()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, outside: list[Any]) -> Iterator[str]:
    """The page's address, with the taught model behind it."""

    def refuse(precision: str) -> None:
        if precision == "8-bit":
            raise DeviceError("bitsandbytes is not installed", field="quantisation", mend="choose 16-bit")

    asker = taught_asker(tmp_path_factory.mktemp("tokenizer"))
    desk = Desk(lambda precision: asker, refuse, "32-bit")
    yield serve(desk, port=0, block=False)
    import gradio

    gradio.close_all()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, as `make test-browser` installs it."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed: run make test-browser"
    with sync_playwright() as play:
        one = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visitor's page; `page.asked` lists every request it made."""
    visitor = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = visitor.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.set_default_timeout(30_000)
    page.goto(address)
    page.wait_for_selector("#ask")
    yield page
    visitor.close()
