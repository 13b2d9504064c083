"""Frames of real files, and what the tiles cost beside the original's way."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sightline.errors import InputError, VideoError
from sightline.systems.videosavi.frames import MEAN, STD, count_frames, normalise, read_tiles, tile_frames
from sightline.systems.videosavi.segments import PROFILES, FrameProfile, frame_lines, indices_inside, segment_indices
from sightline.video.tiles import choose_grid


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def source(seconds: int, rate: str = "30", size: str = "96x64") -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


@pytest.mark.parametrize(
    ("name", "rate", "extra", "frames", "fps"),
    [
        # Counts and rates that decord 0.6.0 gives for files made by these very commands.
        ("plain.mp4", "30", [], 60, 30.0),
        ("ntsc.mp4", "30000/1001", [], 60, 30000 / 1001),
        ("plain.webm", "24", ["-c:v", "libvpx"], 48, 24.0),
        ("odd.mkv", "12.5", [], 25, 12.5),
    ],
)
def test_count_and_rate_are_decords(tmp_path, name, rate, extra, frames, fps):
    ffmpeg(*source(2, rate), *extra, tmp_path / name)
    found = count_frames(tmp_path / name)
    assert (found.packets, found.shown, found.fps) == (frames, frames, fps)


def test_frames_hidden_by_an_edit_list_are_counted_apart(tmp_path):
    ffmpeg(*source(2), "-g", "30", tmp_path / "whole.mp4")
    ffmpeg("-ss", "0.5", "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    found = count_frames(tmp_path / "cut.mp4")
    assert found.packets > found.shown > 0
    assert max(read_tiles(tmp_path / "cut.mp4", PROFILES["eval"]).indices) < found.shown


def test_a_file_whose_best_track_is_not_its_first_is_refused(tmp_path):
    both = ["-map", "0", "-map", "1", "-disposition:v:0", "0", "-disposition:v:1", "default"]
    ffmpeg(*source(1, size="64x48"), *source(1, size="320x240"), *both, tmp_path / "two.mkv")
    with pytest.raises(VideoError, match="best video track is number 1"):
        count_frames(tmp_path / "two.mkv")


def test_a_text_file_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        read_tiles(tmp_path / "a.mp4", PROFILES["eval"])


def test_short_videos_repeat_frames_and_bounds_choose_them(tmp_path):
    ffmpeg(*source(1, "4"), tmp_path / "short.mp4")
    profile = FrameProfile("test", segments=6, max_tiles=2, size=28)
    found = read_tiles(tmp_path / "short.mp4", profile)
    assert found.indices == segment_indices(4, 4.0, 6)
    assert found.tiles_per_frame == [3] * 6  # 96 x 64 is nearer to 2:1 by the tie rule, and has a thumbnail
    assert found.tiles.shape == (18, 3, 28, 28)
    first, second = (index for index in range(1, 6) if found.indices[index] == found.indices[index - 1]), 3
    repeated = next(first)
    assert np.array_equal(
        found.tiles[second * repeated : second * repeated + 3], found.tiles[second * repeated - 3 : second * repeated]
    )
    assert read_tiles(tmp_path / "short.mp4", profile, (0.5, 0.5)).indices == [2] * 6


def test_a_bound_behind_the_end_is_moved_inside_and_said(caplog):
    indices = segment_indices(10, 10.0, 4, (5.0, 6.0))
    assert max(indices) > 9
    assert set(indices_inside(indices, 10, video="v.mp4")) == {9}
    assert "v.mp4" in caplog.text
    assert "outside" in caplog.text


@pytest.mark.parametrize(("n_frames", "segments"), [(0, 8), (10, 0)])
def test_nothing_to_sample(n_frames, segments):
    with pytest.raises(InputError, match="segments"):
        segment_indices(n_frames, 30.0, segments)


def as_the_original(frames: np.ndarray, profile: FrameProfile) -> torch.Tensor:
    """Pillow crops, each resized again, made float32 and normalised one by one."""
    found, side = [], profile.size
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for frame in frames:
        image = Image.fromarray(frame)
        grid = choose_grid(*image.size, max_tiles=profile.max_tiles, size=side)
        whole = image.resize(grid.target_size)
        tiles = [whole.crop(box) for box in grid.boxes()] + ([image.resize((side, side))] if grid.thumbnail else [])
        for tile in tiles:
            array = np.asarray(tile.resize((side, side), Image.Resampling.BICUBIC))
            found.append((torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255 - mean) / std)
    return torch.stack(found)


@pytest.mark.parametrize("size", [(36, 64), (64, 36), (50, 50)])
def test_tiles_are_the_originals_in_a_quarter_of_the_bytes(size):
    frames = np.random.default_rng(3).integers(0, 256, (3, *size, 3), np.uint8)
    profile = FrameProfile("test", segments=3, max_tiles=6, size=28)
    wanted, found = as_the_original(frames, profile), tile_frames(frames, profile)
    assert torch.equal(normalise(found.tiles), wanted)
    assert found.tiles.nbytes * 4 == wanted.numel() * wanted.element_size()


def test_tiles_that_are_no_bytes_are_refused():
    with pytest.raises(InputError, match="uint8"):
        normalise(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match="uint8"):
        tile_frames(np.zeros((1, 4, 4, 3), np.float32), PROFILES["eval"])


def test_lines_before_a_question():
    assert frame_lines(2) == "Frame1: <image>\nFrame2: <image>\n"
