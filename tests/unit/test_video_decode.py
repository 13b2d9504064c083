"""Videos are decoded completely, with OpenCV's pixels, or refused with the reason."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from sightline.errors import InputError, VideoError
from sightline.records.files import sha256_file
from sightline.video.decode import iter_frames, probe_video, scan_video
from sightline.video.frames import FramePolicy, VideoSource, index_dataset, read_index, write_index
from sightline.video.info import VideoInfo
from sightline.video.sampling import frames_at_rate, read_timestamps, seconds_from_ns

FRAMES = 60
SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:duration=2"]
H264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "20", "-pix_fmt", "yuv420p"]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def remux_turned(source: Path, target: Path, degrees: int) -> None:
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Odd videos, generated once."""
    place = tmp_path_factory.mktemp("videos")
    plain = place / "plain.mp4"
    ffmpeg(*SOURCE, *H264, plain)
    ffmpeg("-i", plain, "-c", "copy", "-movflags", "faststart", place / "faststart.mp4")
    ffmpeg(*SOURCE, *H264, "-pix_fmt", "yuvj420p", place / "full_range.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=75x51:rate=30:duration=1", "-c:v", "mpeg4", place / "odd.avi")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=50x34:rate=30:duration=1", *H264, place / "narrow.mp4")
    ffmpeg(*SOURCE, *H264, "-pix_fmt", "yuv444p", place / "wide_chroma.mp4")
    ffmpeg("-i", plain, "-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "200k", place / "vp9.webm")
    ffmpeg("-i", plain, "-c:v", "libvpx-vp9", "-cpu-used", "8", "-live", "1", "-f", "webm", place / "bare.webm")
    ffmpeg(*SOURCE, *H264, "-pix_fmt", "yuv420p10le", place / "ten_bit.mp4")
    ffmpeg(*SOURCE, *H264, "-flags", "+ilme+ildct", "-x264opts", "tff=1", place / "interlaced.mp4")
    variable = "select='not(mod(n,3))+not(mod(n,7))'"
    ffmpeg(*SOURCE, "-vf", variable, "-fps_mode", "vfr", *H264, place / "variable.mp4")
    ffmpeg("-ss", "0.9", "-i", plain, "-c", "copy", place / "cut.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", place / "audio.mp4")
    for degrees in (90, 180, 270):
        remux_turned(plain, place / f"turn{degrees}.mp4", degrees)
    return place


def opencv_frames(path: Path, *, upright: bool = False) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, int(upright))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def ffprobe_frames(path: Path) -> int:
    command = [
        "ffprobe", "-v", "quiet", "-count_frames", "-select_streams", "v:0",
        "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(path),
    ]  # fmt: skip
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split(",")[0])


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


WHOLE = (
    "plain.mp4 faststart.mp4 full_range.mp4 odd.avi narrow.mp4 wide_chroma.mp4 vp9.webm bare.webm "
    "variable.mp4 cut.mp4 turn90.mp4"
)


@pytest.mark.parametrize("name", WHOLE.split())
def test_pixels_and_count_are_opencvs(folder, name):
    path = folder / name
    found = list(iter_frames(path))
    assert [index for index, _ in found] == list(range(len(found)))
    assert same([picture for _, picture in found], opencv_frames(path))
    assert probe_video(path).frames == len(found) == ffprobe_frames(path)
    assert probe_video(path, full_decode=False).frames == len(found)


@pytest.mark.parametrize("name", ["plain.mp4", "full_range.mp4", "odd.avi", "narrow.mp4", "wide_chroma.mp4"])
def test_a_fourth_channel_changes_no_pixel(folder, name):
    for (_, three), (_, four) in zip(iter_frames(folder / name), iter_frames(folder / name, alpha=True), strict=True):
        assert four.shape == (*three.shape[:2], 4)
        assert np.array_equal(four[:, :, :3], three)
        assert four[:, :, 3].min() == 255


def test_only_wanted_frames_come_and_decoding_stops_there(folder):
    path = folder / "plain.mp4"
    everything = [picture for _, picture in iter_frames(path)]
    wanted = [0, 1, 7, 30, FRAMES - 1]
    found = list(iter_frames(path, wanted, threads=2))
    assert [index for index, _ in found] == wanted
    assert same([picture for _, picture in found], [everything[index] for index in wanted])
    assert list(iter_frames(path, [])) == []
    for wrong in ([3, 3], [5, 2], [-1, 2]):
        with pytest.raises(ValueError, match="ascending"):
            list(iter_frames(path, wrong))
    with pytest.raises(VideoError, match=f"{FRAMES} frames decoded, frame {FRAMES} wanted"):
        list(iter_frames(path, [FRAMES]))


@pytest.mark.parametrize("expected", [FRAMES - 1, FRAMES + 1])
def test_a_count_that_differs_from_the_expected_one_is_an_error(folder, expected):
    with pytest.raises(VideoError, match=f"{FRAMES} frames decoded, {expected} expected"):
        list(iter_frames(folder / "plain.mp4", [3], expected=expected))
    assert len(list(iter_frames(folder / "plain.mp4", [3], expected=FRAMES))) == 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_display_rotation_is_told_and_applied_only_when_asked(folder, degrees):
    path = folder / f"turn{degrees}.mp4"
    info = probe_video(path)
    capture = cv2.VideoCapture(str(path))
    assert info.rotation == int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360 != 0
    assert (info.width, info.height) == (96, 64)
    stored = [picture for _, picture in iter_frames(path)]
    assert same(stored, [picture for _, picture in iter_frames(folder / "plain.mp4")])
    upright = [picture for _, picture in iter_frames(path, apply_rotation=True)]
    assert same(upright, opencv_frames(path, upright=True))


def test_what_a_file_holds(folder):
    info, times = scan_video(folder / "plain.mp4")
    assert (info.codec, info.pix_fmt, info.bit_depth, info.rotation) == ("h264", "yuv420p", 8, 0)
    assert (info.frames, info.header_frames, info.avg_fps) == (FRAMES, FRAMES, 30.0)
    np.testing.assert_allclose(times, np.arange(FRAMES) / 30, atol=1e-9)
    assert info.duration_s == pytest.approx(2.0)
    assert (info.first_pts_s, info.last_pts_s) == (times[0], times[-1])
    assert not info.is_variable_rate
    assert not probe_video(folder / "vp9.webm").is_variable_rate  # its clock only ticks in milliseconds
    assert probe_video(folder / "variable.mp4").is_variable_rate
    assert VideoInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    with pytest.raises(InputError):
        VideoInfo.from_json({"name": "x"})


def test_webm_without_a_frame_count(folder):
    for name in ("vp9.webm", "bare.webm"):
        info = probe_video(folder / name)
        assert (info.header_frames, info.frames) == (None, FRAMES)


def test_frames_hidden_by_an_edit_list_are_not_missed(folder):
    info = probe_video(folder / "cut.mp4")
    assert info.frames == info.header_frames < FRAMES


def test_more_than_eight_bits_must_be_declared(folder):
    path = folder / "ten_bit.mp4"
    with pytest.raises(VideoError, match=r"ten_bit.mp4.*10 bits.*declare"):
        probe_video(path)
    with pytest.raises(VideoError, match="10 bits"):
        next(iter_frames(path, [3]))
    assert probe_video(path, allow_high_bit_depth=True).bit_depth == 10
    found = list(iter_frames(path, allow_high_bit_depth=True))
    plain = list(iter_frames(folder / "plain.mp4"))
    assert len(found) == FRAMES
    difference = found[5][1].astype(int) - plain[5][1].astype(int)
    assert found[5][1].dtype == np.uint8
    assert abs(difference.mean()) < 1
    assert np.abs(difference).mean() < 12  # chroma of thin stripes is interpolated in one and not in the other


def broken(folder: Path, tmp_path: Path, kind: str) -> Path:
    """Writes a damaged copy and returns its path."""
    path = tmp_path / f"{kind}.mp4"
    source = {"cut_fast": "faststart.mp4", "cut_webm": "vp9.webm"}.get(kind, "plain.mp4")
    data = bytearray((folder / source).read_bytes())
    if kind.startswith("cut"):
        data = data[: len(data) // 2]
    elif kind == "corrupt":
        start = data.find(b"mdat") + 4 + (data.find(b"moov") - data.find(b"mdat")) // 2
        data[start : start + 400] = bytes(byte ^ 0x5A for byte in data[start : start + 400])
    elif kind == "empty":
        data = bytearray()
    elif kind == "text":
        data = bytearray(b"not a video\n" * 100)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut_end", "cannot be opened"),
        ("cut_fast", f"{FRAMES}"),
        ("cut_webm", "the header says 2.00 s"),
        ("corrupt", "damaged|breaks after"),
        ("empty", "cannot be opened"),
        ("text", "cannot be opened"),
    ],
)
def test_broken_files_are_refused_by_name(folder, tmp_path, kind, words):
    path = broken(folder, tmp_path, kind)
    for read in (probe_video, lambda file: list(iter_frames(file))):
        with pytest.raises(VideoError, match=words) as caught:
            read(path)
        assert path.name in str(caught.value)
        assert "again" in caught.value.mend


def test_files_without_pictures(folder, tmp_path):
    with pytest.raises(VideoError, match="no video stream, only audio"):
        probe_video(folder / "audio.mp4")
    with pytest.raises(VideoError, match="interlaced"):
        probe_video(folder / "interlaced.mp4")
    with pytest.raises(VideoError, match="file not found"):
        probe_video(tmp_path / "absent.mp4")
    no_frames = tmp_path / "no_frames.mp4"
    ffmpeg(*SOURCE, *H264, "-t", "0", no_frames)
    with pytest.raises(VideoError, match=r"no_frames.mp4"):
        probe_video(no_frames)


def naive_frames_at_rate(times: list[float], fps: float) -> list[int]:
    """The rule of the extraction script, frame by frame."""
    taken, following = [], 0.0
    for index, time in enumerate(times):
        if time - times[0] >= following:
            taken.append(index)
            following += 1 / fps
    return taken


def test_sampling_on_real_time():
    assert frames_at_rate(np.arange(30) / 30, 16.0).tolist()[:5] == [0, 2, 4, 6, 8]
    assert frames_at_rate(np.arange(12) / 12.0, 16.0).tolist() == list(range(12))  # below the rate: every frame
    stall = np.concatenate([np.arange(10) / 30, 2 + np.arange(60) / 30])
    taken = frames_at_rate(stall, 16.0)
    assert set(range(10, 40)) <= set(taken.tolist())  # after a stall, one after the other
    rng = np.random.default_rng(3)
    for rate in (11.0, 24.0, 30.0, 60.0):
        times = 1.7e9 + np.cumsum(rng.uniform(0.5, 1.5, 200) / rate)
        assert frames_at_rate(times, 16.0).tolist() == naive_frames_at_rate(times.tolist(), 16.0)
    assert frames_at_rate(np.zeros(0), 16.0).tolist() == []
    with pytest.raises(ValueError, match="fps"):
        frames_at_rate(np.zeros(3), 0)


def test_seconds_are_those_of_the_scalar_formula():
    stamps = 1.7e18 + np.cumsum(np.random.default_rng(4).uniform(2e7, 5e7, 500))
    plain = [int(ns / 1e9) + (ns / 1e9) % 1 + 28800.0 for ns in stamps.tolist()]
    assert seconds_from_ns(stamps, 28800.0).tolist() == plain


def test_timestamps_that_are_no_numbers(tmp_path):
    path = tmp_path / "t.npy"
    for values in (np.array([1.0, np.nan]), np.zeros((2, 2)), np.zeros(0), np.array(["a"])):
        np.save(path, values)
        with pytest.raises(InputError, match=r"t.npy"):
            read_timestamps(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"t.npy"):
        read_timestamps(path)
    with pytest.raises(InputError, match="not found"):
        read_timestamps(tmp_path / "absent.npy")


def dataset(folder: Path, tmp_path: Path) -> list[VideoSource]:
    good, short = tmp_path / "good.npy", tmp_path / "short.npy"
    np.save(good, 1.7e18 + np.arange(FRAMES) / 30 * 1e9)
    np.save(short, 1.7e18 + np.arange(FRAMES - 3) / 30 * 1e9)
    return [
        VideoSource("c", folder / "plain.mp4", "v/plain.mp4", good),
        VideoSource("b", folder / "plain.mp4", "v/plain.mp4", short),
        VideoSource("a", folder / "faststart.mp4", "v/faststart.mp4"),
        VideoSource("e", broken(folder, tmp_path, "cut_fast"), "v/cut_fast.mp4", good),
        VideoSource("d", tmp_path / "absent.mp4", "v/absent.mp4", good),
        VideoSource("f", folder / "plain.mp4", "v/plain.mp4", tmp_path / "no.npy"),
    ]


def test_the_index_of_a_dataset(folder, tmp_path):
    videos = dataset(folder, tmp_path)
    seen = []
    target = tmp_path / "index.jsonl"
    policy = FramePolicy(fps=16.0)
    rows = index_dataset(videos, target, policy, workers=2, progress=lambda *at: seen.append(at))
    assert seen == [(k, len(videos)) for k in range(1, len(videos) + 1)]
    found = {row.video_id: row for row in rows}
    assert list(found) == ["a", "b", "c", "d", "e", "f"]
    assert [found[name].status for name in found] == ["ok", "failed", "ok", "failed", "failed", "failed"]
    assert f"{FRAMES} frames decoded, but {FRAMES - 3} timestamps in short.npy" in found["b"].reason
    assert "not found" in found["d"].reason
    assert "no.npy" in found["f"].reason
    assert str(tmp_path) not in target.read_text()
    assert found["c"].used == frames_at_rate(np.arange(FRAMES) / 30, 16.0).tolist()
    assert found["c"].sha256 == sha256_file(folder / "plain.mp4")
    assert found["c"].timestamps_sha256 == sha256_file(tmp_path / "good.npy")
    assert (found["a"].timestamps, found["c"].timestamps, found["b"].timestamps) == (None, FRAMES, FRAMES - 3)
    assert VideoInfo.from_json(found["a"].info).frames == FRAMES
    assert read_index(target) == rows
    again = tmp_path / "again.jsonl"
    write_index(again, reversed(rows))
    assert again.read_bytes() == target.read_bytes()


def test_an_index_that_cannot_be(folder, tmp_path):
    twice = [VideoSource("a", folder / "plain.mp4", "x"), VideoSource("a", folder / "odd.avi", "y")]
    with pytest.raises(InputError, match=r"item a: also the id of .*plain.mp4"):
        index_dataset(twice, tmp_path / "i.jsonl", FramePolicy())
    (tmp_path / "bad.jsonl").write_text('{"video_id": "a"}\n')
    with pytest.raises(InputError, match="line 1 is not a row"):
        read_index(tmp_path / "bad.jsonl")


def given_videos() -> list:
    folder = os.environ.get("SIGHTLINE_VIDEOS")
    endings = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".ts", ".flv"}
    files = sorted(Path(folder).iterdir()) if folder else []
    return [pytest.param(path, id=path.name) for path in files if path.suffix.lower() in endings]


def outcome(path: Path) -> tuple[VideoInfo | None, VideoError | None]:
    try:
        return probe_video(path), None
    except VideoError as error:
        return None, error


GIVEN = given_videos()
if GIVEN:  # without a folder there is no such test, rather than a skipped one

    @pytest.mark.parametrize("path", GIVEN)
    def test_given_videos_give_all_their_frames_or_a_refusal(path):
        info, error = outcome(path)
        if error is not None:
            assert path.name in str(error)
            assert error.mend
            with pytest.raises(VideoError):
                list(iter_frames(path))
        else:
            assert info.frames == ffprobe_frames(path)
            assert same([picture for _, picture in iter_frames(path)], opencv_frames(path))
