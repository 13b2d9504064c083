"""The streaming loop fed frame by frame, as they come: the same decisions as `stream.stream`, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sightline.systems.fitcoach.model.stream_vlm import Frames, StreamVlm
from sightline.systems.fitcoach.stream import (
    ActionTokens,
    Bias,
    StreamRequest,
    StreamResult,
    StreamRow,
    StreamSettings,
    advance,
)


class LiveStream:
    """One episode whose end is not known yet.

    The loop never reads an episode's last frame, so what is decided at a frame is known when the next one
    arrives, a feature step (a quarter of a second) later. Batch and live runs therefore have the same tokens
    wherever the two best logits differ by more than `NEAR_TIE_MARGIN`.
    """

    def __init__(
        self,
        model: StreamVlm,
        prompt_ids: Sequence[int],
        settings: StreamSettings,
        actions: ActionTokens,
        *,
        steps: int,
        seed: int = 0,
        bias: Bias | None = None,
    ) -> None:
        """Starts an episode.

        Args:
            model: Loaded Stream-VLM.
            prompt_ids: Ids of the prompt; the last one is `<vision>`.
            settings: The loop.
            actions: Ids of the three tokens.
            steps: Feature steps expected; more may come.
            seed: Of the draws.
            bias: As of `StreamRequest`.
        """
        self._model, self._steps = model, max(steps, 1)
        request = StreamRequest(prompt_ids, np.zeros((0, 0, 0, 0), np.float32), seed, bias)
        self._row = StreamRow(request, settings, actions, model.config.max_positions)
        self._cache = model.new_cache(1, len(prompt_ids) + 2 * self._steps)
        self._frames: Frames = {}

    @property
    def tokens(self) -> list[int]:
        """Prompt and tokens so far."""
        return self._row.result.tokens

    @property
    def seen(self) -> list[int]:
        """Per token the newest frame when it was decided."""
        return self._row.result.seen

    @property
    def is_over(self) -> bool:
        """Says whether nothing more will be decided: the token limit was met, or a logit was not finite."""
        return bool(self._row.result.failure) or self._row.generated >= self._row.cap

    @torch.inference_mode()
    def push(self, feature: np.ndarray) -> list[int]:
        """Takes the next feature map, floating [C, H, W], and returns the tokens decided now."""
        if self.is_over:
            return []
        before = len(self.tokens)
        self._keep(feature)
        self._row.total += 1
        while not self._row.done:
            advance(self._model, [self._row], self._frames, self._cache)
        return self.tokens[before:]

    def _keep(self, feature: np.ndarray) -> None:
        """Projects a feature map into the tables that the cross-attention reads."""
        place = self._row.total
        if place >= self._steps:
            self._steps *= 2
        for layer, pair in self._model.project_frames(torch.from_numpy(feature)[None, None]).items():
            kept = self._frames.get(layer)
            if kept is None or kept[0].shape[1] < self._steps:
                grown = tuple(new.new_zeros(1, self._steps, *new.shape[2:]) for new in pair)
                for table, old in zip(grown, kept or (), strict=False):
                    table[:, : old.shape[1]] = old
                self._frames[layer] = kept = (grown[0], grown[1])
            for table, new in zip(kept, pair, strict=True):
                table[:, place] = new[:, 0]

    def result(self) -> StreamResult:
        """Ends the episode."""
        return self._row.finish()
