"""What was being done at the time of each observed frame: the labels of the past that S-GEAR's loss reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sightline.systems.sgear.annotations import Segment

Overlap = Literal["published", "nearest"]


class PastLabels:
    """Segments of each video as arrays, looked up without scanning the table.

    Args:
        segments: Rows kept after `drop_style`; the original looks among these alone.
        overlap: Which of several running segments counts. `published`: the least |t - half its duration|, an
            oversight of the original that training was done with; `nearest`: the least |t - its middle|. Of
            equal ones the first row.
    """

    def __init__(self, segments: Sequence[Segment], *, overlap: Overlap = "published") -> None:
        rows: dict[str, list[Segment]] = {}
        for segment in segments:
            rows.setdefault(segment.video_id, []).append(segment)
        self._videos = {
            video: (
                np.array([row.action_start for row in found]),
                np.array([row.action_end for row in found]),
                np.array([row.action for row in found], np.int64),
            )
            for video, found in rows.items()
        }
        self._overlap = overlap

    def at(self, video_id: str, times: np.ndarray) -> np.ndarray:
        """Returns the class at each time, int64 [T]; -1 where no segment runs.

        Args:
            video_id: Video without suffix.
            times: float32 [T], seconds.
        """
        times = np.asarray(times, np.float64)[:, None]
        if video_id not in self._videos:
            return np.full(len(times), -1, np.int64)
        starts, ends, actions = self._videos[video_id]
        runs = (starts <= times) & (times <= ends)
        centre = (ends - starts) / 2 if self._overlap == "published" else (starts + ends) / 2
        chosen = np.where(runs, np.abs(times - centre), np.inf).argmin(axis=1)
        return np.where(runs.any(axis=1), actions[chosen], -1)


def past_labels(lookup: PastLabels, video_ids: Sequence[str], times: np.ndarray) -> np.ndarray:
    """Returns the class at each frame slot of a batch, int64 [B, T]; -1 where no segment runs.

    Args:
        lookup: Segments of the dataset.
        video_ids: Video of each sample [B].
        times: float32 [B, T], `FrameWindow.times`.
    """
    return np.stack([lookup.at(video, row) for video, row in zip(video_ids, times, strict=True)])
