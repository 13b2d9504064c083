"""Sliding windows: a workout watched in stretches, each with the stretch before it as context.

Two forms of that context, named by `StreamSettings.window_context`:

`fixed` (default) carries the past on. A window's prompt is the system prompt and the tokens of the window
before, by id; each past `<vision>` token reads its own feature map again. The stream goes on where it
stopped, so every feature step is read by exactly one `<vision>` token, and the concatenated tokens keep
the video's time. Speaking that runs past a window's end (`realtime`) goes on in the next. If the token
limit cuts a window, its unfinished feedback is left out and the frames not reached pass in silence.

`published` is the code of the fork that introduced the mode: the past tokens are decoded and encoded
again, all their `<vision>` tokens read the new window's first frame, and the state is reset. The last
frame of each window is never read, so the clock loses a feature step per window, and a step on the border
of two windows is watched twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sightline.llm.tokens import TextTokenizer
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm
from sightline.systems.fitcoach.stream import (
    ActionTokens,
    Bias,
    StreamRequest,
    StreamResult,
    StreamSettings,
    stream,
)


@dataclass(frozen=True)
class WindowedRequest:
    """One workout.

    Attributes:
        system: Text of the system prompt.
        windows: Rows of the feature array, half-open, one range per window.
        read: Rows to feature maps, floating [T, C, H, W]; or why they cannot be had.
        seed: Of the draws; window k draws with `seed` + k.
        biases: For tests: the bias of each window.
    """

    system: str
    windows: Sequence[tuple[int, int]]
    read: Callable[[slice], np.ndarray | str]
    seed: int = 0
    biases: Sequence[Bias] | None = None


@dataclass
class _Progress:
    """A workout between two windows.

    Attributes:
        context: Tokens of the window before; in the fixed form those that the next prompt holds.
        context_frames: Frame of each, counted in `maps`.
        maps: Feature maps of the windows the context comes from; None before the first.
        known: Feature entries in reach, counted in `maps`, the zero step included.
        stop_row: Row after the last one watched.
    """

    request: WindowedRequest
    result: StreamResult | None = None
    failure: str = ""
    context: list[int] = field(default_factory=list)
    context_frames: list[int] = field(default_factory=list)
    maps: np.ndarray | None = None
    known: int = 2
    stop_row: int = 0


def stream_windows(
    model: StreamVlm,
    requests: Sequence[WindowedRequest],
    settings: StreamSettings,
    actions: ActionTokens,
    tokenizer: TextTokenizer,
) -> list[StreamResult]:
    """Runs workouts window by window, the k-th windows of all of them as one batch.

    Args:
        model: Loaded Stream-VLM.
        requests: Workouts; where their feature maps differ in shape, each shape is a batch of its own.
        settings: The loop; `batch_limit` is the caller's business.
        actions: Ids of the three tokens.
        tokenizer: The checkpoint's tokenizer.

    Returns:
        Per workout the tokens of all windows in a row: the first with its prompt, the others without. A
        workout whose features cannot be read, or whose logits are not finite, has a `failure`.
    """
    runs = [_Progress(request) for request in requests]
    for number in range(max((len(run.request.windows) for run in runs), default=0)):
        open_runs = [run for run in runs if number < len(run.request.windows) and not run.failure]
        batches: dict[tuple[int, ...], list[tuple[_Progress, StreamRequest]]] = {}
        for run in open_runs:
            asked = _ask(run, number, settings, actions, tokenizer)
            if asked is not None:
                batches.setdefault(asked.features.shape[1:], []).append((run, asked))
        for batch in batches.values():
            results = stream(model, [asked for _, asked in batch], settings, actions)
            for (run, asked), result in zip(batch, results, strict=True):
                _take(run, number, asked, result, settings, actions)
    return [_finished(run) for run in runs]


def _ask(
    run: _Progress, number: int, settings: StreamSettings, actions: ActionTokens, tokenizer: TextTokenizer
) -> StreamRequest | None:
    """Returns the request of one window; None if its features cannot be had."""
    first, stop = run.request.windows[number]
    is_fixed = settings.window_context == "fixed"
    if is_fixed:
        first = max(first, run.stop_row)
        stop = max(first, stop)
    run.stop_row = stop
    maps = run.request.read(slice(first, stop))
    if isinstance(maps, str):
        run.failure = maps
        return None
    seed = (run.request.seed + number) % 2**64
    bias = run.request.biases[number] if run.request.biases else None
    first_prompt = tokenizer.encode(run.request.system + SPECIAL_TOKENS[0])
    if number == 0:
        return StreamRequest(first_prompt, maps, seed, bias)
    if is_fixed:
        system = first_prompt[:-1]
        joined = maps if run.maps is None else np.concatenate([run.maps, maps])
        seen = [0] * len(system) + run.context_frames
        return StreamRequest([*system, *run.context], joined, seed, bias, seen, run.known)
    prompt = tokenizer.encode(run.request.system + tokenizer.decode(run.context))
    return StreamRequest(prompt, maps, seed, bias, prompt_frames=[0] * len(prompt))


def _take(
    run: _Progress,
    number: int,
    asked: StreamRequest,
    result: StreamResult,
    settings: StreamSettings,
    actions: ActionTokens,
) -> None:
    """Adds a window's tokens to the workout's and makes them the next window's context."""
    if result.failure:
        run.failure = result.failure
        return
    own = result.prompt_length - 1 if number == 0 else result.prompt_length
    if settings.window_context == "fixed" and result.warnings:
        _complete(result, own, len(asked.features), actions)
    tokens, seen = result.tokens[own:], result.seen[own:]
    _append(run, result)
    if settings.window_context == "published":
        run.context = tokens
        return
    before = 0 if run.maps is None else len(run.maps)
    if tokens:
        run.context, run.context_frames = tokens, [frame - before for frame in seen]
        run.maps, run.known = asked.features[before:], result.known - before
    else:  # all of it passed while speaking
        run.maps, run.known = asked.features, result.known


def _complete(result: StreamResult, own: int, steps: int, actions: ActionTokens) -> None:
    """Ends a window that the token limit cut: no open feedback, and a `<vision>` for each frame not reached."""
    said = result.tokens[own:]
    if actions.answer in said:
        last = len(said) - 1 - said[::-1].index(actions.answer)
        if actions.end not in said[last:]:
            del result.tokens[own + last :], result.seen[own + last :]
    rest = range(result.known - 1, steps)
    result.tokens += [actions.vision] * len(rest)
    result.seen += rest
    result.known = max(result.known, steps + 1)


def _append(run: _Progress, result: StreamResult) -> None:
    if run.result is None:
        run.result = StreamResult(list(result.tokens), result.prompt_length)
    else:
        run.result.tokens += result.tokens[result.prompt_length :]
    whole = run.result
    whole.warnings += [warning for warning in result.warnings if warning not in whole.warnings]
    whole.near_ties += result.near_ties
    whole.passes += result.passes
    whole.raw += result.raw
    whole.margins += result.margins
    whole.frames_given += result.frames_given


def _finished(run: _Progress) -> StreamResult:
    result = run.result or StreamResult([], 0)
    result.failure = run.failure
    return result
