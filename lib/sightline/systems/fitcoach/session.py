"""Watching one video from its first frame to its last: features and decisions step by step.

Frames are decoded, made ready and given to the 3D CNN as `extract.extract_video` does; each feature step goes
to the streaming loop as it comes (`live.LiveStream`). A file is read through once before anything is said, so
that a damaged one is refused and not coached in part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sightline.errors import NonFiniteError, VideoError
from sightline.llm.tokens import TextTokenizer
from sightline.systems.fitcoach.extract import Cnn, iter_features
from sightline.systems.fitcoach.live import LiveStream
from sightline.systems.fitcoach.model import FRAMES_PER_STEP
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm
from sightline.systems.fitcoach.pictures import ExtractorSettings, is_rotated, qevd_seconds
from sightline.systems.fitcoach.predict import episode_seed
from sightline.systems.fitcoach.stream import ActionTokens, Bias, StreamSettings, extract_feedbacks
from sightline.video.captions import Caption, timed_captions
from sightline.video.decode import scan_video
from sightline.video.sampling import frames_at_rate, read_timestamps


@dataclass(frozen=True)
class CoachedVideo:
    """A video that was read through and found sound.

    Attributes:
        path: The file.
        times_s: float64 [frames], seconds on a clock of its own: of the file, or of the `<name>_timestamps.npy`
            that QEVD keeps beside its videos.
        turned: Whether the pictures lie on their side, as QEVD stores those of low number.
        steps: Feature steps it gives.
    """

    path: Path
    times_s: np.ndarray
    turned: bool
    steps: int

    @property
    def seconds(self) -> float:
        """Time from the first frame to the last."""
        return float(self.times_s[-1] - self.times_s[0])


def open_video(path: str | Path, extractor: ExtractorSettings) -> CoachedVideo:
    """Reads a video through.

    Raises:
        VideoError: It is broken, cannot be decoded as it is, or is too short for one feature step.
        InputError: Its file of timestamps is damaged.
    """
    path = Path(path)
    info, times = scan_video(path, allow_high_bit_depth=extractor.allow_high_bit_depth)
    stamps = path.with_name(f"{path.stem}_timestamps.npy")
    if stamps.is_file():
        times = qevd_seconds(read_timestamps(stamps))
        if len(times) != info.frames:
            raise VideoError(
                f"{info.frames} frames decoded, but {len(times)} timestamps in {stamps.name}",
                file=path, mend="fetch both again; they must belong together, or move the timestamps away",
            )  # fmt: skip
    used = len(frames_at_rate(times, extractor.fps))
    if used < FRAMES_PER_STEP:
        raise VideoError(
            f"{used} of its {info.frames} frames are used, at least {FRAMES_PER_STEP} are needed",
            file=path, mend="give a longer video",
        )  # fmt: skip
    turned = stamps.is_file() and is_rotated(path.stem, extractor)
    return CoachedVideo(path, times, turned, used // FRAMES_PER_STEP)


@dataclass(frozen=True)
class Said:
    """One feedback.

    Attributes:
        text: What was said.
        time: Seconds on the benchmark's clock, which adds the time of speaking and may begin below 0.
        video_s: Seconds from the first frame to the newest one seen when it began.
    """

    text: str
    time: float
    video_s: float


@dataclass
class Session:
    """What one video came to; filled while it is watched.

    Attributes:
        video: The video.
        prompt: What the model was told first.
        said: Feedbacks so far.
        tokens: Prompt and generated ids so far.
        step_times_s: Seconds from the first frame, per feature step.
        cnn_s: Seconds spent per feature step on frames and the CNN.
        model_s: Seconds spent per feature step on the language model.
        warnings: As of `Coaching`.
        near_ties: As of `Coaching`.
    """

    video: CoachedVideo
    prompt: str
    said: list[Said] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    step_times_s: list[float] = field(default_factory=list)
    cnn_s: list[float] = field(default_factory=list)
    model_s: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    near_ties: int = 0

    def captions(self) -> list[Caption]:
        """Returns when each feedback is shown."""
        return timed_captions([(one.video_s, one.text) for one in self.said])

    def latency_ms(self) -> dict[str, dict[str, float]]:
        """Returns median and 95th percentile per feature step: of the whole, the CNN and the language model."""
        parts = {"step": np.add(self.cnn_s, self.model_s), "cnn": self.cnn_s, "language_model": self.model_s}
        return {
            name: {
                "median": round(1000 * float(np.median(values)), 3),
                "p95": round(1000 * float(np.percentile(values, 95)), 3),
            }
            for name, values in parts.items()
            if len(values)
        }


@dataclass(frozen=True)
class Coach:
    """Stream-VLM and its 3D CNN, ready for one video after another."""

    model: StreamVlm
    tokenizer: TextTokenizer
    stream: StreamSettings
    cnn: Cnn
    extractor: ExtractorSettings
    device: str

    def watch(self, session: Session, bias: Bias | None = None) -> Iterator[Said]:
        """Watches a session's video and yields each feedback as soon as it is complete.

        Args:
            session: Filled on the way.
            bias: For tests; see `StreamRequest`.

        Raises:
            NonFiniteError: A feature or a logit is NaN or infinite.
        """
        video = session.video
        actions = ActionTokens(*(self.tokenizer.token_id(token) for token in SPECIAL_TOKENS))
        prompt = self.tokenizer.encode(session.prompt + SPECIAL_TOKENS[0])
        seed = episode_seed(self.stream.seed, video.path.stem)
        live = LiveStream(self.model, prompt, self.stream, actions, steps=video.steps, seed=seed, bias=bias)
        steps = iter_features(video.path, video.times_s, self.extractor, self.cnn, self.device, rotate=video.turned)
        with closing(steps):
            while True:
                began = time.perf_counter()
                step = next(steps, None)
                if step is None:
                    break
                session.step_times_s.append(step[1] - float(video.times_s[0]))
                arrived = time.perf_counter()
                new = live.push(step[0])
                session.cnn_s.append(arrived - began)
                session.model_s.append(time.perf_counter() - arrived)
                session.tokens = list(live.tokens)
                if actions.end in new:
                    yield from self._news(session, live, actions)
        self._end(session, live)

    def _news(self, session: Session, live: LiveStream, actions: ActionTokens) -> list[Said]:
        """Adds the feedbacks that are new to the session and returns them."""
        texts, times = extract_feedbacks(
            live.tokens,
            self.tokenizer,
            actions,
            feats_frequency=self.stream.feats_frequency,
            inference_speed=self.stream.inference_speed,
        )
        begins = _begins(live.tokens, actions, self.tokenizer)
        last = len(session.step_times_s) - 1
        known = len(session.said)
        seen = [session.step_times_s[min(max(live.seen[place], 0), last)] for place in begins[known:]]
        session.said += [Said(*row) for row in zip(texts[known:], times[known:], seen, strict=True)]
        return session.said[known:]

    def _end(self, session: Session, live: LiveStream) -> None:
        result = live.result()
        if result.failure:
            raise NonFiniteError(
                "a logit is NaN or infinite", file=session.video.path,
                mend="check the weights, or use dtype float32",
            )  # fmt: skip
        session.warnings, session.near_ties = result.warnings, result.near_ties


def _begins(tokens: list[int], actions: ActionTokens, tokenizer: TextTokenizer) -> list[int]:
    """Returns where each feedback that `extract_feedbacks` keeps begins."""
    first = tokens.index(actions.vision)
    begins = [place for place, token in enumerate(tokens) if token == actions.answer and place > first]
    ends = [place for place, token in enumerate(tokens) if token == actions.end and place > first]
    return [begin for begin, end in zip(begins, ends, strict=False) if tokenizer.decode(tokens[begin + 1 : end])]
