"""Draws one demo workout: the mp4, its time stamps and its record, as in QEVD-FIT-COACH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sightline.records.files import whole_file
from sightline.systems.fitcoach.annotations import CLOCK_OFFSET_S
from sightline.systems.fitcoach.demo_plan import Workout
from sightline.video.render import Camera, FigureStyle, draw_figure, paint_room, write_mp4

NOMINAL_FPS = 30
LAST_ROTATED_NUMBER = 145
"""Videos up to this number are stored lying on their left side (original feature extraction script)."""

_UNIX_START = 1_707_400_000
_HEIGHT, _WIDTH = 640, 360
_PIXELS_PER_METRE = 208.0
_FLOOR_ROW, _HORIZON_ROW = 500.0, 455.0  # of the 640 rows: where the figure stands, where the wall ends
# The extraction pads a rotated video to a square and cuts an upright one to its middle 504 rows: an upright
# one is drawn smaller, so that the network sees figures of one size.
_UPRIGHT_SCALE = 504 / 640
_UPRIGHT_TOP = 68.0
_SHIRT, _TROUSERS, _SKIN = (60, 90, 200), (120, 70, 50), (150, 185, 225)
_WALL, _FLOOR = (205, 200, 190), (120, 160, 190)


def write_workout(split_folder: str | Path, workout: Workout, seed: int) -> dict[str, Any]:
    """Writes `long_range_videos/NNNN.mp4` and `NNNN_timestamps.npy` and returns the record of the json.

    Args:
        split_folder: Folder of the split, such as `QEVD-FIT-COACH`.
        workout: What happens.
        seed: Decides colours, frame times and scale, together with the workout's number.

    Returns:
        Record with the five fields of `feedbacks_long_range.json`.
    """
    generator = np.random.default_rng([seed, 4, workout.number])
    times = _frame_times(generator, workout.duration)
    nanoseconds = (_UNIX_START + 86_400.0 * workout.number + times) * 1e9
    name = f"{workout.number:04d}"
    folder = Path(split_folder) / "long_range_videos"
    write_mp4(folder / f"{name}.mp4", _frames(generator, workout, times), NOMINAL_FPS)
    with whole_file(folder / f"{name}_timestamps.npy") as temporary, open(temporary, "wb") as stream:
        np.save(stream, nanoseconds, allow_pickle=False)
    shown = [""] * len(times)
    for feedback in workout.feedbacks:
        first, last = np.searchsorted(times, [feedback.start, feedback.start + feedback.shown])
        shown[first:last] = [feedback.text] * int(last - first)
    begin = float(nanoseconds[0] / 1e9) + CLOCK_OFFSET_S
    return {
        "long_range_video_file": f"./long_range_videos/{name}.mp4",
        "video_timestamps": f"./long_range_videos/{name}_timestamps.npy",
        "feedbacks": shown,
        "feedback_timestamps": [begin + feedback.start for feedback in workout.feedbacks],
        "is_transition": [feedback.transition for feedback in workout.feedbacks],
    }


def _frame_times(generator: np.random.Generator, duration: float) -> np.ndarray:
    """Returns float64 seconds from the first frame; recorders deliver 27 to 29 frames a second, unevenly."""
    fps = generator.uniform(27.0, 29.0)
    steps = generator.uniform(0.88, 1.12, int(duration * fps)) / fps
    times = np.concatenate([[0.0], np.cumsum(steps)])
    return times[times <= duration]


def _frames(generator: np.random.Generator, workout: Workout, times: np.ndarray) -> Iterator[np.ndarray]:
    """Yields uint8 BGR pictures as stored: [360, 640, 3] lying for low numbers, [640, 360, 3] upright else."""

    def near(colour: tuple[int, int, int]) -> tuple[int, int, int]:
        blue, green, red = (int(channel + generator.integers(-2, 3)) for channel in colour)
        return blue, green, red

    style = FigureStyle(skin=near(_SKIN), shirt=near(_SHIRT), trousers=near(_TROUSERS))
    rotated = workout.number <= LAST_ROTATED_NUMBER
    shrink, top = (1.0, 0.0) if rotated else (_UPRIGHT_SCALE, _UPRIGHT_TOP)
    horizon = (top + shrink * (_HORIZON_ROW + generator.uniform(-2, 2))) / _HEIGHT
    room = paint_room(_HEIGHT, _WIDTH, near(_WALL), near(_FLOOR), horizon)
    scale = shrink * _PIXELS_PER_METRE * generator.uniform(0.99, 1.01)
    origin = (_WIDTH / 2 + generator.uniform(-2, 2), top + shrink * (_FLOOR_ROW + generator.uniform(-2, 2)))
    for time in times:
        pose, yaw, aim = workout.scene(float(time))
        picture = room.copy()
        draw_figure(picture, pose, Camera(yaw, 0.16, scale, origin, aim), style)
        if rotated:
            picture = cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE)
        yield picture
