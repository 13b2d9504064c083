"""Drawn figures and encoded videos."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from sightline.errors import InputError
from sightline.systems.fitcoach.demo_motion import standing
from sightline.video.render import Camera, FigureStyle, draw_figure, paint_room, write_mp4

STYLE = FigureStyle(skin=(150, 185, 225), shirt=(20, 20, 220), trousers=(220, 20, 20))
FRONT = Camera(yaw=0.0, pitch=0.15, pixels_per_metre=90.0, origin=(80.0, 230.0))


def _moving_boxes(count: int) -> list[np.ndarray]:
    frames = []
    for index in range(count):
        frame = paint_room(48, 64, (200, 190, 180), (110, 150, 180))
        frame[10:30, 2 * index : 2 * index + 12] = (30, 60, 200)
        frames.append(frame)
    return frames


def _decode(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.to_ndarray(format="bgr24") for frame in frames], [float(frame.time) for frame in frames]


def test_camera_projects_to_known_pixels() -> None:
    points = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    level = Camera(yaw=0.0, pitch=0.0, pixels_per_metre=100.0, origin=(50.0, 200.0))
    pixels, nearness = level.project(points)
    assert pixels.tolist() == [[50, 200], [150, 200], [50, 100], [50, 200]]
    assert nearness.tolist() == [0, 0, 0, 1]
    side, _ = Camera(math.pi / 2, 0.0, 100.0, (50.0, 200.0), aim=(0.0, 1.0)).project(points)
    assert np.allclose(side, [[-50, 200], [-50, 200], [-50, 100], [50, 200]])
    tilted, _ = Camera(0.0, 0.3, 100.0, (50.0, 200.0)).project(points)
    assert tilted[3, 1] > 200, "a nearer point of the floor is lower in the picture"


def test_figure_has_its_parts_where_they_belong() -> None:
    room = paint_room(256, 160, (205, 200, 190), (120, 160, 190))
    picture = room.copy()
    draw_figure(picture, standing(), FRONT, STYLE)
    changed = (picture != room).any(axis=2)
    rows = np.flatnonzero(changed.any(axis=1))
    assert 60 < rows[0] < 90
    assert 230 < rows[-1] < 245
    colours = picture.astype(int)
    shirt = changed & (colours[..., 2] > 150) & (colours[..., 0] < 60)
    trousers = changed & (colours[..., 0] > 150) & (colours[..., 2] < 60)
    assert shirt.sum() > 500
    assert trousers.sum() > 500
    assert np.nonzero(shirt)[0].mean() < np.nonzero(trousers)[0].mean()
    assert len(np.unique(picture[shirt], axis=0)) > 3, "edges are anti-aliased"


def test_figure_turns_with_the_camera() -> None:
    pictures = []
    for yaw in (0.0, math.pi / 2):
        picture = paint_room(256, 160, (205, 200, 190), (120, 160, 190))
        room = picture.copy()
        draw_figure(picture, standing(), Camera(yaw, 0.1, 90.0, (80.0, 230.0)), STYLE)
        pictures.append((picture != room).any(axis=2))
    front, side = (np.ptp(np.nonzero(mask[120:160])[1]) for mask in pictures)
    assert side < 0.75 * front


def test_missing_joint_is_named() -> None:
    pose = standing()
    del pose["knee_l"]
    with pytest.raises(InputError, match="knee_l"):
        draw_figure(np.zeros((8, 8, 3), np.uint8), pose, FRONT, STYLE)


def test_mp4_holds_the_frames_at_their_times(tmp_path: Path) -> None:
    frames = _moving_boxes(24)
    assert write_mp4(tmp_path / "a.mp4", iter(frames), 30) == 24
    decoded, times = _decode(tmp_path / "a.mp4")
    assert len(decoded) == 24
    assert times == pytest.approx([index / 30 for index in range(24)], abs=1e-3)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, frames, strict=True)) < 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)


def test_mp4_bytes_are_reproducible(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, _moving_boxes(20), 30)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    "frames",
    [[], [np.zeros((15, 16, 3), np.uint8)], [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)]],
    ids=["none", "odd", "changing"],
)
def test_bad_frames_leave_no_file(tmp_path: Path, frames: list[np.ndarray]) -> None:
    with pytest.raises(InputError):
        write_mp4(tmp_path / "a.mp4", frames, 30)
    assert list(tmp_path.iterdir()) == []
