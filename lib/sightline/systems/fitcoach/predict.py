"""A block of episodes in, what the coach says in each of them out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from sightline.llm.tokens import TextTokenizer
from sightline.records.types import Prediction, Sample
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.stream import (
    ActionTokens,
    StreamRequest,
    StreamResult,
    StreamSettings,
    extract_feedbacks,
    stream,
)
from sightline.systems.fitcoach.windows import WindowedRequest, stream_windows

__all__ = ["Predictor", "ReadFeatures", "StreamSettings", "episode_seed"]

ReadFeatures = Callable[[str, slice], np.ndarray]
"""Feature key and rows to feature maps, floating [T, C, H, W]."""


def episode_seed(seed: int, sample_id: str) -> int:
    """Returns the seed of one sample's draws, a function of the run's seed and the id alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()[:8], "big")


class Predictor:
    """Runs Stream-VLM over blocks of samples.

    What comes out depends on the block alone. A smaller `batch_limit` cuts a block into smaller batches;
    tokens stay the same but for near-ties, which are counted.
    """

    def __init__(
        self,
        model: StreamVlm,
        tokenizer: TextTokenizer,
        settings: StreamSettings,
        read_features: ReadFeatures,
    ) -> None:
        self.batch_limit = settings.batch_limit
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._read_features = read_features
        self._actions = ActionTokens(*(tokenizer.token_id(token) for token in SPECIAL_TOKENS))

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers one block, in its order.

        A sample whose features have the wrong shape or hold NaN, or whose logits do, is `failed` with a
        reason; the others are computed. A damaged store is raised: it is mended, not scored. Running out of
        device memory is raised, so that the caller can lower `batch_limit` and call again.

        Raises:
            InputError: A payload is malformed.
            StoreError: Features cannot be read.
        """
        requests: dict[str, StreamRequest] = {}
        workouts: dict[str, WindowedRequest] = {}
        answers: dict[str, Prediction] = {}
        for sample in samples:
            episode = Episode.from_json(sample.payload, item=sample.id)
            if episode.segments:
                workouts[sample.id] = self._prepare_windows(sample, episode)
                continue
            prepared = self._prepare(sample, episode)
            if isinstance(prepared, str):
                answers[sample.id] = Prediction(id=sample.id, status="failed", reason=prepared)
            else:
                requests[sample.id] = prepared
        for batch in self._batches(requests):
            results = stream(self._model, [requests[name] for name in batch], self._settings, self._actions)
            answers |= {name: self._answer(name, result) for name, result in zip(batch, results, strict=True)}
        for batch in self._cut(sorted(workouts, key=lambda name: -len(workouts[name].windows))):
            asked = [workouts[name] for name in batch]
            results = stream_windows(self._model, asked, self._settings, self._actions, self._tokenizer)
            answers |= {name: self._answer(name, result) for name, result in zip(batch, results, strict=True)}
        return [answers[sample.id] for sample in samples]

    def _prepare(self, sample: Sample, episode: Episode) -> StreamRequest | str:
        """Returns the request of a sample, or why it fails."""
        features = self._features(episode, slice(episode.first_row, episode.stop_row))
        if isinstance(features, str):
            return features
        prompt = self._tokenizer.encode(episode.prompt + SPECIAL_TOKENS[0])
        return StreamRequest(prompt, features, seed=episode_seed(self._settings.seed, sample.id))

    def _prepare_windows(self, sample: Sample, episode: Episode) -> WindowedRequest:
        """Returns the request of a workout in windows; features are read window by window."""
        return WindowedRequest(
            system=episode.prompt,
            windows=[(segment.first_row, segment.stop_row) for segment in episode.segments],
            read=lambda rows: self._features(episode, rows),
            seed=episode_seed(self._settings.seed, sample.id),
        )

    def _features(self, episode: Episode, rows: slice) -> np.ndarray | str:
        """Returns feature maps of an episode, or why they cannot be used."""
        features = self._read_features(episode.feature_key, rows)
        expected = rows.stop - rows.start
        if features.ndim != 4 or len(features) != expected or features.shape[1] != self._model.config.vision_dim:
            return (
                f"features have shape {list(features.shape)}, expected "
                f"[{expected}, {self._model.config.vision_dim}, height, width]"
            )
        return features if np.isfinite(features).all() else "non_finite"

    def _batches(self, requests: dict[str, StreamRequest]) -> list[list[str]]:
        """Cuts a block into batches of one map shape, episodes of like length together."""
        kinds: dict[tuple[int, ...], list[str]] = {}
        for name, request in requests.items():
            kinds.setdefault(request.features.shape[1:], []).append(name)
        return [
            batch
            for names in kinds.values()
            for batch in self._cut(sorted(names, key=lambda name: -len(requests[name].features)))
        ]

    def _cut(self, names: list[str]) -> list[list[str]]:
        limit = self.batch_limit
        return [names[start : start + limit] for start in range(0, len(names), limit)]

    def _answer(self, sample_id: str, result: StreamResult) -> Prediction:
        seed = episode_seed(self._settings.seed, sample_id) if self._settings.do_sample else None
        if result.failure:
            return Prediction(id=sample_id, status="failed", reason=result.failure, seed=seed)
        texts, times = extract_feedbacks(
            result.tokens,
            self._tokenizer,
            self._actions,
            feats_frequency=self._settings.feats_frequency,
            inference_speed=self._settings.inference_speed,
        )
        said = Coaching(
            feedbacks=texts,
            times=times,
            tokens=result.tokens,
            warnings=result.warnings,
            near_ties=result.near_ties,
        )
        return Prediction(id=sample_id, status="ok", output=said.to_json(), seed=seed)
