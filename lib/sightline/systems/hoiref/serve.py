"""The demo page: a picture, five tasks, a brush, answers as they are written, and their boxes on the picture.

It answers on loopback alone unless asked otherwise, and neither page nor server asks anything of another host.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from sightline.config.plan import RoomPlan
from sightline.errors import InputError, SightlineError
from sightline.systems.hoiref.chat import Drawing
from sightline.systems.hoiref.grounding import TASK_PROMPTS
from sightline.systems.hoiref.model.quantised import check_quantisation
from sightline.systems.hoiref.opening import Device, chosen_device, open_asker, variant_files
from sightline.systems.hoiref.page import PRECISIONS, TASKS, Desk, error_html, precision_of, retagged

log = logging.getLogger(__name__)
TITLE = "Hands and objects in an egocentric picture"
_STYLE = Path(__file__).with_name("page.css")
_KEPT_S = 3600
"""Seconds after which an idle visitor's conversation and uploads are forgotten."""


def make_desk(
    plan: RoomPlan,
    variant: str,
    *,
    results: str | Path = "results",
    device: Device = "auto",
    precision: str | None = None,
) -> Desk:
    """Loads a variant for the page.

    Args:
        plan: The configuration as the room sees it.
        variant: Name of the variant in the card.
        results: The workflow's folder of results.
        device: `auto` takes a GPU if there is one.
        precision: One of `PRECISIONS`; the variant's own when None.

    Raises:
        DeviceError: 8 bits were asked for and cannot run here.
    """
    settings, _ = variant_files(plan, variant, results)
    place = chosen_device(device)

    def refuse(wanted: str) -> None:
        if PRECISIONS[wanted]["quantisation"] != "none":
            check_quantisation(place)

    return Desk(
        lambda wanted: open_asker(plan, variant, results=results, device=device, **PRECISIONS[wanted]),
        refuse,
        precision or precision_of(settings),
    )


def serve(desk: Desk, *, host: str = "127.0.0.1", port: int = 7860, block: bool = True) -> str:
    """Opens the page.

    Args:
        desk: What answers.
        host: Address to listen on; any but loopback lets others in, without a password.
        port: Port; 0 takes a free one.
        block: Stay until interrupted.

    Returns:
        The page's address.

    Raises:
        InputError: gradio is not installed, or the port is taken.
    """
    page = build_page(desk)
    if not _is_loopback(host):
        log.warning("everybody who reaches %s can use this page: it has no password", host)
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port or _free_port(host), share=False, prevent_thread_lock=True, quiet=True,
            ssr_mode=False, footer_links=[], max_file_size="30mb", inbrowser=False, theme=_theme(),
            css=_STYLE.read_text(encoding="utf-8"), run_history=False, enable_monitoring=False,
        )  # fmt: skip
    except OSError as error:
        raise InputError(str(error), field="port", mend="choose another --port") from None
    log.info("the page is at %s", address)
    if block:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    return str(address)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def _gradio() -> Any:
    try:
        return import_module("gradio")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError(
            "gradio is not installed", field="serve", mend="run `make env`, which installs envs/page.txt"
        ) from None


def _theme() -> Any:
    """Returns a look whose letters are the visitor's own: the usual one fetches them from elsewhere."""
    fonts = ["system-ui", "sans-serif"]
    return _gradio().themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])


def build_page(desk: Desk) -> Any:
    """Returns the page as a `gradio.Blocks` that sends no usage data.

    Raises:
        InputError: gradio is not installed.
    """
    gr = _gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_KEPT_S, _KEPT_S), fill_width=True) as page:
        gr.HTML(f"<h1>{TITLE}</h1>")
        session = gr.State(None, time_to_live=_KEPT_S)
        with gr.Row(equal_height=False):
            with gr.Column():
                parts = _left(gr, desk)
            with gr.Column():
                drawn = gr.Image(
                    show_label=False,
                    interactive=False,
                    format="png",
                    elem_id="boxes",
                    buttons=["download"],
                    placeholder="Boxes appear here.",
                )
                talk = gr.HTML(transcript_start(), elem_id="talk", max_height=600, autoscroll=True)
                status = gr.HTML("", elem_id="status")
        _wire(desk, gr, parts, (talk, drawn, status, session))
    return page


def transcript_start() -> str:
    """Returns what stands where the conversation will be."""
    return '<div class="talk"><p class="status">Upload a picture, choose a task, ask.</p></div>'


def _left(gr: Any, desk: Desk) -> dict[str, Any]:
    """Lays out what the visitor gives."""
    parts = {
        "picture": gr.ImageEditor(
            label="Picture; brush over what [identify] shall name", type="numpy", image_mode="RGBA", format="png",
            sources=["upload", "clipboard"], transforms=(), layers=False, eraser=gr.Eraser(), elem_id="picture",
            brush=gr.Brush(colors=["#ff0000"], color_mode="fixed"), buttons=[], height=420,
        ),
        "task": gr.Radio(list(TASKS), value=TASKS[1], label="Task", elem_id="task"),
        "question": gr.Textbox(TASK_PROMPTS[1], label="Question", lines=1, max_lines=4, elem_id="question"),
    }  # fmt: skip
    with gr.Row():
        parts["ask"] = gr.Button("Ask", variant="primary", elem_id="ask")
        parts["stop"] = gr.Button("Stop", elem_id="stop")
        parts["new"] = gr.Button("New talk", elem_id="new")
    usual = Drawing()
    with gr.Accordion("How the answer is drawn", open=False, elem_id="drawing"):
        with gr.Row():
            parts["temperature"] = gr.Slider(
                0, 1.5, usual.temperature, step=0.1, label="Temperature", info="0: the likeliest word, always"
            )
            parts["penalty"] = gr.Slider(1, 2, usual.repetition_penalty, step=0.05, label="Repetition penalty")
        with gr.Row():
            parts["longest"] = gr.Slider(1, usual.max_new_tokens, usual.max_new_tokens, step=1, label="Longest answer")
            parts["seed"] = gr.Number(usual.seed, precision=0, label="Seed")
    parts["precision"] = gr.Radio(list(PRECISIONS), value=desk.precision, label="Precision", elem_id="precision")
    return parts


def _wire(desk: Desk, gr: Any, parts: dict[str, Any], shown: tuple[Any, Any, Any, Any]) -> None:
    """Connects what the visitor does with the desk."""

    def ask(
        edited: Any,
        question: str,
        temperature: float,
        penalty: float,
        longest: int,
        seed: int,
        wanted: str,
        held: Any,
    ) -> Iterator[tuple[Any, ...]]:
        yield gr.skip(), gr.skip(), '<p class="status">looking …</p>', gr.skip()
        turns = len(held.talk.turns) if held is not None else 0
        try:
            drawing = Drawing(
                temperature, repetition_penalty=penalty, max_new_tokens=int(longest), seed=int(seed or 0) + turns
            )
            for one in desk.answer(edited, question, drawing, wanted, held):
                yield one.transcript, gr.skip() if one.picture is None else one.picture, one.status, one.session
        except SightlineError as error:
            log.info("refused: %s", error)
            yield gr.skip(), gr.skip(), error_html(error), gr.skip()

    names = ("picture", "question", "temperature", "penalty", "longest", "seed", "precision")
    given = [*(parts[name] for name in names), shown[3]]
    running = gr.on(
        [parts["ask"].click, parts["question"].submit], ask, given, list(shown), show_progress="hidden",
        concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
    quiet = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    parts["stop"].click(lambda: '<p class="status">stopped</p>', None, shown[2], cancels=[running], **quiet)
    parts["new"].click(lambda: (transcript_start(), None, "", None), None, list(shown), cancels=[running], **quiet)
    parts["task"].change(
        lambda task, text: retagged(text, task), [parts["task"], parts["question"]], parts["question"], **quiet
    )
    parts["precision"].input(
        lambda wanted: (desk.precision if (line := desk.refusal(wanted)) else wanted, line),
        parts["precision"], [parts["precision"], shown[2]], **quiet,
    )  # fmt: skip
